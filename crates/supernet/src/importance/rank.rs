//! From scores to an order.

use lathe_arch::ModelConfig;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::score::UnitScores;
use super::{LayerOrder, reconstruction};
use crate::SupernetError;
use crate::calibration::LayerStatistics;
use crate::checkpoint::LayerWeights;

/// Seed of the random order.
const RANDOM_SEED: u64 = 1;

/// The units of a layer, each kind from the most to the least important.
pub(super) struct UnitRanks {
    kv_groups: Vec<usize>,
    /// Of all groups.
    heads: Vec<usize>,
    neurons: Vec<usize>,
}

impl UnitRanks {
    /// The highest score first.
    pub fn descending(scores: &UnitScores) -> Self {
        Self {
            kv_groups: descending(&scores.kv_groups),
            heads: descending(&scores.heads),
            neurons: descending(&scores.neurons),
        }
    }

    /// The last to be removed first, when what is left is refitted.
    pub fn reconstructed(
        model: &ModelConfig,
        weights: &LayerWeights,
        statistics: &LayerStatistics,
    ) -> Result<Self, SupernetError> {
        let attention = |unit| reconstruction::order(&weights.o_proj, &statistics.attention, unit);
        Ok(Self {
            kv_groups: attention(model.heads_per_group() * model.head_dim)?,
            heads: attention(model.head_dim)?,
            neurons: reconstruction::order(&weights.down_proj, &statistics.mlp, 1)?,
        })
    }

    /// Shuffled, another way in every layer.
    pub fn random(model: &ModelConfig, layer: usize) -> Self {
        let stream = 2 * layer as u64;
        Self {
            kv_groups: shuffled(model.num_key_value_heads, stream),
            heads: shuffled(model.num_attention_heads, stream),
            neurons: shuffled(model.intermediate_size, stream + 1),
        }
    }

    /// The order of a layer in which heads stay with their groups.
    pub fn into_order(self, model: &ModelConfig) -> LayerOrder {
        let per_group = model.heads_per_group();
        let in_group = |group: &usize| {
            let heads = self.heads.iter();
            let of_group = heads.filter(|head| *head / per_group == *group);
            of_group.map(|head| head % per_group).collect()
        };
        LayerOrder {
            heads_in_group: self.kv_groups.iter().map(in_group).collect(),
            kv_groups: self.kv_groups,
            neurons: self.neurons,
        }
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
}
