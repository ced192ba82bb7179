use lathe_arch::{ModelConfig, SubnetConfig};

use super::adapters::{Adapters, LoraSettings};
use crate::SupernetError;
use crate::numbers::Numbers;
use crate::parameters::{Parameters, Values};
use crate::tensor_file::TensorFile;

/// What is trained, or numbers that go with each of its own: gradients and moments.
pub(super) enum Trainable {
    /// All weights of a sub-network.
    Whole(Parameters),
    /// Adapters of its matrices, and its vectors.
    LowRank(Adapters),
}

impl Trainable {
    /// Every tensor, in a fixed order.
    pub fn values(&self) -> Vec<Values<&[f32]>> {
        match self {
            Trainable::Whole(weights) => weights.values().collect(),
            Trainable::LowRank(adapters) => adapters.values(),
        }
    }

    pub fn values_mut(&mut self) -> Vec<Values<&mut [f32]>> {
        match self {
            Trainable::Whole(weights) => weights.values_mut().collect(),
            Trainable::LowRank(adapters) => adapters.values_mut(),
        }
    }

    pub fn zeros_like(&self) -> Self {
        match self {
            Trainable::Whole(weights) => Trainable::Whole(Parameters::zeros_like(weights)),
            Trainable::LowRank(adapters) => Trainable::LowRank(adapters.zeros_like()),
        }
    }

    pub fn fill_zero(&mut self) {
        for values in self.values_mut() {
            values.numbers.fill(0.0);
        }
    }

    /// The same of what is no matrix.
    pub fn fill_vectors_zero(&mut self) {
        for values in self.values_mut() {
            if !values.is_matrix {
                values.numbers.fill(0.0);
            }
        }
    }

    /// The tensors by name, for a file.
    pub fn named(&self, prefix: &str) -> Vec<(String, Numbers<'_>)> {
        match self {
            Trainable::Whole(weights) => weights.named(prefix),
            Trainable::LowRank(adapters) => adapters.named(prefix),
        }
    }

    /// What [`Self::named`] gave.
    pub fn read(
        file: &TensorFile,
        prefix: &str,
        model: &ModelConfig,
        config: &SubnetConfig,
        lora: Option<&LoraSettings>,
    ) -> Result<Self, SupernetError> {
        Ok(match lora {
            None => Trainable::Whole(Parameters::read(file, prefix, model, config)?),
            Some(lora) => Trainable::LowRank(Adapters::read(file, prefix, model, config, lora)?),
        })
    }
}
