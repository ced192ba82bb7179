//! Tiny models of all families, and networks that are cut from them.

use std::path::{Path, PathBuf};

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, Precision, SubnetConfig};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Calibration, Importance, ImportanceOrder, Recovery, Supernet, TokenWindows};

pub const MODELS: [&str; 4] = ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"];

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

/// Longer than the windows of layers that see a window alone.
pub fn text(count: usize) -> TokenWindows {
    let tokens: Vec<u32> = (0..33 * count)
        .map(|i| ((i + 1) * 7919 % 320) as u32)
        .collect();
    TokenWindows::from_tokens(&tokens, 32)
}

/// A super-network of which anything can be cut, refitted.
pub fn calibrated(name: &str) -> Supernet {
    let checkpoint = Checkpoint::load(&fixture(name)).unwrap();
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let unordered = Supernet::unordered(model, weights.clone());
    let windows = text(12);
    let calibration = Calibration::measure(&unordered, &windows, |_| {});
    let importance = Importance::Wanda;
    let order = ImportanceOrder::of(model, weights, &calibration, &windows, importance).unwrap();
    let recovery = Recovery::LeastSquares;
    Supernet::ordered(model, weights.clone(), calibration, &order, recovery).unwrap()
}

/// Lacks query heads in groups, a group, neurons, an attention block and an MLP.
pub fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    let last = subnet.layers.len() - 1;
    subnet.layers[0].attention = Some(AttentionConfig {
        heads: 2,
        kv_heads: 2,
        precision: Precision::F32,
    });
    subnet.layers[0].mlp = Some(MlpConfig::with_width(41));
    subnet.layers[1].attention = None;
    subnet.layers[last].attention = Some(AttentionConfig::with_groups(model, 1));
    subnet.layers[last].mlp = None;
    subnet
}
