//! Random weights: what a block costs does not depend on its values.

use lathe_arch::{FullShapes, ModelConfig, SubnetConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::{BlockKind, TensorRole, WeightSource};

/// Numbers for measuring: `count` values drawn from a normal distribution of mean 0 and standard
/// deviation 0.02, which neither overflow nor become denormal in a chain.
pub fn random_weights(count: usize, seed: u64) -> Vec<f32> {
    draw(count, ChaCha8Rng::seed_from_u64(seed))
}

fn draw(count: usize, mut rng: ChaCha8Rng) -> Vec<f32> {
    let normal = Normal::new(0.0f32, 0.02).expect("0.02 is a valid standard deviation");
    (0..count).map(|_| normal.sample(&mut rng)).collect()
}

/// Random weights for a whole sub-network: matrices and biases around 0, norm gains around 1,
/// standard deviation 0.02. A block that is smaller than the model's, or removed, has a bias, as
/// [`SubnetConfig::parameters`] counts it.
///
/// Each tensor has its own stream of the generator, so it does not depend on what else the
/// sub-network holds.
#[derive(Debug, Clone, Copy)]
pub struct RandomWeights<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// The sub-network that the weights are for.
    pub subnet: &'a SubnetConfig,
    /// Seed of the generator.
    pub seed: u64,
}

impl RandomWeights<'_> {
    fn draw(&self, count: usize, stream: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        draw(count, rng)
    }
}

impl WeightSource for RandomWeights<'_> {
    /// Empty for a tensor of a removed block.
    fn tensor(&self, role: TensorRole) -> Vec<f32> {
        let shape = role.shape(self.model, self.subnet).unwrap_or_default();
        let count = if shape.is_empty() {
            0
        } else {
            shape.iter().product()
        };
        let mut values = self.draw(count, stream(role));
        if matches!(
            role,
            TensorRole::InputNorm(_)
                | TensorRole::PostAttentionNorm(_)
                | TensorRole::FinalNorm
                | TensorRole::QueryNorm(_)
                | TensorRole::KeyNorm(_)
                | TensorRole::AttentionPostNorm(_)
                | TensorRole::MlpPostNorm(_)
        ) {
            values.iter_mut().for_each(|gain| *gain += 1.0);
        }
        values
    }

    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>> {
        let full = FullShapes::of(self.model);
        let blocks = self.subnet.layers.get(layer)?;
        let (is_pruned, kind) = match block {
            BlockKind::Attention => (full.is_attention_pruned(blocks.attention), 11),
            BlockKind::Mlp => (full.is_mlp_pruned(blocks.mlp), 12),
        };
        let stream = STREAMS_PER_LAYER * layer as u64 + kind;
        is_pruned.then(|| self.draw(self.model.hidden_size, stream))
    }
}

const STREAMS_PER_LAYER: u64 = 16;
/// First stream of what only some families have, beyond those of all layers.
const OF_FAMILIES: u64 = 1 << 32;

/// The generator's stream of a tensor, one for every role.
fn stream(role: TensorRole) -> u64 {
    let (layer, kind) = match role {
        TensorRole::Embedding => (0, 0),
        TensorRole::FinalNorm => (0, 1),
        TensorRole::LmHead => (0, 2),
        TensorRole::InputNorm(layer) => (layer, 3),
        TensorRole::QkvProj(layer) => (layer, 4),
        TensorRole::OProj(layer) => (layer, 5),
        TensorRole::PostAttentionNorm(layer) => (layer, 6),
        TensorRole::GateProj(layer) => (layer, 7),
        TensorRole::UpProj(layer) => (layer, 8),
        TensorRole::DownProj(layer) => (layer, 9),
        TensorRole::QkvBias(layer) => (layer, OF_FAMILIES),
        TensorRole::QueryNorm(layer) => (layer, OF_FAMILIES + 1),
        TensorRole::KeyNorm(layer) => (layer, OF_FAMILIES + 2),
        TensorRole::AttentionPostNorm(layer) => (layer, OF_FAMILIES + 3),
        TensorRole::MlpPostNorm(layer) => (layer, OF_FAMILIES + 4),
    };
    STREAMS_PER_LAYER * layer as u64 + kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_repeat_by_seed_and_differ_by_role() {
        let model = ModelConfig::smollm2_135m();
        let subnet = SubnetConfig::full(&model);
        let source = |seed| RandomWeights {
            model: &model,
            subnet: &subnet,
            seed,
        };
        let role = TensorRole::OProj(1);
        assert_eq!(source(3).tensor(role), source(3).tensor(role));
        assert_ne!(source(3).tensor(role), source(4).tensor(role));
        assert_ne!(
            source(3).tensor(role),
            source(3).tensor(TensorRole::OProj(2))
        );
        assert_eq!(source(3).output_bias(0, BlockKind::Mlp), None);
    }

    #[test]
    fn weights_have_the_stated_distribution_and_no_denormals() {
        let values = random_weights(100_000, 7);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 1e5;
        // Six standard errors.
        assert!(mean.abs() < 6.0 * 0.02 / 1e5f64.sqrt(), "{mean}");
        assert!((square.sqrt() - 0.02).abs() < 6.0 * 0.02 / 2e5f64.sqrt());
        assert!(values.iter().all(|v| *v == 0.0 || v.is_normal()));
    }
}
