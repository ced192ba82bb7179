//! Support for the whole-system tests: the programs under test, the runtime, the models.

mod desk;
mod perplexity;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, Precision, SubnetConfig};
use lathe_fetch::{Cache, ModelSpec, Toolchain};
use lathe_profiler::AgentCommand;
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Calibration, Importance, ImportanceOrder, Recovery, Supernet, TokenWindows};

pub use desk::{Desk, short_profile};
pub use perplexity::perplexity_in_the_runtime;

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// The command line, built in this profile together with the agent.
///
/// # Panics
/// When they cannot be built.
pub fn xtask() -> PathBuf {
    programs().0
}

/// The agent with the fetched runtime.
///
/// # Panics
/// When they cannot be built or fetched.
pub fn agent() -> AgentCommand {
    let ort_lib = lathe_fetch::runtime(&cache(), None).expect("ONNX Runtime can be fetched");
    AgentCommand::local(&programs().1, &ort_lib)
}

/// The user's cache.
///
/// # Panics
/// When there is no folder for it.
pub fn cache() -> Cache {
    Cache::from_env().expect("there is a cache folder")
}

fn programs() -> (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let mut build = Toolchain::default().cargo_command();
        build.args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "xtask",
            "--bin",
            "lathe-agent",
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.status().expect("cargo can be run");
        assert!(status.success(), "the programs under test cannot be built");
        let this = std::env::current_exe().expect("a test knows its own path");
        // target/<profile>/deps/<test>
        let folder = this
            .ancestors()
            .nth(2)
            .expect("a test lies in target/<profile>/deps");
        (folder.join("xtask"), folder.join("lathe-agent"))
    });
    built.clone()
}

/// The default model, fetched.
///
/// # Panics
/// When it cannot be fetched or read.
pub fn smollm2() -> Checkpoint {
    let spec =
        ModelSpec::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/smollm2-135m.yaml"));
    let path = spec
        .and_then(|spec| spec.fetch(&cache()))
        .expect("the model can be fetched");
    Checkpoint::load(&path).expect("the model can be read")
}

/// The tiny model of the fixtures, ordered by a calibration on arbitrary tokens.
///
/// # Panics
/// When the fixture is damaged.
pub fn tiny() -> (Checkpoint, Supernet) {
    tiny_of("tiny-llama")
}

/// The tiny models of other families.
pub const OTHER_FAMILIES: [&str; 3] = ["tiny-qwen2", "tiny-qwen3", "tiny-gemma3"];

/// The tiny model of this name, ordered likewise.
///
/// # Panics
/// When the fixture is damaged.
pub fn tiny_of(name: &str) -> (Checkpoint, Supernet) {
    let checkpoint = Checkpoint::load(&fixture(name)).expect("the fixture is sound");
    let supernet = calibrated(&checkpoint, 64, Recovery::LeastSquares);
    (checkpoint, supernet)
}

/// A super-network calibrated on `tokens` arbitrary tokens.
///
/// # Panics
/// Never for a sound checkpoint.
pub fn calibrated(checkpoint: &Checkpoint, tokens: u32, recovery: Recovery) -> Supernet {
    let vocabulary = checkpoint.config.vocab_size as u32;
    let tokens: Vec<u32> = (0..=tokens).map(|i| i * 7919 % vocabulary).collect();
    let windows = TokenWindows::from_tokens(&tokens, tokens.len() - 1);
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let calibration = Calibration::measure(&unordered, &windows, |_| {});
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let importance = Importance::Fluctuation;
    ImportanceOrder::of(model, weights, &calibration, &windows, importance)
        .and_then(|order| {
            Supernet::ordered(
                model,
                weights.clone(),
                calibration.clone(),
                &order,
                recovery,
            )
        })
        .expect("a calibration fits its own model")
}

/// A sub-network with layers of different sizes, among them a first layer without attention, one
/// without MLP, one with pruned query heads, and (with more than three layers) an empty one.
pub fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    let last = subnet.layers.len() - 1;
    for (index, layer) in subnet.layers.iter_mut().enumerate() {
        let kv_heads = 1 + index % model.num_key_value_heads;
        let per_group = 1 + index % model.heads_per_group();
        layer.attention = Some(AttentionConfig {
            heads: kv_heads * per_group,
            kv_heads,
            precision: Precision::F32,
        });
        let width = model.intermediate_size - index * 37 % (model.intermediate_size / 2);
        layer.mlp = Some(MlpConfig::with_width(width));
    }
    subnet.layers[0].attention = None;
    subnet.layers[last].mlp = None;
    if last > 2 {
        subnet.layers[last / 2].attention = None;
        subnet.layers[last / 2].mlp = None;
    }
    subnet
}
