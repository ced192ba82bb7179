//! Uniform pruning: the same choice in every layer.

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig, Workload};
use lathe_latency::LatencyTable;

use super::Limit;
use crate::LatencyObjective;

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
/// as slow as `tpot_us`: the baseline never gets less time than what it is compared with. None where
/// the full size is faster, or the table does not cover the workload.
pub fn uniform_prunings(
    model: &ModelConfig,
    table: &LatencyTable,
    workload: &Workload,
    tpot_us: f64,
) -> Vec<UniformPruning> {
    let limit = Limit {
        table,
        workload,
        objective: LatencyObjective::Tpot,
        least_us: tpot_us,
    };
    let full = SubnetConfig::full(model).named(&table.model.name);
    let found = (1..=model.num_key_value_heads).filter_map(|kv_heads| {
        let (intermediate_size, subnet) = narrowest(&full, kv_heads, &limit)?;
        Some(UniformPruning {
            kv_heads,
            intermediate_size,
            tpot_us: limit.latency_us(&subnet)?,
            subnet,
        })
    });
    found.collect()
}

/// For each of `bases` and each number of KV groups, the narrowest pruning of its layers to one
/// shape that meets the limit. A base is the full model or has lost whole layers.
pub(crate) fn uniform_shapes(bases: &[SubnetConfig], limit: &Limit<'_>) -> Vec<SubnetConfig> {
    let groups = 1..=limit.model().num_key_value_heads;
    let shapes = bases
        .iter()
        .flat_map(|base| groups.clone().map(move |kv_heads| (base, kv_heads)));
    shapes
        .filter_map(|(base, kv_heads)| Some(narrowest(base, kv_heads, limit)?.1))
        .collect()
}

/// The narrowest width, and `base` with all its blocks in that shape.
fn narrowest(
    base: &SubnetConfig,
    kv_heads: usize,
    limit: &Limit<'_>,
) -> Option<(usize, SubnetConfig)> {
    let model = limit.model();
    let shape = |width: usize| {
        let mut subnet = base.clone();
        for layer in &mut subnet.layers {
            let attention = layer.attention.as_mut();
            if let Some(attention) = attention {
                *attention = AttentionConfig::with_groups(model, kv_heads);
            }
            if let Some(mlp) = &mut layer.mlp {
                *mlp = MlpConfig::with_width(width);
            }
        }
        subnet
    };
    let widths: Vec<usize> = (WIDTH_STEP..=model.intermediate_size)
        .step_by(WIDTH_STEP)
        .collect();
    // Latency rises with the width: narrower than anything measured counts as too fast.
    let first = widths.partition_point(|width| !limit.is_met(&shape(*width)));
    let width = *widths.get(first)?;
    Some((width, shape(width)))
}
