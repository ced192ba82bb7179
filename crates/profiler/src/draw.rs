//! Sub-networks drawn at random, from nearly empty to nearly full.

use std::collections::BTreeSet;

use lathe_arch::{BlockShape, LayerConfig, ModelConfig, Precision, SUBNET_VERSION, SubnetConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Tries to find a network that was not drawn yet.
const TRIES: usize = 100;
/// How much the sizes of one network's blocks differ, as a share of the range of sizes.
const SPREAD: f64 = 0.25;

/// Draws distinct sub-networks whose blocks are among `blocks` or removed, all weights in
/// `precision`. Each has a size of its own around which its blocks vary, so that latencies spread
/// over the space (uniform choices would all land in the middle).
pub fn draw_subnets(
    model: &ModelConfig,
    blocks: &[BlockShape],
    precision: Precision,
    count: usize,
    seed: u64,
) -> Vec<SubnetConfig> {
    let sized = |is_kind: fn(&BlockShape) -> bool| {
        let mut choices: Vec<Option<BlockShape>> = blocks
            .iter()
            .filter(|block| is_kind(block) && block.precision() == precision)
            .map(|block| Some(*block))
            .collect();
        choices.sort_by_key(|choice| choice.map(|block| block.matrix_weights(model)));
        choices.dedup();
        choices.insert(0, None);
        choices
    };
    let attention = sized(|block| matches!(block, BlockShape::Attention(_)));
    let mlp = sized(|block| matches!(block, BlockShape::Mlp(_)));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let around = Normal::new(0.0, SPREAD).expect("the spread is a valid standard deviation");
    let mut seen = BTreeSet::new();
    let mut subnets = Vec::new();
    for index in 0..count {
        // Beyond both ends, so that the smallest and the largest blocks prevail there.
        let level = 1.3 * (index as f64 + 0.5) / count as f64 - 0.15;
        for _ in 0..TRIES {
            let mut choice = |choices: &[Option<BlockShape>]| {
                let largest = (choices.len() - 1) as f64;
                let at = (largest * (level + around.sample(&mut rng))).round();
                choices[at.clamp(0.0, largest) as usize]
            };
            let layers: Vec<_> = (0..model.num_hidden_layers)
                .map(|_| [choice(&attention), choice(&mlp)])
                .collect();
            if seen.insert(layers.clone()) {
                subnets.push(SubnetConfig {
                    version: SUBNET_VERSION,
                    model: String::new(),
                    head_precision: precision,
                    layers: layers.into_iter().map(layer).collect(),
                });
                break;
            }
        }
    }
    subnets
}

fn layer([attention, mlp]: [Option<BlockShape>; 2]) -> LayerConfig {
    LayerConfig {
        attention: match attention {
            Some(BlockShape::Attention(block)) => Some(block),
            _ => None,
        },
        mlp: match mlp {
            Some(BlockShape::Mlp(block)) => Some(block),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use lathe_arch::{SearchSpace, SpaceSpec};

    use super::*;
    use crate::ProfilePlan;

    #[test]
    fn drawn_subnets_are_distinct_fit_and_spread() {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let blocks = ProfilePlan::grid(&space, &model, &Precision::ALL);
        for precision in Precision::ALL {
            let subnets = draw_subnets(&model, &blocks, precision, 30, 3);
            assert_eq!(subnets.len(), 30);
            let sizes: Vec<u64> = subnets.iter().map(|s| s.weight_bytes(&model)).collect();
            let spread = *sizes.iter().max().unwrap() as f64 / *sizes.iter().min().unwrap() as f64;
            assert!(spread > 3.0, "{spread}");
            for subnet in &subnets {
                subnet.check(&model).unwrap();
                assert_eq!(subnet.common_precision(), Some(precision));
            }
            assert_eq!(subnets, draw_subnets(&model, &blocks, precision, 30, 3));
        }
    }
}
