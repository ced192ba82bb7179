//! FLAP's adaptive structure: one threshold for the standardised scores of all layers.

use lathe_arch::{AttentionConfig, MlpConfig, SubnetConfig};
use lathe_supernet::LayerScores;

use super::Limit;

/// Steps of the bisection over thresholds.
const STEPS: usize = 40;

/// Standardised scores of every layer.
pub(crate) struct Flap(pub Vec<LayerScores>);

impl Flap {
    /// The sub-network of the highest threshold that meets the limit.
    pub fn subnet(&self, full: &SubnetConfig, limit: &Limit<'_>) -> Option<SubnetConfig> {
        let scores = || {
            let layers = self.0.iter();
            layers.flat_map(|layer| layer.kv_groups.iter().chain(&layer.neurons))
        };
        let mut low = scores().copied().fold(f64::INFINITY, f64::min) - 1.0;
        let mut high = scores().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut best = None;
        for _ in 0..STEPS {
            let threshold = 0.5 * (low + high);
            let subnet = self.above(full, threshold, limit);
            if limit.is_met(&subnet) {
                best = Some(subnet);
                low = threshold;
            } else {
                high = threshold;
            }
        }
        best
    }

    /// Every unit above the threshold, at least one a block: FLAP removes no block whole.
    fn above(&self, full: &SubnetConfig, threshold: f64, limit: &Limit<'_>) -> SubnetConfig {
        let mut subnet = full.clone();
        let count = |scores: &[f64]| {
            let above = scores.iter().filter(|score| **score > threshold);
            above.count().max(1)
        };
        for (layer, scores) in subnet.layers.iter_mut().zip(&self.0) {
            let groups = count(&scores.kv_groups);
            layer.attention = Some(AttentionConfig::with_groups(limit.model(), groups));
            layer.mlp = Some(MlpConfig::with_width(measured_width(
                count(&scores.neurons),
                limit,
            )));
        }
        subnet
    }
}

/// The width itself, or the narrowest that the table covers.
fn measured_width(width: usize, limit: &Limit<'_>) -> usize {
    let narrowest = limit.table.entries.iter().filter_map(|entry| {
        if let lathe_arch::BlockShape::Mlp(mlp) = entry.block {
            Some(mlp.intermediate_size)
        } else {
            None
        }
    });
    width.max(narrowest.min().unwrap_or(1))
}
