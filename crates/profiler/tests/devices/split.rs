//! Two units of a kind share one profile.

use lathe_arch::{
    AttentionConfig, BlockShape, HeadConfig, LogitRows, MlpConfig, Precision, Workload,
};
use lathe_profiler::{
    AgentCommand, ProfilePlan, ProfileRequest, ProfilerError, SplitRequest, profile_split,
};

use super::adbd::{Adb, Adbd};
use super::equal::model;
use super::short::{MEASURING, agent_on, patient};
use super::sshd::Sshd;

#[test]
fn units_share_a_profile_unless_they_differ() {
    let (Some(sshd), Some(adb)) = (Sshd::new(), Adb::new()) else {
        return;
    };
    let _alone = MEASURING.lock();
    let adbd = Adbd::new();
    let model = model();
    let mlp = (1..=3).map(|width| BlockShape::Mlp(MlpConfig::with_width(128 * width)));
    let others = [
        BlockShape::Attention(AttentionConfig::full(&model)),
        BlockShape::EmbeddingAndHead(HeadConfig {
            precision: Precision::F32,
            logit_rows: LogitRows::Last,
        }),
    ];
    let plan = ProfilePlan {
        prompts: vec![16],
        depths: vec![0],
        budget_s: 0.0,
        limit_s: 0.0,
        pass_us: 5_000,
        networks: 2,
        network_pass_us: 20_000,
        workload: Workload {
            prompt_tokens: 16,
            ..Workload::default()
        },
        ..ProfilePlan::quick(mlp.chain(others).collect())
    };
    // One machine under two names, which keep each other waiting.
    let units = [sshd.yaml(), adbd.yaml(&adb)].map(|yaml| agent_on(&patient(&yaml)));
    let names = units.each_ref().map(|unit| unit.device().name.clone());
    let conditions = ["seen".to_owned()];
    let units: Vec<(&AgentCommand, &[String])> =
        units.iter().map(|unit| (unit, &conditions[..])).collect();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("table.yaml");
    let request = |resume, most_apart| SplitRequest {
        whole: ProfileRequest {
            agent: units[0].0,
            model_name: "small",
            model: &model,
            conditions: &[],
            plan: &plan,
            out: &out,
            resume,
        },
        units: &units,
        most_apart,
    };
    let made = profile_split(&request(false, f64::INFINITY), |_, _, _| ()).unwrap();
    let table = lathe_latency::LatencyTable::load(&out).unwrap();
    assert_eq!(table, made.table);
    let mut measured: Vec<BlockShape> = table.entries.iter().map(|entry| entry.block).collect();
    measured.dedup();
    assert_eq!(measured.len(), plan.blocks.len());
    let said = table.protocol.conditions.join("; ");
    assert!(
        said.contains(&names.join(", ")) && said.contains("seen"),
        "{said}"
    );
    let [(0, 1, difference)] = made.differences[..] else {
        panic!("{} pairs", made.differences.len());
    };
    assert!(difference.entries > 0);

    // Everything is measured: the same again says that they are too far apart, and keeps what there is.
    let strict = profile_split(&request(true, -1.0), |_, _, _| ());
    let Err(error @ ProfilerError::UnitsDiffer { .. }) = strict else {
        panic!("units may differ");
    };
    let message = error.to_string();
    assert!(names.iter().all(|name| message.contains(name)) && message.contains("--split"));
    let kept = |name: &str| out.with_extension(format!("{name}.yaml")).is_file();
    assert!(names.iter().all(|name| kept(name)) && out.is_file());
}
