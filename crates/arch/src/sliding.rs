use serde::{Deserialize, Serialize};

use crate::ArchError;
use crate::model::ensure;

/// Which past tokens a layer's attention sees, named as in config.json's `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// All of them.
    FullAttention,
    /// The last ones alone.
    SlidingAttention,
}

/// Attention over a window of the last tokens in some of the layers (Gemma 3, 2503.19786).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlidingWindow {
    /// Tokens that a sliding layer sees, the newest included.
    pub window: usize,
    /// The types of the first layers, repeated over all that follow.
    pub layer_types: Vec<LayerType>,
    /// Base of the rotary frequencies of the sliding layers, which are never scaled.
    pub rope_theta: f64,
}

impl SlidingWindow {
    /// A window with `layer_types`, one a layer, kept as the shortest list that repeats to them.
    pub fn new(window: usize, layer_types: Vec<LayerType>, rope_theta: f64) -> Self {
        let repeats = |period: &usize| {
            let shifted = layer_types.iter().skip(*period);
            shifted.zip(&layer_types).all(|(a, b)| a == b)
        };
        let period = (1..layer_types.len()).find(repeats);
        let mut layer_types = layer_types;
        layer_types.truncate(period.unwrap_or(layer_types.len()));
        Self {
            window,
            layer_types,
            rope_theta,
        }
    }

    /// What layer `layer` sees.
    pub fn layer_type(&self, layer: usize) -> LayerType {
        let found = self.layer_types.get(layer % self.layer_types.len().max(1));
        found.copied().unwrap_or(LayerType::FullAttention)
    }

    pub(crate) fn validate(&self) -> Result<(), ArchError> {
        ensure(
            self.window > 0,
            "sliding_window",
            self.window,
            "expected at least 1 token",
        )?;
        ensure(
            !self.layer_types.is_empty(),
            "layer_types",
            "empty",
            "expected at least one type",
        )?;
        ensure(
            self.rope_theta.is_finite() && self.rope_theta > 0.0,
            "rope_local_base_freq",
            self.rope_theta,
            "expected a positive number",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::LayerType::{FullAttention, SlidingAttention};
    use super::*;

    #[test]
    fn types_are_kept_as_the_shortest_list_that_repeats() {
        let pattern = [SlidingAttention, SlidingAttention, FullAttention];
        for layers in 3..9 {
            let types: Vec<_> = pattern.into_iter().cycle().take(layers).collect();
            let sliding = SlidingWindow::new(8, types.clone(), 1e4);
            assert_eq!(sliding.layer_types, pattern);
            let again: Vec<_> = (0..layers).map(|l| sliding.layer_type(l)).collect();
            assert_eq!(again, types);
        }
        let alike = SlidingWindow::new(8, vec![SlidingAttention; 4], 1e4);
        assert_eq!(alike.layer_types, [SlidingAttention]);
        let none = SlidingWindow::new(8, vec![], 1e4);
        assert!(none.validate().is_err());
    }
}
