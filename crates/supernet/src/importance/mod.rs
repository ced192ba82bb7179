//! Importance: which units of a block are worth keeping, and the order that follows.
//!
//! Every score is a number a unit (MLP neuron, query head, KV group); the units of a block are
//! sorted by it, so that "the first n" are "the best n".

mod rank;
mod reconstruction;
mod score;
mod standardized;
mod taylor;

use std::str::FromStr;

use lathe_arch::ModelConfig;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::calibration::Calibration;
use crate::checkpoint::ModelWeights;
use crate::text::TokenWindows;
use rank::UnitRanks;
use score::UnitScores;
pub use standardized::{LayerScores, standardized_fluctuations};

/// How units are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// What the block's output loses without the unit when the units that are left make up for
    /// it as well as they can: units are removed one after another, the cheapest first (optimal
    /// brain surgeon, as ZipLM 2302.04089 and SlimGPT 2412.18110 have it for structures).
    Reconstruction,
    /// What the loss would change by, to first order, were the unit's weights zero: the sum over
    /// them of `|gradient x weight|` (LLM-Pruner's element-wise score, 2305.11627).
    Taylor,
    /// Variance of a channel times the squared norm of its weights (FLAP's weighted input
    /// fluctuation, 2312.11983).
    Fluctuation,
    /// Mean magnitude of a channel over each calibration sequence, as an L2 norm over sequences
    /// (Minitron, 2407.14679).
    Activation,
    /// Mean weight magnitude times the channel's L2 norm over tokens (Wanda-sp, as FLAP's
    /// baseline has it for structures; 2306.11695).
    Wanda,
    /// Norm of all weights of the unit.
    Magnitude,
    /// No importance at all: the control.
    Random,
}

impl Importance {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Reconstruction,
        Self::Taylor,
        Self::Fluctuation,
        Self::Activation,
        Self::Wanda,
        Self::Magnitude,
        Self::Random,
    ];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reconstruction => "reconstruction",
            Self::Taylor => "taylor",
            Self::Fluctuation => "fluctuation",
            Self::Activation => "activation",
            Self::Wanda => "wanda",
            Self::Magnitude => "magnitude",
            Self::Random => "random",
        }
    }
}

impl FromStr for Importance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|i| i.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}`: expected one of {names}")
        })
    }
}

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

    /// The order that `importance` gives. `windows` is the calibration's text: Taylor scores read
    /// a part of it again.
    ///
    /// # Errors
    /// When the calibration was made for a model of other dimensions or holds NaN, or the model
    /// cannot read the text.
    pub fn of(
        model: &ModelConfig,
        weights: &ModelWeights,
        calibration: &Calibration,
        windows: &TokenWindows,
        importance: Importance,
    ) -> Result<Self, SupernetError> {
        calibration.check(model)?;
        let layers = weights.layers.par_iter().zip(&calibration.layers);
        let ranks: Vec<UnitRanks> = match importance {
            Importance::Reconstruction => layers
                .map(|(weights, statistics)| UnitRanks::reconstructed(model, weights, statistics))
                .collect::<Result<_, _>>()?,
            Importance::Taylor => {
                let scores = taylor::unit_scores(model, weights, windows)?;
                scores.iter().map(UnitRanks::descending).collect()
            }
            Importance::Fluctuation
            | Importance::Activation
            | Importance::Wanda
            | Importance::Magnitude => layers
                .map(|(weights, statistics)| {
                    let scores = UnitScores::of_channels(model, importance, weights, statistics);
                    UnitRanks::descending(&scores)
                })
                .collect(),
            Importance::Random => (0..model.num_hidden_layers)
                .map(|layer| UnitRanks::random(model, layer))
                .collect(),
        };
        let layers = ranks.into_iter().map(|ranks| ranks.into_order(model));
        Ok(Self {
            layers: layers.collect(),
        })
    }

    /// Checks that every unit of the model stands in its order once.
    ///
    /// # Errors
    /// [`SupernetError::Order`] says which units do not.
    pub fn check(&self, model: &ModelConfig) -> Result<(), SupernetError> {
        let wrong = |what, found, expected| {
            Err(SupernetError::Order {
                what,
                found,
                expected,
            })
        };
        let layers = model.num_hidden_layers;
        if self.layers.len() != layers {
            return wrong("layers", self.layers.len(), layers);
        }
        for layer in &self.layers {
            let groups = model.num_key_value_heads;
            if !is_permutation(&layer.kv_groups, groups) || layer.heads_in_group.len() != groups {
                return wrong("KV groups", layer.kv_groups.len(), groups);
            }
            let heads = model.heads_per_group();
            for in_group in &layer.heads_in_group {
                if !is_permutation(in_group, heads) {
                    return wrong("query heads", in_group.len(), heads);
                }
            }
            if !is_permutation(&layer.neurons, model.intermediate_size) {
                return wrong("neurons", layer.neurons.len(), model.intermediate_size);
            }
        }
        Ok(())
    }
}

fn is_permutation(order: &[usize], units: usize) -> bool {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..units)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for importance in Importance::ALL {
            assert_eq!(importance.name().parse(), Ok(importance));
        }
        assert!("best".parse::<Importance>().unwrap_err().contains("wanda"));
    }
}
