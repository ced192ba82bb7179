//! Scores that can be compared across layers: FLAP's adaptive structure (2312.11983).

use lathe_arch::ModelConfig;

use super::Importance;
use super::score::{UnitWeights, channel_scores};
use crate::SupernetError;
use crate::calibration::Calibration;
use crate::checkpoint::ModelWeights;

/// The standardised scores of one layer's units, by their index in the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerScores {
    /// KV groups, `[num_key_value_heads]`.
    pub kv_groups: Vec<f64>,
    /// MLP neurons, `[intermediate_size]`.
    pub neurons: Vec<f64>,
}

/// FLAP's scores: the fluctuation of each channel (squared in attention), standardised within its
/// layer to mean 0 and deviation 1; a KV group has the mean over its channels.
///
/// # Errors
/// When the calibration was made for a model of other dimensions or holds NaN.
pub fn standardized_fluctuations(
    model: &ModelConfig,
    weights: &ModelWeights,
    calibration: &Calibration,
) -> Result<Vec<LayerScores>, SupernetError> {
    calibration.check(model)?;
    let group = model.heads_per_group() * model.head_dim;
    let layers = weights.layers.iter().zip(&calibration.layers);
    let layers = layers.map(|(weights, statistics)| {
        let importance = Importance::Fluctuation;
        let heads = UnitWeights::of_heads(weights);
        let heads = channel_scores(importance, heads, &statistics.attention);
        let heads = standardized(heads.iter().map(|score| score * score).collect());
        let groups = heads.chunks_exact(group);
        let mean = |channels: &[f64]| channels.iter().sum::<f64>() / group as f64;
        let neurons = UnitWeights::of_neurons(weights);
        let neurons = channel_scores(importance, neurons, &statistics.mlp);
        LayerScores {
            kv_groups: groups.map(mean).collect(),
            neurons: standardized(neurons),
        }
    });
    Ok(layers.collect())
}

fn standardized(scores: Vec<f64>) -> Vec<f64> {
    let count = scores.len().max(2) as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let deviation = variance.sqrt().max(f64::MIN_POSITIVE);
    scores.iter().map(|s| (s - mean) / deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standardised_scores_have_mean_0_and_deviation_1() {
        let scores = standardized(vec![1.0, 2.0, 3.0, 10.0]);
        assert!(scores.iter().sum::<f64>().abs() < 1e-12);
        let squares: f64 = scores.iter().map(|s| s * s).sum();
        assert!((squares / 3.0 - 1.0).abs() < 1e-12);
    }
}
