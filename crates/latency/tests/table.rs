//! What a program that loads tables relies on.

use lathe_arch::{
    AttentionConfig, BlockShape, Granularity, HeadConfig, MlpConfig, ModelConfig, Phase,
    SearchSpace, SpaceSpec, SubnetConfig, Workload,
};
use lathe_latency::{
    DeviceFingerprint, Entry, LatencyError, LatencyStatistics, LatencyTable, ModelDescription,
    Placement, Protocol, RuntimeFingerprint, SpacePrices, TABLE_VERSION,
};
use proptest::prelude::*;

fn statistics(median_us: f64) -> LatencyStatistics {
    LatencyStatistics {
        median_us,
        min_us: median_us * 0.9,
        p90_us: median_us * 1.1,
        mad_us: median_us * 0.02,
        ci95_us: [median_us * 0.99, median_us * 1.01],
        samples: 5,
    }
}

fn entry(block: BlockShape, phase: Phase, median_us: f64) -> Entry {
    Entry {
        block,
        phase,
        price_us: median_us,
        roof: None,
        latency: statistics(median_us),
        copies: 8,
        footprint_bytes: 1 << 27,
        flags: Vec::new(),
    }
}

/// Prices by a simple rule: prefill 10 us a token and weight unit, decode one unit plus the past.
fn table() -> LatencyTable {
    let model = ModelConfig::smollm2_135m();
    let mut blocks = vec![(BlockShape::EmbeddingAndHead(HeadConfig::default()), 300.0)];
    for groups in 1..=3 {
        let attention = AttentionConfig::with_groups(&model, groups);
        blocks.push((BlockShape::Attention(attention), 10.0 * groups as f64));
    }
    for width in (192..=1536).step_by(192) {
        blocks.push((
            BlockShape::Mlp(MlpConfig::with_width(width)),
            width as f64 / 10.0,
        ));
    }
    let mut entries = Vec::new();
    for (block, unit) in blocks {
        for seq_len in [32, 128, 512] {
            let phase = Phase::Prefill { batch: 1, seq_len };
            entries.push(entry(block, phase, unit * seq_len as f64));
        }
        let depths: &[usize] = match block {
            BlockShape::Attention(_) => &[0, 512, 1024],
            BlockShape::Mlp(_) | BlockShape::EmbeddingAndHead(_) => &[0],
        };
        for &past_len in depths {
            let phase = Phase::Decode { batch: 1, past_len };
            entries.push(entry(block, phase, unit + past_len as f64 / 100.0));
        }
    }
    LatencyTable {
        version: TABLE_VERSION,
        device: DeviceFingerprint {
            name: "bench".to_owned(),
            cpu_model: "a processor".to_owned(),
            cores: 2,
            memory_bytes: 1 << 34,
            os: "linux".to_owned(),
            kernel: "6.1".to_owned(),
            governor: None,
            affinity: Vec::new(),
            last_level_cache_bytes: None,
            emulated: false,
        },
        runtime: RuntimeFingerprint {
            build: "1.32.0".to_owned(),
            execution_provider: "CPUExecutionProvider".to_owned(),
            threads: 2,
            session_options: Default::default(),
        },
        model: ModelDescription {
            name: "smollm2-135m".to_owned(),
            dimensions: model,
        },
        protocol: Protocol {
            seed: 1,
            last_level_cache_bytes: 32 << 20,
            visits: 10,
            disturbed_visits: 0,
            memory_bytes_per_second: 2e10,
            operations_per_second: Default::default(),
            placement: None,
            package_watts: None,
            conditions: Vec::new(),
            references: Vec::new(),
            baselines: Vec::new(),
            repeatability: None,
        },
        calibration: Vec::new(),
        memory: Vec::new(),
        entries,
    }
}

#[test]
fn a_table_round_trips_through_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.yaml");
    table().save(&path).unwrap();
    assert_eq!(LatencyTable::load(&path).unwrap(), table());
}

#[test]
fn the_full_model_is_the_sum_of_its_blocks() {
    let table = table();
    let full = SubnetConfig::full(&table.model.dimensions);
    let workload: Workload = "128+1".parse().unwrap();
    let prediction = table.predict(&full, &workload).unwrap();
    let decode = 300.0 + 30.0 * (30.0 + 1.28 + 153.6);
    assert!((prediction.tpot_us - decode).abs() < 1e-6, "{prediction:?}");
    let prefill = 128.0 * (300.0 + 30.0 * (30.0 + 153.6));
    assert!(
        (prediction.ttft_us - prefill).abs() < 1e-6,
        "{prediction:?}"
    );
    assert!(!prediction.is_interpolated);
}

