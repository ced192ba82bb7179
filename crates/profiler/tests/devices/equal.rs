//! A table says the same whichever way it was made.

use lathe_arch::{ModelConfig, Phase, Precision, SearchSpace, SpaceSpec};
use lathe_latency::LatencyTable;
use lathe_profiler::{
    AgentCommand, ProfilePlan, ProfileRequest, SecondProfile, profile, profile_twice,
};

use super::adbd::{Adb, Adbd};
use super::short::{MEASURING, agent_on, patient, programs};
use super::sshd::Sshd;

/// Two profiles of one machine differ by less than this in the middle, whoever else works on it: a
/// link that leaked into the times would add milliseconds to microseconds.
const LEAST_TOLERANCE: f64 = 0.10;

/// How often two tables are compared before they are said to differ. What a neighbour takes of the
/// memory's speed for half a minute is in one comparison, what a link leaks is in all of them.
const COMPARISONS: usize = 4;

pub fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 192,
        intermediate_size: 512,
        num_hidden_layers: 4,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 32,
        max_position_embeddings: 512,
        vocab_size: 1024,
        ..ModelConfig::smollm2_135m()
    }
}

/// All that a quick profile has, of a small model and for seconds.
fn plan() -> ProfilePlan {
    let model = model();
    let space = SearchSpace::new(&model, "small", &SpaceSpec::standard(&model)).unwrap();
    ProfilePlan {
        prompts: vec![32, 64],
        depths: vec![0, 128],
        budget_s: 0.0,
        limit_s: 0.0,
        pass_us: 25_000,
        network_pass_us: 50_000,
        workload: "64+32".parse().unwrap(),
        ..ProfilePlan::quick(ProfilePlan::blocks(&space, &[Precision::F32]))
    }
}

/// The table of a device, made twice when it is to say how far two differ.
fn table(command: &AgentCommand, is_twice: bool) -> LatencyTable {
    let folder = tempfile::tempdir().unwrap();
    let (model, plan) = (model(), plan());
    let request = ProfileRequest {
        agent: command,
        model_name: "small",
        model: &model,
        conditions: &[],
        plan: &plan,
        out: &folder.path().join("table.yaml"),
        resume: false,
    };
    match is_twice {
        true => profile_twice(&request, SecondProfile::Undisturbed, |_, _| ()),
        false => profile(&request, |_, _| ()),
    }
    .unwrap()
}

/// The median difference of prices. The machine's speed over each profile is taken out, of prefill,
/// which the processor bounds, and of decode, which the memory bounds, each by itself.
fn difference(one: &LatencyTable, other: &LatencyTable) -> f64 {
    let mut ratios = [Vec::new(), Vec::new()];
    for (a, b) in one.entries.iter().zip(&other.entries) {
        assert_eq!((a.block, a.phase), (b.block, b.phase));
        let is_decode = matches!(a.phase, Phase::Decode { .. });
        ratios[usize::from(is_decode)].push(a.price_us / b.price_us);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut differences = Vec::new();
    for mut ratios in ratios {
        let level = median(&mut ratios);
        differences.extend(ratios.iter().map(|ratio| (ratio / level - 1.0).abs()));
    }
    median(&mut differences)
}

#[test]
fn tables_over_ssh_and_adb_are_the_local_one() {
    let (Some(sshd), Some(adb)) = (Sshd::new(), Adb::new()) else {
        return;
    };
    let _alone = MEASURING.lock();
    let adbd = Adbd::new();
    let (agent, library) = programs();
    let yaml = "name: here\nthreads: 1\ntransport: local\n";
    let here = super::short::link_to(yaml).agent(&agent, &library);
    let local = table(&here, true);
    let repeat = local.protocol.repeatability.clone().unwrap();
    let tolerance = repeat.median.max(LEAST_TOLERANCE);
    for yaml in [sshd.yaml(), adbd.yaml(&adb)] {
        let agent = agent_on(&patient(&yaml));
        let mut remote = table(&agent, false);
        let name = remote.device.name.clone();
        let mut differences = vec![difference(&local, &remote)];
        while differences[differences.len() - 1] > tolerance && differences.len() < COMPARISONS {
            let local = table(&here, false);
            remote = table(&agent, false);
            differences.push(difference(&local, &remote));
        }
        println!(
            "{name}: median differences {differences:.3?}, A/A worst {:.3}",
            repeat.worst
        );
        assert!(differences[differences.len() - 1] <= tolerance, "{name}");
        assert_eq!(remote.calibration.len(), 2, "{name}: prefill and decode");
        // The same machine told by itself.
        let known = [&local, &remote].map(|table| {
            let device = &table.device;
            let facts = (
                &device.cpu_model,
                device.cores,
                device.memory_bytes,
                &device.kernel,
            );
            (
                facts,
                &device.os,
                device.last_level_cache_bytes,
                &table.runtime,
            )
        });
        assert_eq!(known[0], known[1]);
    }
}
