//! The shortest profile that still has everything in it, and what must be left of it whatever
//! happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use lathe_arch::{ModelConfig, Precision, SearchSpace, SpaceSpec};
use lathe_fetch::Toolchain;
use lathe_latency::LatencyTable;
use lathe_profiler::{
    AgentCommand, DeviceSpec, Link, ProfilePlan, ProfileRequest, ProfilerError, profile,
};

/// Held by tests that measure with more than one agent, so that they do not keep each other waiting.
pub static MEASURING: Mutex<()> = Mutex::new(());

/// The device of `yaml` with a limit on jobs that a machine keeps whose processors are all taken.
pub fn patient(yaml: &str) -> String {
    yaml.replace("job_timeout_s: 10\n", "job_timeout_s: 60\n")
}

/// The agent's program and the runtime.
pub fn programs() -> (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let mut build = Toolchain::default().cargo_command();
        build.args(["build", "--quiet", "--workspace", "--bin", "lathe-agent"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        // target/<profile>/deps/<test>
        let this = std::env::current_exe().unwrap();
        let agent = this.ancestors().nth(2).unwrap().join("lathe-agent");
        let cache = lathe_fetch::Cache::from_env().unwrap();
        (agent, lathe_fetch::runtime(&cache, None).unwrap())
    });
    built.clone()
}

/// Agents on a device that is described so.
pub fn agent_on(yaml: &str) -> AgentCommand {
    let (agent, runtime) = programs();
    link_to(yaml).agent(&agent, &runtime)
}

pub fn link_to(yaml: &str) -> Link {
    let spec = DeviceSpec::parse(yaml).unwrap();
    Link::new(&spec, false, |_, _, _| ())
}

fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 512,
        vocab_size: 320,
        ..ModelConfig::smollm2_135m()
    }
}

/// Profiles in `folder`, or goes on with it. Passes are too short to be judged, so that other tests
/// do not disturb them.
pub fn short_profile(command: &AgentCommand, folder: &Path) -> Result<LatencyTable, ProfilerError> {
    let model = model();
    let space = SearchSpace::new(&model, "tiny", &SpaceSpec::standard(&model)).unwrap();
    let blocks = ProfilePlan::blocks(&space, &[Precision::F32]);
    let plan = ProfilePlan {
        prompts: vec![16, 32],
        depths: vec![0, 64],
        budget_s: 0.0,
        limit_s: 0.0,
        pass_us: 1,
        networks: 3,
        network_pass_us: 1,
        workload: "16+8".parse().unwrap(),
        ..ProfilePlan::quick(blocks)
    };
    let request = ProfileRequest {
        agent: command,
        model_name: "tiny",
        model: &model,
        conditions: &[],
        plan: &plan,
        out: &folder.join("table.yaml"),
        resume: true,
    };
    profile(&request, |_, _| ())
}

/// The lines of the journal.
pub fn journal(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("table.samples.jsonl")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Profiles, and does something to the device once a few visits are on the disk. What was on the
/// disk then is there at the end.
pub fn disturbed(
    command: &AgentCommand,
    folder: &Path,
    disturb: impl FnOnce() + Send,
) -> Result<LatencyTable, ProfilerError> {
    thread::scope(|scope| {
        let profiling = scope.spawn(|| short_profile(command, folder));
        // However slow the machine is: what takes too long ends the profile, with a reason.
        while journal(folder).len() < 3 && !profiling.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        let before = journal(folder);
        let is_disturbed = !profiling.is_finished();
        if is_disturbed {
            disturb();
        }
        let table = profiling.join().unwrap();
        assert!(is_disturbed, "it ended undisturbed: {:?}", table.err());
        let after = journal(folder);
        assert!(after.len() >= before.len());
        // The last may have been half written.
        assert_eq!(after[..before.len() - 1], before[..before.len() - 1]);
        if let Ok(table) = &table {
            assert!(after.len() > before.len(), "it was disturbed too late");
            assert!(!table.entries.is_empty());
        }
        table
    })
}

pub fn wait_for(is_so: impl Fn() -> bool) {
    let clock = Instant::now();
    while !is_so() {
        assert!(clock.elapsed() < Duration::from_secs(60), "it never was so");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What lies in a folder and begins so.
pub fn found(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let starts = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(start)
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(starts).collect();
    paths.sort();
    paths
}

/// The number of the agent's process whose private folder is in `folder`; the newest of several.
pub fn agent_process(folder: &Path) -> Option<String> {
    let private = found(folder, "lathe-").into_iter().next()?;
    let agents = found(&private, "agent.");
    let newest = agents.into_iter().max_by_key(|path| {
        let number = path.extension().unwrap().to_string_lossy().into_owned();
        number.parse::<u64>().unwrap_or(0)
    });
    let text = fs::read_to_string(newest?).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Sends a signal to the agent whose private folder is in `folder`.
pub fn signal(folder: &Path, signal: &str) {
    let process = agent_process(folder).expect("an agent runs");
    assert!(super::network::call("kill", &[signal, &process]));
}
