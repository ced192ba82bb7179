//! Uniform pruning, the baseline: the same choice in every layer.

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig, Workload};
use lathe_latency::LatencyTable;

/// Widths are multiples of this, which vector units like.
const WIDTH_STEP: usize = 8;

/// A uniform pruning and what it is predicted to cost.
#[derive(Debug, Clone, PartialEq)]
pub struct UniformPruning {
    /// KV groups of every layer.
    pub kv_heads: usize,
    /// MLP width of every layer.
    pub intermediate_size: usize,
    /// The sub-network.
    pub subnet: SubnetConfig,
    /// Its predicted time per output token.
    pub tpot_us: f64,
}

/// For each number of KV groups, the narrowest uniform pruning that is predicted to be at least
/// as slow as `tpot_us`: the baseline never gets less time than what it is compared with.
///
/// # Errors
/// When the table does not cover the workload.
pub fn uniform_prunings(
    model: &ModelConfig,
    table: &LatencyTable,
    workload: &Workload,
    tpot_us: f64,
) -> anyhow::Result<Vec<UniformPruning>> {
    let mut found = Vec::new();
    for kv_heads in 1..=model.num_key_value_heads {
        let widths = (WIDTH_STEP..=model.intermediate_size).step_by(WIDTH_STEP);
        for intermediate_size in widths {
            let subnet = SubnetConfig::uniform(
                model,
                Some(AttentionConfig::with_groups(model, kv_heads)),
                Some(MlpConfig::with_width(intermediate_size)),
            )
            .named(&table.model.name);
            let Ok(prediction) = table.predict(&subnet, workload) else {
                // Narrower than anything measured.
                continue;
            };
            if prediction.tpot_us >= tpot_us {
                found.push(UniformPruning {
                    kv_heads,
                    intermediate_size,
                    subnet,
                    tpot_us: prediction.tpot_us,
                });
                break;
            }
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "no uniform pruning is as slow as {tpot_us:.0} us per token"
    );
    Ok(found)
}
