//! Devices: what `devices/*.yaml` says, and what the machine says of itself.

use std::fs;
use std::path::Path;

use lathe_latency::{DeviceFingerprint, RuntimeFingerprint};
use serde::{Deserialize, Serialize};
use sysinfo::System;

use crate::ProfilerError;

/// Taken when the system does not tell the size of its last-level cache.
const DEFAULT_CACHE_BYTES: u64 = 32 << 20;

/// A device as described in `devices/*.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its name.
    pub name: String,
    /// What it is, in a sentence.
    #[serde(default)]
    pub description: String,
    /// How to reach it.
    pub transport: Transport,
    /// Threads inside an operator; all processors when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Processors that measurements are bound to; any when empty.
    #[serde(default)]
    pub affinity: Vec<usize>,
}

/// How to reach a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// This machine.
    Local,
}

impl DeviceSpec {
    /// Reads a device's YAML.
    ///
    /// # Errors
    /// When the file cannot be read or has a wrong field, which is named with its line.
    pub fn load(path: &Path) -> Result<Self, ProfilerError> {
        let text = fs::read_to_string(path).map_err(|source| ProfilerError::Io {
            path: path.to_owned(),
            source,
        })?;
        let format = |message: String| ProfilerError::Format {
            path: path.to_owned(),
            message,
        };
        let spec: Self = serde_yaml::from_str(&text).map_err(|error| format(error.to_string()))?;
        if spec.threads == Some(0) {
            return Err(format("threads: 0, expected at least 1".to_owned()));
        }
        Ok(spec)
    }

    /// Threads inside an operator.
    pub fn threads(&self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let bound = match self.affinity.len() {
            0 => all,
            count => count,
        };
        self.threads.unwrap_or(bound)
    }
}

/// What the agent sets beyond the runtime's defaults.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SESSION_OPTIONS: [(&str, &str); 2] = [
    ("session.force_spinning_stop", "1"),
    ("session.intra_op_thread_affinities", "one processor each"),
];
/// What the agent sets beyond the runtime's defaults.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SESSION_OPTIONS: [(&str, &str); 1] = [("session.force_spinning_stop", "1")];

/// What makes measurements on this machine comparable.
pub fn fingerprint(
    device: &DeviceSpec,
    runtime_build: &str,
) -> (DeviceFingerprint, RuntimeFingerprint) {
    // Where the system does not tell, the fields stay empty, and so they compare equal.
    let (cpu_model, memory_bytes) = match System::new() {
        Ok(mut system) => {
            system.refresh_cpu_all();
            system.refresh_memory();
            let brand = system
                .cpus()
                .first()
                .map(|cpu| cpu.brand().trim().to_owned());
            (brand.unwrap_or_default(), system.total_memory())
        }
        Err(_) => Default::default(),
    };
    let device_fingerprint = DeviceFingerprint {
        name: device.name.clone(),
        cpu_model,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        os: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
        kernel: System::kernel_version().unwrap_or_default(),
        governor: read_trimmed("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        affinity: device.affinity.clone(),
    };
    let runtime = RuntimeFingerprint {
        build: runtime_build.to_owned(),
        execution_provider: "CPUExecutionProvider".to_owned(),
        threads: device.threads(),
        session_options: SESSION_OPTIONS
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    (device_fingerprint, runtime)
}

/// Size of this machine's last-level cache.
pub fn last_level_cache_bytes() -> u64 {
    let levels = (0..5).rev().filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        parse_size(&read_trimmed(&path)?)
    });
    levels.max().unwrap_or(DEFAULT_CACHE_BYTES)
}

/// `32768K` or `32M` in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn read_trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("32768K"), Some(32 << 20));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("many"), None);
    }

    #[test]
    fn wrong_fields_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.yaml");
        for (text, word) in [
            ("name: a\ntransport: local\nthread: 2\n", "thread"),
            ("name: a\ntransport: telnet\n", "telnet"),
            ("name: a\ntransport: local\nthreads: 0\n", "threads"),
        ] {
            fs::write(&path, text).unwrap();
            let message = DeviceSpec::load(&path).unwrap_err().to_string();
            assert!(
                message.contains(word) && message.contains("device.yaml"),
                "{message}"
            );
        }
    }
}
