//! Scores of a layer's units, and those that look at one channel at a time.

use lathe_arch::ModelConfig;
use ndarray::Array2;

use super::Importance;
use crate::calibration::{ChannelStatistics, LayerStatistics};
use crate::checkpoint::LayerWeights;

/// The scores of a layer's units, by their index in the checkpoint.
pub(super) struct UnitScores {
    /// `[num_key_value_heads]`
    pub kv_groups: Vec<f64>,
    /// `[num_attention_heads]`
    pub heads: Vec<f64>,
    /// `[intermediate_size]`
    pub neurons: Vec<f64>,
}

impl UnitScores {
    /// Sums over the units' channels.
    ///
    /// # Panics
    /// For importances that are no scores of single channels.
    pub fn of_channels(
        model: &ModelConfig,
        importance: Importance,
        weights: &LayerWeights,
        statistics: &LayerStatistics,
    ) -> Self {
        let heads = UnitWeights::of_heads(weights);
        let heads = channel_scores(importance, heads, &statistics.attention);
        let neurons = UnitWeights::of_neurons(weights);
        Self {
            kv_groups: sums(&heads, model.heads_per_group() * model.head_dim),
            heads: sums(&heads, model.head_dim),
            neurons: channel_scores(importance, neurons, &statistics.mlp),
        }
    }
}

/// Sums of each `count` numbers.
pub(super) fn sums(values: &[f64], count: usize) -> Vec<f64> {
    let units = values.chunks_exact(count);
    units.map(|unit| unit.iter().sum()).collect()
}

/// The matrices that have the block's channels on one side.
pub(super) struct UnitWeights<'a> {
    /// `[hidden_size, channels]`: the block's last matrix.
    pub output: &'a Array2<f32>,
    /// `[channels, hidden_size]`: the matrices that make the channels.
    pub inputs: Vec<&'a Array2<f32>>,
}

impl<'a> UnitWeights<'a> {
    /// Of the channels of query heads. Keys and values belong to whole groups and do not tell
    /// channels apart.
    pub fn of_heads(weights: &'a LayerWeights) -> Self {
        Self {
            output: &weights.o_proj,
            inputs: vec![&weights.q_proj],
        }
    }

    /// Of the neurons of an MLP block.
    pub fn of_neurons(weights: &'a LayerWeights) -> Self {
        Self {
            output: &weights.down_proj,
            inputs: vec![&weights.gate_proj, &weights.up_proj],
        }
    }
}

/// The score of each channel.
///
/// # Panics
/// For importances that are no scores of single channels.
pub(super) fn channel_scores(
    importance: Importance,
    weights: UnitWeights<'_>,
    statistics: &ChannelStatistics,
) -> Vec<f64> {
    let columns = weights.output.columns().into_iter();
    let square_norms = columns.map(|column| square_norm(column.iter()));
    match importance {
        Importance::Fluctuation => {
            let variances = statistics.variances();
            square_norms.zip(variances).map(|(n, v)| n * v).collect()
        }
        Importance::Activation => statistics.magnitude.clone(),
        Importance::Wanda => {
            let columns = weights.output.columns().into_iter();
            let means = columns.map(|column| {
                let sum: f64 = column.iter().map(|w| f64::from(w.abs())).sum();
                sum / column.len().max(1) as f64
            });
            let norms = statistics.mean_square.iter().map(|square| square.sqrt());
            means.zip(norms).map(|(mean, norm)| mean * norm).collect()
        }
        Importance::Magnitude => square_norms
            .enumerate()
            .map(|(channel, norm)| {
                let inputs = weights.inputs.iter();
                let inputs = inputs.map(|matrix| square_norm(matrix.row(channel).iter()));
                (norm + inputs.sum::<f64>()).sqrt()
            })
            .collect(),
        Importance::Reconstruction | Importance::Taylor | Importance::Random => {
            unreachable!("{} is no score of single channels", importance.name())
        }
    }
}

fn square_norm<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    values.map(|w| f64::from(*w) * f64::from(*w)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels: one large and constant, one small that varies.
    fn scores(importance: Importance) -> Vec<f64> {
        let output = Array2::from_shape_vec((1, 2), vec![10.0, -2.0]).unwrap();
        let input = Array2::from_shape_vec((2, 1), vec![0.0, 3.0]).unwrap();
        let statistics = ChannelStatistics {
            mean: vec![5.0, 0.0],
            mean_square: vec![25.0, 4.0],
            second_moment: ndarray::arr2(&[[25.0, 0.0], [0.0, 4.0]]).into(),
            magnitude: vec![5.0, 1.5],
            following: Vec::new(),
        };
        let weights = UnitWeights {
            output: &output,
            inputs: vec![&input],
        };
        channel_scores(importance, weights, &statistics)
    }

    #[test]
    fn scores_are_what_their_papers_say() {
        // A constant channel does not fluctuate: 0 * 100, and 4 * 4.
        assert_eq!(scores(Importance::Fluctuation), [0.0, 16.0]);
        assert_eq!(scores(Importance::Activation), [5.0, 1.5]);
        assert_eq!(scores(Importance::Wanda), [10.0 * 5.0, 2.0 * 2.0]);
        assert_eq!(scores(Importance::Magnitude), [10.0, 13f64.sqrt()]);
    }
}
