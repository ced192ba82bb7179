use lathe_agent::{Hello, Inspection};
use lathe_latency::{DeviceFingerprint, RuntimeFingerprint};

use super::{DeviceSpec, ExecutionProvider};

/// Taken when the device does not tell the size of its last-level cache.
const DEFAULT_CACHE_BYTES: u64 = 32 << 20;

/// What the agent sets beyond the runtime's defaults.
const SPINNING: (&str, &str) = ("session.force_spinning_stop", "1");
/// Where another execution provider has threads of its own.
const RESTING: (&str, &str) = ("session.intra_op.allow_spinning", "0");
/// Where threads can be bound.
const BOUND: (&str, &str) = ("session.intra_op_thread_affinities", "one processor each");

/// What makes measurements comparable, as the device itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of the device.
    pub device: DeviceFingerprint,
    /// Of the runtime and its settings.
    pub runtime: RuntimeFingerprint,
}

impl Fingerprints {
    /// Those of a device that was described as `spec`, whose agent said `hello`, and whose state is
    /// `inspection`; `machine_arch` is the architecture that its kernel runs on, where it is known.
    pub(crate) fn new(
        spec: &DeviceSpec,
        hello: &Hello,
        inspection: &Inspection,
        machine_arch: Option<&str>,
    ) -> Self {
        let first = spec.affinity.first().copied().unwrap_or(0);
        let core = inspection.cores.iter().find(|core| core.id == first);
        let binds = matches!(hello.os.as_str(), "linux" | "android");
        let is_cpu = spec.execution_provider == ExecutionProvider::Cpu;
        let options = [
            Some(SPINNING),
            Some(RESTING).filter(|_| !is_cpu),
            Some(BOUND).filter(|_| binds),
        ];
        let options = options.into_iter().flatten();
        Self {
            device: DeviceFingerprint {
                name: spec.name.clone(),
                cpu_model: inspection.cpu_model.clone(),
                cores: hello.processors,
                memory_bytes: inspection.memory_bytes.unwrap_or_default(),
                os: inspection.os.clone(),
                kernel: inspection.kernel.clone(),
                governor: core.and_then(|core| core.governor.clone()),
                affinity: spec.affinity.clone(),
                last_level_cache_bytes: inspection.last_level_cache_bytes,
                emulated: spec.emulated
                    || hello.is_emulated
                    || machine_arch.is_some_and(|machine| !runs_natively(&hello.arch, machine)),
            },
            runtime: RuntimeFingerprint {
                build: hello.runtime_build.clone(),
                execution_provider: spec.execution_provider.runtime_name().to_owned(),
                threads: threads(spec, hello),
                session_options: options
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            },
        }
    }
}

/// Threads inside an operator.
pub(crate) fn threads(spec: &DeviceSpec, hello: &Hello) -> usize {
    let bound = match spec.affinity.len() {
        0 => hello.processors,
        count => count,
    };
    spec.threads.unwrap_or(bound).max(1)
}

/// Whether a processor of `machine` runs programs for `program` itself; both in Rust's names.
pub(crate) fn runs_natively(program: &str, machine: &str) -> bool {
    program == machine || matches!((program, machine), ("x86", "x86_64") | ("arm", "aarch64"))
}

/// Size of a device's last-level cache, or a usual one where it is not told.
pub fn last_level_cache_bytes(inspection: &Inspection) -> u64 {
    let told = inspection.last_level_cache_bytes.filter(|bytes| *bytes > 0);
    told.unwrap_or(DEFAULT_CACHE_BYTES)
}

#[cfg(test)]
mod tests {
    use lathe_agent::Core;

    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: lathe_agent::PROTOCOL_VERSION,
            agent_version: String::new(),
            runtime_build: "build".to_owned(),
            os: "android".to_owned(),
            arch: "aarch64".to_owned(),
            processors: 8,
            is_emulated: false,
        }
    }

    #[test]
    fn the_device_speaks_for_itself() {
        let core = |id: usize, governor: &str| Core {
            id,
            governor: Some(governor.to_owned()),
            ..Core::default()
        };
        let inspection = Inspection {
            cpu_model: "Tensor G3".to_owned(),
            kernel: "5.15".to_owned(),
            cores: vec![core(0, "powersave"), core(4, "sched_pixel")],
            memory_bytes: Some(8 << 30),
            last_level_cache_bytes: Some(8 << 20),
            ..Inspection::default()
        };
        let mut spec = DeviceSpec::local();
        let of = |spec: &DeviceSpec, machine| {
            Fingerprints::new(spec, &hello(), &inspection, Some(machine))
        };
        let found = of(&spec, "aarch64");
        assert_eq!(found.device.cpu_model, "Tensor G3");
        assert_eq!(found.device.governor.as_deref(), Some("powersave"));
        assert_eq!(found.device.last_level_cache_bytes, Some(8 << 20));
        assert_eq!((found.device.cores, found.runtime.threads), (8, 8));
        assert_eq!(found.runtime.session_options.len(), 2);
        assert!(!found.device.emulated && of(&spec, "x86_64").device.emulated);
        spec.affinity = vec![4, 5, 6];
        let bound = of(&spec, "aarch64");
        assert_eq!(bound.runtime.threads, 3);
        assert_eq!(bound.device.governor.as_deref(), Some("sched_pixel"));
        spec.emulated = true;
        assert!(of(&spec, "aarch64").device.emulated);
    }

    #[test]
    fn compatible_programs_are_not_emulated() {
        assert!(runs_natively("arm", "aarch64") && runs_natively("x86", "x86_64"));
        assert!(!runs_natively("aarch64", "arm") && !runs_natively("aarch64", "x86_64"));
        let cache = |bytes| Inspection {
            last_level_cache_bytes: bytes,
            ..Inspection::default()
        };
        assert_eq!(last_level_cache_bytes(&cache(Some(2 << 20))), 2 << 20);
        assert_eq!(last_level_cache_bytes(&cache(None)), 32 << 20);
        assert_eq!(last_level_cache_bytes(&cache(Some(0))), 32 << 20);
    }
}
