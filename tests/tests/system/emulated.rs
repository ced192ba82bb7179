//! The agent for aarch64, built as users build it and run by qemu-user with the aarch64 runtime:
//! the whole way from source to latency table on another architecture. Its timings mean nothing.
//!
//! What is missing is installed through apt where that is allowed (Debian: a compiler with the
//! aarch64 library, a linker, qemu); else the test says why it is skipped, which in CI it must not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lathe_agent::{MeasureJob, OptimizeJob, Pass};
use lathe_arch::SubnetConfig;
use lathe_arch::{BlockShape, HeadConfig, LogitRows, MlpConfig, ModelConfig, Precision};
use lathe_fetch::{Target, runtime_for};
use lathe_latency::{Entry, LatencyTable};
use lathe_onnx::{Network, RandomWeights, write_network};
use lathe_profiler::{Agent, AgentCommand, DeviceSpec, Link, ProfilePlan, ProfileRequest};
use lathe_profiler::{SessionConfig, profile};
use lathe_tests::{cache, xtask};
use tempfile::TempDir;

const TARGET: Target = Target::LinuxAarch64;
/// Where Debian puts the libraries that aarch64 programs run with.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";
/// Debian's own compiler; rustup's may lack the library for aarch64.
const DEBIAN: (&str, &str) = ("/usr/bin/cargo", "/usr/bin/rustc");
/// How the emulated processors call themselves: Cortex-A72.
const PROCESSOR: &str = "BogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n\
     CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n";
/// Their last-level cache, small, so that chains are short.
const CACHE_KB: u64 = 64;

#[test]
fn the_aarch64_agent_makes_a_latency_table() {
    let toolchain = match toolchain() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            assert!(std::env::var_os("CI").is_none(), "not in CI: {reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    let device = Emulated::new(&build(&toolchain));
    let ort_lib = runtime_for(&cache(), TARGET).unwrap();
    let command = Link::new(&device.spec(), false, |_, _, _| ()).agent(&device.program(), &ort_lib);
    let mut agent = Agent::start(&command).unwrap();
    assert_eq!(agent.hello().arch, "aarch64");
    let inspection = agent.inspect().unwrap();
    assert_eq!(inspection.last_level_cache_bytes, Some(CACHE_KB << 10));
    run_network(&mut agent);
    drop(agent);
    let table = device.profile(&command);
    assert_eq!(table.device.name, "emulated");
    assert!(table.device.emulated);
    assert!(table.entries.iter().all(|entry| entry.price_us > 0.0));
    let is_mlp = |entry: &&Entry| matches!(entry.block, BlockShape::Mlp(_));
    assert_eq!(table.entries.iter().filter(is_mlp).count(), 2);
}

/// Has the agent optimise and time a whole network, so that each operator runs once.
fn run_network(agent: &mut Agent) {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    let full = SubnetConfig::full(&model);
    let integers = full.clone().with_precision(Precision::W8A8);
    let subnet = SubnetConfig {
        layers: vec![full.layers[0].clone(), integers.layers[1].clone()],
        ..full
    };
    let weights = RandomWeights {
        model: &model,
        subnet: &subnet,
        seed: 1,
    };
    let network = Network {
        model: &model,
        subnet: &subnet,
        weights: &weights,
        logit_rows: LogitRows::Last,
    };
    write_network(folder.path(), &network).unwrap();
    let (path, out) = (
        folder.path().join("model.onnx"),
        folder.path().join("out.onnx"),
    );
    let session = SessionConfig { threads: 2 };
    let job = OptimizeJob {
        model: path.clone(),
        session,
        out: out.clone(),
    };
    agent.optimize(job).unwrap();
    assert!(out.is_file());
    let pass = |new_tokens, past_tokens| Pass {
        batch: 1,
        new_tokens,
        past_tokens,
        models: vec![0],
        min_turns: 2,
        max_turns: 2,
        budget_us: 1,
    };
    let job = MeasureJob {
        models: vec![path],
        keep: Vec::new(),
        session,
        passes: vec![pass(16, 0), pass(1, 16)],
        vocab_size: model.vocab_size,
        seed: 1,
    };
    let (samples, _) = agent.measure(job).unwrap();
    assert_eq!(samples.len(), 2);
}

/// cargo and rustc with which the agent can be built.
type Toolchain = Option<(PathBuf, PathBuf)>;

/// Sees to it that everything needed is there.
fn toolchain() -> Result<Toolchain, String> {
    let has_library = |rustc: &str| {
        let asked = Command::new(rustc)
            .args(["--print", "target-libdir", "--target", TARGET.triple()])
            .output();
        asked.is_ok_and(|output| {
            let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name());
            output.status.success()
                && names.any(|name| name.to_string_lossy().starts_with("libstd-"))
        })
    };
    let mut packages = Vec::new();
    let mut need = |is_there: bool, package: &'static str| {
        if !is_there {
            packages.push(package);
        }
    };
    let own = has_library("rustc");
    let debian = has_library(DEBIAN.1) && Path::new(DEBIAN.0).is_file();
    if !(own || debian) {
        need(false, "cargo-web");
        need(false, "rustc-web");
        need(false, "libstd-rust-web-dev:arm64");
    }
    need(answers("aarch64-linux-gnu-gcc"), "gcc-aarch64-linux-gnu");
    need(answers("qemu-aarch64"), "qemu-user");
    let library = |name: &str| Path::new(LIBRARIES).join(name).is_file();
    need(library("libc.so"), "libc6-dev-arm64-cross");
    need(library("libstdc++.so.6"), "libstdc++6-arm64-cross");
    if !packages.is_empty() {
        install(&packages)?;
    }
    Ok((!own).then(|| (DEBIAN.0.into(), DEBIAN.1.into())))
}

