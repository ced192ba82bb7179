//! What several benchmarks share: a table of the default search space with made-up prices.

use lathe_arch::{BlockShape, ModelConfig, Phase, SearchSpace, SpaceSpec};
use lathe_latency::{
    DeviceFingerprint, Entry, LatencyStatistics, LatencyTable, ModelDescription, Protocol,
    RuntimeFingerprint, TABLE_VERSION,
};

/// The default search space of SmolLM2-135M.
///
/// # Panics
/// Never: the standard space of a sound model is sound.
pub fn space() -> SearchSpace {
    let model = ModelConfig::smollm2_135m();
    let spec = SpaceSpec::standard(&model);
    SearchSpace::new(&model, "smollm2-135m", &spec).expect("the standard space is sound")
}

/// A table that prices every block of [`space`].
pub fn table() -> LatencyTable {
    let model = ModelConfig::smollm2_135m();
    let phases = |block: &BlockShape| {
        let depths: &[usize] = match block {
            BlockShape::Attention(_) => &[0, 256, 1024],
            BlockShape::Mlp(_) | BlockShape::EmbeddingAndHead(_) => &[0],
        };
        let prefill = [32, 128, 512].map(|seq_len| Phase::Prefill { batch: 1, seq_len });
        let decode = depths
            .iter()
            .map(|&past_len| Phase::Decode { batch: 1, past_len });
        prefill.into_iter().chain(decode).collect::<Vec<_>>()
    };
    let entries = space().shapes().into_iter().flat_map(|block| {
        phases(&block)
            .into_iter()
            .map(move |phase| entry(&ModelConfig::smollm2_135m(), block, phase))
    });
    LatencyTable {
        version: TABLE_VERSION,
        device: DeviceFingerprint {
            name: "bench".to_owned(),
            cpu_model: String::new(),
            cores: 2,
            memory_bytes: 1 << 34,
            os: String::new(),
            kernel: String::new(),
            governor: None,
            affinity: Vec::new(),
            last_level_cache_bytes: None,
            emulated: false,
        },
        runtime: RuntimeFingerprint {
            build: String::new(),
            execution_provider: "CPUExecutionProvider".to_owned(),
            threads: 2,
            session_options: Default::default(),
        },
        protocol: Protocol {
            seed: 1,
            last_level_cache_bytes: 32 << 20,
            visits: 100,
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
        entries: entries.collect(),
        model: ModelDescription {
            name: "smollm2-135m".to_owned(),
            dimensions: model,
        },
    }
}

/// A price in proportion to the block's operations.
fn entry(model: &ModelConfig, block: BlockShape, phase: Phase) -> Entry {
    let median_us = 1.0 + block.flops(model, &phase) as f64 / 1e5;
    Entry {
        block,
        phase,
        price_us: median_us,
        roof: None,
        latency: LatencyStatistics {
            median_us,
            min_us: 0.9 * median_us,
            p90_us: 1.1 * median_us,
            mad_us: 0.02 * median_us,
            ci95_us: [0.98 * median_us, 1.02 * median_us],
            samples: 5,
        },
        copies: 12,
        footprint_bytes: 1 << 27,
        flags: Vec::new(),
    }
}
