//! Importance: which units of a block are worth keeping, and the order that follows.
//!
//! Every score is a number a unit (MLP neuron, query head, KV group); the units of a block are
//! sorted by it, so that "the first n" are "the best n".

mod reconstruction;
mod score;
mod standardized;

use std::str::FromStr;

use lathe_arch::ModelConfig;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::calibration::{Calibration, ChannelStatistics};
use crate::checkpoint::{LayerWeights, ModelWeights};
use score::channel_scores;
pub use standardized::{LayerScores, standardized_fluctuations};

/// How units are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// What the block's output loses without the unit when the units that are left make up for
    /// it as well as they can: units are removed one after another, the cheapest first (optimal
    /// brain surgeon, as ZipLM 2302.04089 and SlimGPT 2412.18110 have it for structures).
    Reconstruction,
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
    pub const ALL: [Self; 6] = [
        Self::Reconstruction,
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

/// Seed of [`Importance::Random`].
const RANDOM_SEED: u64 = 1;

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

    /// The order that `importance` gives.
    ///
    /// # Errors
    /// When the calibration was made for a model of other dimensions or holds NaN.
    pub fn of(
        model: &ModelConfig,
        weights: &ModelWeights,
        calibration: &Calibration,
        importance: Importance,
    ) -> Result<Self, SupernetError> {
        calibration.check(model)?;
        let layers = weights.layers.par_iter().zip(&calibration.layers);
        let layers = layers.enumerate().map(|(index, (weights, statistics))| {
            let heads = head_ranks(model, weights, &statistics.attention, importance, index);
            let neurons = match importance {
                Importance::Reconstruction => {
                    reconstruction::order(&weights.down_proj, &statistics.mlp, 1)
                }
                Importance::Random => shuffled(model.intermediate_size, 2 * index as u64 + 1),
                _ => descending(&channel_scores(
                    importance,
                    weights_of_neurons(weights),
                    &statistics.mlp,
                )),
            };
            let [kv_groups, heads] = heads;
            let per_group = model.heads_per_group();
            let in_group = |group: &usize| {
                let of_group = heads.iter().filter(|head| *head / per_group == *group);
                of_group.map(|head| head % per_group).collect()
            };
            LayerOrder {
                heads_in_group: kv_groups.iter().map(in_group).collect(),
                kv_groups,
                neurons,
            }
        });
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

/// All KV groups and all query heads of a layer, the most important first.
fn head_ranks(
    model: &ModelConfig,
    weights: &LayerWeights,
    statistics: &ChannelStatistics,
    importance: Importance,
    layer: usize,
) -> [Vec<usize>; 2] {
    let group_width = model.heads_per_group() * model.head_dim;
    let o_proj = &weights.o_proj;
    match importance {
        Importance::Reconstruction => [group_width, model.head_dim]
            .map(|unit| reconstruction::order(o_proj, statistics, unit)),
        Importance::Random => [model.num_key_value_heads, model.num_attention_heads]
            .map(|units| shuffled(units, 2 * layer as u64)),
        _ => {
            let weights = score::UnitWeights::of_heads(weights);
            let scores = channel_scores(importance, weights, statistics);
            [group_width, model.head_dim].map(|unit| {
                let units = scores.chunks_exact(unit);
                descending(&units.map(|unit| unit.iter().sum()).collect::<Vec<f64>>())
            })
        }
    }
}

fn weights_of_neurons(weights: &LayerWeights) -> score::UnitWeights<'_> {
    score::UnitWeights {
        output: &weights.down_proj,
        inputs: vec![&weights.gate_proj, &weights.up_proj],
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

/// Indices from the largest score to the smallest; equal scores keep their order.
fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

fn shuffled(units: usize, stream: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(RANDOM_SEED);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..units).collect();
    order.shuffle(&mut rng);
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
    fn names_are_read_back() {
        for importance in Importance::ALL {
            assert_eq!(importance.name().parse(), Ok(importance));
        }
        assert!("best".parse::<Importance>().unwrap_err().contains("wanda"));
    }
}
