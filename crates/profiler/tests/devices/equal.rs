//! A table says the same whichever way it was made.

use std::path::Path;

use lathe_arch::{AttentionConfig, BlockShape, MlpConfig, ModelConfig};
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

fn plan() -> ProfilePlan {
    let model = model();
    let blocks = vec![
        BlockShape::Attention(AttentionConfig::full(&model)),
        BlockShape::Attention(AttentionConfig::with_groups(&model, 1)),
        BlockShape::Mlp(MlpConfig::full(&model)),
        BlockShape::Mlp(MlpConfig::with_width(128)),
    ];
    ProfilePlan {
        prompts: vec![64],
        depths: vec![128],
        budget_s: 0.0,
        limit_s: 0.0,
        pass_us: 25_000,
        networks: 0,
        ..ProfilePlan::quick(blocks)
    }
}

/// The table made in `folder`, twice when it is to say how far two differ.
fn table(command: &AgentCommand, folder: &Path, is_twice: bool) -> LatencyTable {
    let (model, plan) = (model(), plan());
    let request = ProfileRequest {
        agent: command,
        model_name: "small",
        model: &model,
        conditions: &[],
        plan: &plan,
        out: &folder.join("table.yaml"),
        resume: false,
    };
    match is_twice {
        true => profile_twice(&request, SecondProfile::Undisturbed, |_, _| ()),
        false => profile(&request, |_, _| ()),
    }
    .unwrap()
}

/// The median difference of prices, the machine's speed over each profile taken out.
fn difference(one: &LatencyTable, other: &LatencyTable) -> f64 {
    let pairs = one.entries.iter().zip(&other.entries);
    let mut ratios: Vec<f64> = pairs
        .map(|(a, b)| {
            assert_eq!((a.block, a.phase), (b.block, b.phase));
            a.price_us / b.price_us
        })
        .collect();
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let level = median(&mut ratios);
    median(
        &mut ratios
            .iter()
            .map(|ratio| (ratio / level - 1.0).abs())
            .collect(),
    )
}

#[test]
fn tables_over_ssh_and_adb_are_the_local_one() {
    let (Some(sshd), Some(adb)) = (Sshd::new(), Adb::new()) else {
        return;
    };
    let _alone = MEASURING.lock();
    let adbd = Adbd::new();
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let (agent, library) = programs();
    let yaml = "name: here\nthreads: 1\ntransport: local\n";
    let local = super::short::link_to(yaml).agent(&agent, &library);
    let local = table(&local, folders[0].path(), true);
    let repeat = local.protocol.repeatability.clone().unwrap();
    let tolerance = repeat.worst.max(LEAST_TOLERANCE);
    for (folder, yaml) in folders[1..].iter().zip([sshd.yaml(), adbd.yaml(&adb)]) {
        let remote = table(&agent_on(&patient(&yaml)), folder.path(), false);
        let difference = difference(&local, &remote);
        let name = &remote.device.name;
        println!(
            "{name}: median difference {:.1} %, A/A worst {:.1} %",
            100.0 * difference,
            100.0 * repeat.worst
        );
        assert!(difference <= tolerance, "{name}: {difference}, {repeat:?}");
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
