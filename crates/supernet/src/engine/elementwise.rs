//! The parts of a layer that are not matrix products. Each vectorises to whatever the processor
//! has (`pulp` picks the instruction set at run time).

use lathe_arch::Activation;
use pulp::Arch;
use rayon::prelude::*;

/// Rows handed to one task: enough work to be worth a task switch.
const ROWS_PER_TASK: usize = 16;

/// `e^x` to about 2 units in the last place on `[-87, 88]`, saturating outside.
///
/// Cephes' `expf` without branches, so that a loop over it vectorises.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// RMSNorm of every row (1910.07467): `out = x / sqrt(mean(x^2) + eps) * gain`.
///
/// `x` and `out` are `[tokens, hidden]`, `gain` is `[hidden]`.
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let hidden = gain.len();
    let arch = Arch::new();
    out.par_chunks_mut(hidden * ROWS_PER_TASK)
        .zip(x.par_chunks(hidden * ROWS_PER_TASK))
        .for_each(|(out, x)| {
            arch.dispatch(|| {
                for (out, x) in out.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
                    norm_row(out, x, gain, eps);
                }
            });
        });
}

#[inline(always)]
fn norm_row(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let mean_square = sum(x, |v| v * v) / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

/// Sum of `term(x)` in 16 interleaved partial sums, which both vectorises and loses fewer bits
/// than one running sum.
#[inline(always)]
pub fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut partial = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|v| term(*v)).sum();
    for chunk in chunks {
        for (partial, v) in partial.iter_mut().zip(chunk) {
            *partial += term(*v);
        }
    }
    partial.iter().sum::<f32>() + rest
}

/// Largest value; negative infinity for an empty row.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks
        .remainder()
        .iter()
        .fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m });
    for chunk in chunks {
        for (partial, v) in partial.iter_mut().zip(chunk) {
            *partial = if *v > *partial { *v } else { *partial };
        }
    }
    partial
        .iter()
        .fold(rest, |m, v| if *v > m { *v } else { m })
}

/// A gated MLP's product (2002.05202): `gate = activation(gate) * up`, element by element.
pub fn activation_times(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => gated(gate, up, |x| x / (1.0 + exp(-x))),
        Activation::GeluPytorchTanh => gated(gate, up, gelu_tanh),
    }
}

/// Twice the square root of 2/pi.
pub const GELU_SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
/// What the cube is multiplied by.
pub const GELU_CUBIC: f32 = 0.044_715;

/// `x / 2 * (1 + tanh(u))`, which is `x / (1 + e^-2u)`, with `u = sqrt(2/pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x / (1.0 + exp(-GELU_SCALE * (x + GELU_CUBIC * x * x * x)))
}

#[inline(always)]
fn gated(gate: &mut [f32], up: &[f32], activation: impl Fn(f32) -> f32 + Sync) {
    const CHUNK: usize = 1 << 14;
    let arch = Arch::new();
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .for_each(|(gate, up)| {
            arch.dispatch(|| {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = activation(*gate) * up;
                }
            });
        });
}

/// Turns a row of scores into probabilities.
#[inline(always)]
pub fn softmax(row: &mut [f32]) {
    let largest = max(row);
    for v in row.iter_mut() {
        *v = exp(*v - largest);
    }
    let scale = 1.0 / sum(row, |v| v);
    for v in row.iter_mut() {
        *v *= scale;
    }
}

/// Adds `bias [hidden]` to every row of `x [tokens, hidden]`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in row.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_range() {
        let mut worst = 0.0f64;
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "{worst}");
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn activations_are_their_definitions() {
        let x: Vec<f32> = (-800..800).map(|i| i as f32 / 50.0).collect();
        let product = |activation| {
            let mut gate = x.clone();
            activation_times(activation, &mut gate, &vec![2.0; x.len()]);
            gate
        };
        let (silu, gelu) = (
            product(Activation::Silu),
            product(Activation::GeluPytorchTanh),
        );
        for ((x, silu), gelu) in x.iter().map(|x| f64::from(*x)).zip(silu).zip(gelu) {
            let want = 2.0 * x / (1.0 + (-x).exp());
            assert!((f64::from(silu) - want).abs() < 1e-5, "{x}");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            assert!(
                (f64::from(gelu) - x * (1.0 + inner.tanh())).abs() < 1e-5,
                "{x}"
            );
        }
    }

    #[test]
    fn reductions_agree_with_plain_loops_at_awkward_lengths() {
        for length in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin()).collect();
            let want: f32 = x.iter().sum();
            assert!((sum(&x, |v| v) - want).abs() < 1e-4);
            let want = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), want);
        }
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut row = vec![1000.0, 1001.0, -1000.0];
        softmax(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((row[1] / row[0] - std::f32::consts::E).abs() < 1e-4);
    }
}
