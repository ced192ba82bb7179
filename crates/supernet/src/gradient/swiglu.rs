//! Through SwiGLU's product (2002.05202).
//!
//! With `a = silu(g) u` and `s = 1 / (1 + e^-g)`, the gradients of `g` and `u` are
//! `da u s (1 + g (1 - s))` and `da g s`.

use pulp::Arch;
use rayon::prelude::*;

use crate::engine::elementwise::exp;

/// Numbers handed to one task.
const CHUNK: usize = 1 << 14;

/// Replaces `gate` and `up` by their gradients, given that of `silu(gate) * up`.
pub(super) fn silu_times_backward(gate: &mut [f32], up: &mut [f32], d_product: &[f32]) {
    let arch = Arch::new();
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks_mut(CHUNK))
        .zip(d_product.par_chunks(CHUNK))
        .for_each(|((gate, up), d)| {
            arch.dispatch(|| {
                for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
                    let (g, u) = (*gate, *up);
                    let sigmoid = 1.0 / (1.0 + exp(-g));
                    *gate = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
                    *up = d * g * sigmoid;
                }
            });
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    #[test]
    fn gradients_are_those_of_the_definition() {
        for count in [1, 17, 301] {
            let (mut gate, mut up) = (random(count, 1), random(count, 2));
            gate.iter_mut().for_each(|g| *g *= 6.0);
            let weights = random(count, 3);
            let product = |gate: &[f64], up: &[f64]| {
                let pairs = gate.iter().zip(up);
                pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            };
            let (g, u) = (to_f64(&gate), to_f64(&up));
            silu_times_backward(&mut gate, &mut up, &weights);
            assert_close(&gate, &numeric_gradient(&g, &weights, |g| product(g, &u)));
            assert_close(&up, &numeric_gradient(&u, &weights, |u| product(&g, u)));
        }
    }
}
