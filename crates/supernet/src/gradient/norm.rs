//! Through RMSNorm (1910.07467).
//!
//! With `s = 1 / sqrt(mean(x^2) + eps)` and `y = x s gain`, the gradient of the input is
//! `s (gain dy) - x s^3 mean(gain dy x)`, that of the gain the sum over tokens of `dy x s`.

use pulp::Arch;
use rayon::prelude::*;

use crate::engine::elementwise::sum;

/// Rows handed to one task.
const ROWS: usize = 64;

/// Adds the gradient of the norm's input to `out [tokens, hidden]` and returns that of the gain,
/// `[hidden]`. `x` is the input and `d_normed` the gradient of the output, `[tokens, hidden]`.
pub(super) fn rms_norm_backward(
    out: &mut [f32],
    x: &[f32],
    gain: &[f32],
    eps: f32,
    d_normed: &[f32],
) -> Vec<f32> {
    let rows = ROWS * gain.len();
    let arch = Arch::new();
    let tasks = out.par_chunks_mut(rows).zip(x.par_chunks(rows));
    let tasks = tasks.zip(d_normed.par_chunks(rows));
    let of_tasks: Vec<Vec<f32>> = tasks
        .map(|((out, x), d_normed)| arch.dispatch(|| rows_backward(out, x, gain, eps, d_normed)))
        .collect();
    // In the order of the rows, whoever worked on them.
    let mut d_gain = vec![0.0; gain.len()];
    for of_task in of_tasks {
        for (sum, value) in d_gain.iter_mut().zip(of_task) {
            *sum += value;
        }
    }
    d_gain
}

#[inline(always)]
fn rows_backward(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32, d_normed: &[f32]) -> Vec<f32> {
    let hidden = gain.len();
    let count = hidden as f32;
    let mut d_gain = vec![0.0; hidden];
    let mut along = vec![0.0; hidden];
    let rows = out.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden));
    for ((out, x), d) in rows.zip(d_normed.chunks_exact(hidden)) {
        let scale = 1.0 / (sum(x, |v| v * v) / count + eps).sqrt();
        for (((along, d_gain), x), (d, gain)) in along
            .iter_mut()
            .zip(&mut d_gain)
            .zip(x)
            .zip(d.iter().zip(gain))
        {
            *along = d * gain * x;
            *d_gain += d * x * scale;
        }
        let pull = sum(&along, |v| v) / count * scale * scale * scale;
        for ((out, x), (d, gain)) in out.iter_mut().zip(x).zip(d.iter().zip(gain)) {
            *out += d * gain * scale - x * pull;
        }
    }
    d_gain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    fn norm(x: &[f64], gain: &[f64]) -> Vec<f64> {
        let rows = x.chunks(gain.len());
        let normed = rows.flat_map(|row| {
            let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean_square + 1e-3).sqrt();
            row.iter().zip(gain).map(move |(x, gain)| x * scale * gain)
        });
        normed.collect()
    }

    #[test]
    fn gradients_are_those_of_the_definition() {
        for (tokens, hidden) in [(1, 1), (3, 7), (65, 16), (130, 33)] {
            let (x, gain) = (random(tokens * hidden, 1), random(hidden, 2));
            let weights = random(tokens * hidden, 3);
            let mut d_x = vec![1.0; x.len()];
            let d_gain = rms_norm_backward(&mut d_x, &x, &gain, 1e-3, &weights);
            let (x, gain) = (to_f64(&x), to_f64(&gain));
            let want = numeric_gradient(&x, &weights, |x| norm(x, &gain));
            assert_close(&d_x, &want.iter().map(|v| v + 1.0).collect::<Vec<_>>());
            assert_close(&d_gain, &numeric_gradient(&gain, &weights, |g| norm(&x, g)));
        }
    }
}
