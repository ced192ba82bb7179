//! Where the backward pass puts the gradients of weights.

use ndarray::Array2;

use super::layer::LayerGradient;
use crate::engine::matmul::{Threads, Window, add_transposed_matmul};
use crate::parameters::{Parameters, Part, Role};

/// Adds up gradients. What it does not keep costs nothing.
pub(crate) trait GradientSink {
    /// The gradient of a matrix whose inputs are `x [tokens, in]` and whose outputs have the
    /// gradient `d [tokens, out]`: it is `x^T d`.
    fn matrix(&mut self, role: Role, x: Window<'_>, d: Window<'_>);
    /// The gradient of a vector.
    fn vector(&mut self, role: Role, d: &[f32]);
}

impl GradientSink for Parameters {
    fn matrix(&mut self, role: Role, x: Window<'_>, d: Window<'_>) {
        if let Some(sum) = self.get_mut(role) {
            add_weight_gradient(sum, x, d);
        }
    }

    fn vector(&mut self, role: Role, d: &[f32]) {
        if let Some(sum) = self.get_mut(role) {
            add_rows(sum, d);
        }
    }
}

/// Keeps nothing.
pub(super) struct Nothing;

impl GradientSink for Nothing {
    fn matrix(&mut self, _role: Role, _x: Window<'_>, _d: Window<'_>) {}
    fn vector(&mut self, _role: Role, _d: &[f32]) {}
}

/// Of one layer. Biases have no gradient.
impl GradientSink for LayerGradient {
    fn matrix(&mut self, role: Role, x: Window<'_>, d: Window<'_>) {
        let Role::Layer(_, part) = role else { return };
        let (attention, mlp) = (self.attention.as_mut(), self.mlp.as_mut());
        let sum = match part {
            Part::Query => attention.map(|block| &mut block.q),
            Part::Key => attention.map(|block| &mut block.k),
            Part::Value => attention.map(|block| &mut block.v),
            Part::Output => attention.map(|block| &mut block.o),
            Part::Gate => mlp.map(|block| &mut block.gate),
            Part::Up => mlp.map(|block| &mut block.up),
            Part::Down => mlp.map(|block| &mut block.down),
            Part::AttentionNorm
            | Part::QueryBias
            | Part::KeyBias
            | Part::ValueBias
            | Part::QueryNorm
            | Part::KeyNorm
            | Part::AttentionPostNorm
            | Part::AttentionBias
            | Part::MlpNorm
            | Part::MlpPostNorm
            | Part::MlpBias => None,
        };
        if let Some(sum) = sum {
            add_weight_gradient(sum, x, d);
        }
    }

    fn vector(&mut self, role: Role, d: &[f32]) {
        let Role::Layer(_, part) = role else { return };
        let (attention, mlp) = (self.attention.as_mut(), self.mlp.as_mut());
        let sum = match part {
            Part::AttentionNorm => attention.map(|block| &mut block.norm),
            Part::QueryNorm => attention.and_then(|block| block.q_norm.as_mut()),
            Part::KeyNorm => attention.and_then(|block| block.k_norm.as_mut()),
            Part::AttentionPostNorm => attention.and_then(|block| block.post_norm.as_mut()),
            Part::MlpNorm => mlp.map(|block| &mut block.norm),
            Part::MlpPostNorm => mlp.and_then(|block| block.post_norm.as_mut()),
            Part::Query
            | Part::Key
            | Part::Value
            | Part::Output
            | Part::QueryBias
            | Part::KeyBias
            | Part::ValueBias
            | Part::AttentionBias
            | Part::Gate
            | Part::Up
            | Part::Down
            | Part::MlpBias => None,
        };
        add(sum.into_iter().flatten(), d);
    }
}

/// `sum += x^T d`
fn add_weight_gradient(sum: &mut Array2<f32>, x: Window<'_>, d: Window<'_>) {
    let outputs = sum.ncols();
    let sum = sum.as_slice_mut();
    let sum = sum.expect("a gradient that was made row by row is laid out so");
    add_transposed_matmul(sum, outputs, x, d, 1.0, Threads::Pool);
}

/// Adds a gradient that was made elsewhere, row by row.
pub(crate) fn add_rows(sum: &mut Array2<f32>, d: &[f32]) {
    add(sum.iter_mut(), d);
}

fn add<'a>(sums: impl Iterator<Item = &'a mut f32>, values: &[f32]) {
    for (sum, value) in sums.zip(values) {
        *sum += value;
    }
}