#[test]
fn widths_and_prompts_between_measured_ones_are_interpolated() {
    let table = table();
    let mut subnet = SubnetConfig::full(&table.model.dimensions);
    subnet.layers[3].mlp = Some(MlpConfig::with_width(1000));
    let workload: Workload = "100+3".parse().unwrap();
    let prediction = table.predict(&subnet, &workload).unwrap();
    assert!(prediction.is_interpolated);
    let want = 100.0 * (300.0 + 30.0 * 30.0 + 29.0 * 153.6 + 100.0);
    assert!((prediction.ttft_us - want).abs() < 1e-6, "{prediction:?}");
}

#[test]
fn what_was_not_measured_is_refused() {
    let table = table();
    let mut subnet = SubnetConfig::full(&table.model.dimensions);
    subnet.layers[3].mlp = Some(MlpConfig::with_width(100));
    let ask = |subnet: &SubnetConfig, workload: &str| {
        table
            .predict(subnet, &workload.parse().unwrap())
            .unwrap_err()
    };
    assert!(matches!(
        ask(&subnet, "128+1"),
        LatencyError::NotMeasured { .. }
    ));
    let full = SubnetConfig::full(&table.model.dimensions);
    assert!(matches!(
        ask(&full, "513+1"),
        LatencyError::PromptRange { .. }
    ));
    assert!(matches!(
        ask(&full, "2x128+1"),
        LatencyError::Batch { batch: 2 }
    ));
}

fn placed_at(round_trip_ns: f64) -> Option<Placement> {
    Some(Placement {
        round_trip_ns,
        share: 0.5,
    })
}

#[test]
fn unsound_tables_are_refused_with_the_entry_named() {
    type Change = fn(&mut LatencyTable);
    let cases: [(Change, &str); 9] = [
        (|t| t.version = 1, "version"),
        (|t| t.entries[4].latency.median_us = f64::NAN, "entries[4]"),
        (|t| t.entries[4].latency.median_us = -1.0, "median_us"),
        (|t| t.entries[4].price_us = 0.0, "price_us"),
        (|t| t.entries[4].latency.ci95_us = [2.0, 1.0], "ci95_us"),
        (|t| t.entries[4].latency.samples = 0, "samples"),
        (|t| t.entries.push(t.entries[7].clone()), "twice"),
        (|t| t.protocol.placement = placed_at(0.0), "round_trip_ns"),
        (
            |t| t.protocol.placement = placed_at(f64::NAN),
            "round_trip_ns",
        ),
    ];
    for (change, word) in cases {
        let mut table = table();
        change(&mut table);
        let message = table.check().unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
        let folder = tempfile::tempdir().unwrap();
        assert!(table.save(&folder.path().join("table.yaml")).is_err());
    }
}

#[test]
fn damaged_files_are_refused_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.yaml");
    table().save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for damaged in [
        &text[..text.len() / 2],
        &text.replacen("median_us", "median", 1),
        &text.replacen("samples: 5", "samples: -5", 1),
        "",
        "- 1",
    ] {
        std::fs::write(&path, damaged).unwrap();
        let message = LatencyTable::load(&path).unwrap_err().to_string();
        assert!(message.contains("table.yaml"), "{message}");
    }
}

#[test]
fn another_device_is_not_comparable() {
    let table = table();
    let mut device = table.device.clone();
    device.cpu_model = "another".to_owned();
    let message = table
        .ensure_comparable(&device, &table.runtime)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("CPU") && message.contains("another"),
        "{message}"
    );
    table
        .ensure_comparable(&table.device, &table.runtime)
        .unwrap();
}

proptest! {
    #[test]
    fn the_fast_sum_equals_the_prediction(genome in prop::collection::vec(0usize..4, 60)) {
        let table = table();
        let model = &table.model.dimensions;
        let space = SearchSpace::new(model, "m", &SpaceSpec::standard(model)).unwrap();
        let workload: Workload = "64+32".parse().unwrap();
        let prices = SpacePrices::new(&table, &space, &workload).unwrap();
        let [ttft_us, tpot_us] = prices.ttft_and_tpot_us(&genome);
        let prediction = table.predict(&space.decode(&genome).unwrap(), &workload).unwrap();
        prop_assert!((ttft_us - prediction.ttft_us).abs() < 1e-6);
        prop_assert!((tpot_us - prediction.tpot_us).abs() < 1e-6);
        let uniform = SpaceSpec { granularity: Granularity::Uniform, ..SpaceSpec::standard(model) };
        let space = SearchSpace::new(model, "m", &uniform).unwrap();
        let prices = SpacePrices::new(&table, &space, &workload).unwrap();
        let [ttft_us, tpot_us] = prices.ttft_and_tpot_us(&genome[..2]);
        let prediction = table.predict(&space.decode(&genome[..2]).unwrap(), &workload).unwrap();
        prop_assert!((ttft_us - prediction.ttft_us).abs() < 1e-6);
        prop_assert!((tpot_us - prediction.tpot_us).abs() < 1e-6);
    }
}
