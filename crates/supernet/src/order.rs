//! Importance: which units of a block are worth keeping.
//!
//! The score of a channel is how much the block's output fluctuates because of it: the variance
//! of the channel over calibration tokens times the squared norm of its column in the block's
//! last matrix (FLAP's weighted input fluctuation, 2312.11983). A unit's mean contribution does
//! not count, because pruning keeps it as a bias.

use lathe_arch::ModelConfig;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::calibration::{Calibration, ChannelStatistics};
use crate::checkpoint::ModelWeights;

/// For every layer, the checkpoint's units from the most to the least important.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportanceOrder {
    /// One order a layer.
    pub layers: Vec<LayerOrder>,
}

/// The order of one layer. Indices are the checkpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOrder {
    /// KV groups, `[num_key_value_heads]`.
    pub kv_groups: Vec<usize>,
    /// For each group of `kv_groups`, its query heads by their index inside the group.
    pub heads_in_group: Vec<Vec<usize>>,
    /// MLP neurons, `[intermediate_size]`.
    pub neurons: Vec<usize>,
}

impl ImportanceOrder {
    /// The checkpoint's own order.
    pub fn identity(model: &ModelConfig) -> Self {
        let layer = LayerOrder {
            kv_groups: (0..model.num_key_value_heads).collect(),
            heads_in_group: vec![(0..model.heads_per_group()).collect(); model.num_key_value_heads],
            neurons: (0..model.intermediate_size).collect(),
        };
        Self {
            layers: vec![layer; model.num_hidden_layers],
        }
    }

    /// The order by weighted activation fluctuation.
    pub(crate) fn by_activation(
        model: &ModelConfig,
        weights: &ModelWeights,
        calibration: &Calibration,
    ) -> Self {
        let layers = weights.layers.iter().zip(&calibration.layers);
        let layers = layers.map(|(weights, statistics)| {
            let heads = channel_scores(&weights.o_proj, &statistics.attention);
            let heads = heads.chunks_exact(model.head_dim);
            let heads: Vec<f64> = heads.map(|channels| channels.iter().sum()).collect();
            let groups: Vec<&[f64]> = heads.chunks_exact(model.heads_per_group()).collect();
            let group_scores: Vec<f64> = groups.iter().map(|heads| heads.iter().sum()).collect();
            let kv_groups = descending(&group_scores);
            LayerOrder {
                heads_in_group: kv_groups.iter().map(|&g| descending(groups[g])).collect(),
                kv_groups,
                neurons: descending(&channel_scores(&weights.down_proj, &statistics.mlp)),
            }
        });
        Self {
            layers: layers.collect(),
        }
    }
}

impl LayerOrder {
    /// The checkpoint's query channels in this order, `[heads * head_dim]`.
    pub(crate) fn query_channels(&self, model: &ModelConfig) -> Vec<usize> {
        let per_group = model.heads_per_group();
        let groups = self.kv_groups.iter().zip(&self.heads_in_group);
        groups
            .flat_map(|(group, heads)| heads.iter().map(move |head| group * per_group + head))
            .flat_map(|head| head * model.head_dim..(head + 1) * model.head_dim)
            .collect()
    }

    /// The checkpoint's key and value channels in this order, `[kv_heads * head_dim]`.
    pub(crate) fn kv_channels(&self, model: &ModelConfig) -> Vec<usize> {
        let groups = self.kv_groups.iter();
        groups
            .flat_map(|group| group * model.head_dim..(group + 1) * model.head_dim)
            .collect()
    }
}

/// `Var(x_j) * |W_j|^2` for each input channel `j` of `matrix [out, in]`.
fn channel_scores(matrix: &Array2<f32>, statistics: &ChannelStatistics) -> Vec<f64> {
    let columns = matrix.columns().into_iter();
    columns
        .zip(statistics.variances())
        .map(|(column, variance)| {
            let norm: f64 = column.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
            variance * norm
        })
        .collect()
}

/// Indices from the largest score to the smallest; equal scores keep their order.
fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descending_is_stable() {
        assert_eq!(descending(&[1.0, 3.0, 1.0, 2.0]), [1, 3, 0, 2]);
    }

    #[test]
    fn a_constant_channel_counts_for_nothing() {
        let matrix = Array2::from_shape_vec((1, 2), vec![10.0, 1.0]).unwrap();
        let statistics = ChannelStatistics {
            mean: vec![5.0, 0.0],
            mean_square: vec![25.0, 1.0],
        };
        assert_eq!(channel_scores(&matrix, &statistics), [0.0, 1.0]);
    }
}
