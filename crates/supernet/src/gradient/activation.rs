//! Through a gated MLP's product (2002.05202).
//!
//! Both activations are `g s` with `s = 1 / (1 + e^-z)`: `z = g` in SwiGLU, and in GeGLU the argument
//! that its form by the hyperbolic tangent has, twice. With `a = g s u`, the gradients of `g` and `u`
//! are `da u s (1 + g (1 - s) z')` and `da g s`.

use lathe_arch::Activation;
use pulp::Arch;
use rayon::prelude::*;

use crate::engine::elementwise::{GELU_CUBIC, GELU_SCALE, exp};

/// Numbers handed to one task.
const CHUNK: usize = 1 << 14;

/// Replaces `gate` and `up` by their gradients, given that of `activation(gate) * up`.
pub(super) fn activation_times_backward(
    activation: Activation,
    gate: &mut [f32],
    up: &mut [f32],
    d_product: &[f32],
) {
    match activation {
        Activation::Silu => gated(gate, up, d_product, |g| (g, 1.0)),
        Activation::GeluPytorchTanh => gated(gate, up, d_product, |g| {
            let square = GELU_CUBIC * g * g;
            (
                GELU_SCALE * g * (1.0 + square),
                GELU_SCALE * (1.0 + 3.0 * square),
            )
        }),
    }
}

/// `inner` gives `z` and its derivative by `g`.
#[inline(always)]
fn gated(
    gate: &mut [f32],
    up: &mut [f32],
    d_product: &[f32],
    inner: impl Fn(f32) -> (f32, f32) + Sync,
) {
    let arch = Arch::new();
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks_mut(CHUNK))
        .zip(d_product.par_chunks(CHUNK))
        .for_each(|((gate, up), d)| {
            arch.dispatch(|| {
                for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
                    let (g, u) = (*gate, *up);
                    let (z, slope) = inner(g);
                    let sigmoid = 1.0 / (1.0 + exp(-z));
                    *gate = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid) * slope);
                    *up = d * g * sigmoid;
                }
            });
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    /// The definitions.
    fn activate(activation: Activation, g: f64) -> f64 {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
        match activation {
            Activation::Silu => g / (1.0 + (-g).exp()),
            Activation::GeluPytorchTanh => 0.5 * g * (1.0 + inner.tanh()),
        }
    }

    #[test]
    fn gradients_are_those_of_the_definition() {
        for activation in [Activation::Silu, Activation::GeluPytorchTanh] {
            for count in [1, 17, 301] {
                let (mut gate, mut up) = (random(count, 1), random(count, 2));
                gate.iter_mut().for_each(|g| *g *= 6.0);
                let weights = random(count, 3);
                let product = |gate: &[f64], up: &[f64]| {
                    let pairs = gate.iter().zip(up);
                    pairs.map(|(g, u)| activate(activation, *g) * u).collect()
                };
                let (g, u) = (to_f64(&gate), to_f64(&up));
                activation_times_backward(activation, &mut gate, &mut up, &weights);
                assert_close(&gate, &numeric_gradient(&g, &weights, |g| product(g, &u)));
                assert_close(&up, &numeric_gradient(&u, &weights, |u| product(&g, u)));
            }
        }
    }
}