fn answers(program: &str) -> bool {
    let mut command = Command::new(program);
    let answer = command.arg("--version").stdout(Stdio::null()).status();
    answer.is_ok_and(|status| status.success())
}

fn install(packages: &[&str]) -> Result<(), String> {
    let names = packages.join(" ");
    let script = "set -e; dpkg --add-architecture arm64; apt-get update -qq; \
         DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(packages)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "apt cannot install {names}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("apt cannot install {names}: {error}")),
    }
}

/// The agent, built by the command that users run.
fn build(toolchain: &Toolchain) -> PathBuf {
    let mut command = Command::new(xtask());
    command
        .args(["agent", "--json", "--target", TARGET.triple()])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if let Some((cargo, rustc)) = toolchain {
        command.arg("--cargo").arg(cargo).arg("--rustc").arg(rustc);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let built: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(built["bytes"].as_u64().unwrap() < 2 << 20, "{built}");
    PathBuf::from(built["path"].as_str().unwrap())
}

/// A folder with what a device of that architecture has in `/lib`, `/proc` and `/sys`: qemu looks
/// there before it looks at this machine.
struct Emulated {
    folder: TempDir,
}

impl Emulated {
    fn new(agent: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        };
        let root = path("root");
        fs::create_dir(&root).unwrap();
        symlink(LIBRARIES, root.join("lib")).unwrap();
        let processors = std::thread::available_parallelism().unwrap().get();
        let described = (0..processors).map(|id| format!("processor\t: {id}\n{PROCESSOR}"));
        write("root/proc/cpuinfo", &described.collect::<String>());
        for id in 0..processors {
            let cache = format!("root/sys/devices/system/cpu/cpu{id}/cache/index2");
            write(&format!("{cache}/level"), "2\n");
            write(&format!("{cache}/type"), "Unified\n");
            write(&format!("{cache}/size"), &format!("{CACHE_KB}K\n"));
        }
        // The search path keeps it from libraries of this machine's own packages for arm64, which
        // may be of another version than the loader.
        let text = format!(
            "#!/bin/sh\nexec qemu-aarch64 -L '{}' -E LD_LIBRARY_PATH={LIBRARIES} '{}' \"$@\"\n",
            root.display(),
            agent.display()
        );
        write("lathe-agent", &text);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path("lathe-agent"), mode).unwrap();
        write(
            "device.yaml",
            "name: emulated\ntransport: local\nthreads: 2\n",
        );
        Self { folder }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("lathe-agent")
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::load(&self.folder.path().join("device.yaml")).unwrap()
    }

    /// The shortest profile that has a block in it, as it was written and read again.
    fn profile(&self, agent: &AgentCommand) -> LatencyTable {
        let model = model();
        let blocks = vec![
            BlockShape::Mlp(MlpConfig::full(&model)),
            BlockShape::EmbeddingAndHead(HeadConfig {
                precision: Precision::F32,
                logit_rows: LogitRows::Last,
            }),
        ];
        let plan = ProfilePlan {
            prompts: vec![16],
            depths: vec![0, 16],
            budget_s: 0.0,
            limit_s: 0.0,
            pass_us: 1_000,
            networks: 0,
            last_level_cache_bytes: CACHE_KB << 10,
            ..ProfilePlan::quick(blocks)
        };
        let out = self.folder.path().join("table.yaml");
        let request = ProfileRequest {
            agent,
            model_name: "tiny",
            model: &model,
            conditions: &[],
            plan: &plan,
            out: &out,
            resume: false,
        };
        profile(&request, |_, _| {}).unwrap();
        LatencyTable::load(&out).unwrap()
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 97,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 16,
        max_position_embeddings: 64,
        ..ModelConfig::smollm2_135m()
    }
}
