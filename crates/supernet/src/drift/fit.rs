//! The fit of what has drifted by a block's channels.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use ndarray::Array2;

use crate::engine::matmul::{Threads, Window, Write, add_gram, add_transposed_matmul, matmul};
use crate::recovery::Recovered;
use crate::supernet::window;

/// What is added to the diagonal of the channels' covariance, as a share of its mean.
const RIDGE: f64 = 0.01;

/// How much each token of whole sequences counts, from the streams behind a block,
/// `[tokens, hidden]`.
///
/// One over the mean square of the full model's stream, since the next norm takes its scale away,
/// and of the drift: a token on which attention piles up what it has no use for (2309.17453) in one
/// of the networks and not in the other is thousands of times as far off as the rest, and no fit
/// brings it back. The first token of a sequence is one in both, and does not count.
pub(super) fn token_weights(full: &[f32], own: &[f32], hidden: usize, seq_len: usize) -> Vec<f64> {
    let tokens = full.chunks_exact(hidden).zip(own.chunks_exact(hidden));
    let weight = |(token, (full, own)): (usize, (&[f32], &[f32]))| {
        let numbers = full.iter().zip(own);
        let squares = numbers.map(|(full, own)| f64::from(full * full + (full - own).powi(2)));
        let square = squares.sum::<f64>() / hidden as f64;
        match token % seq_len {
            0 => 0.0,
            _ => 1.0 / square.max(f64::from(f32::MIN_POSITIVE)),
        }
    };
    tokens.enumerate().map(weight).collect()
}

/// Weighted sums over tokens of a block's channels `x` and of the drift `e` behind it.
#[derive(Clone)]
pub(super) struct Moments {
    weight: f64,
    x: Vec<f64>,
    e: Vec<f64>,
    /// `x x^T`, `[channels, channels]`
    xx: Vec<f32>,
    /// `x e^T`, `[channels, hidden]`
    xe: Vec<f32>,
}

impl Moments {
    pub fn zeros(channels: usize, hidden: usize) -> Self {
        Self {
            weight: 0.0,
            x: vec![0.0; channels],
            e: vec![0.0; hidden],
            xx: vec![0.0; channels * channels],
            xe: vec![0.0; channels * hidden],
        }
    }

    pub fn sum<'a>(channels: usize, hidden: usize, parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::zeros(channels, hidden);
        for part in parts {
            sum.weight += part.weight;
            for (sums, values) in [(&mut sum.x, &part.x), (&mut sum.e, &part.e)] {
                sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
            }
            for (sums, values) in [(&mut sum.xx, &part.xx), (&mut sum.xe, &part.xe)] {
                sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
            }
        }
        sum
    }

    /// Takes in tokens: `rows [tokens, channels]`, the streams behind the block, and the weights.
    pub fn add(&mut self, rows: &[f32], full: &[f32], own: &[f32], weights: &[f64]) {
        let (channels, hidden) = (self.x.len(), self.e.len());
        let mut x = rows.to_vec();
        let mut e: Vec<f32> = full.iter().zip(own).map(|(full, own)| full - own).collect();
        let each = x.chunks_exact_mut(channels).zip(e.chunks_exact_mut(hidden));
        for ((x, e), weight) in each.zip(weights) {
            self.weight += weight;
            let root = weight.sqrt();
            for (sums, values) in [(&mut self.x, x), (&mut self.e, e)] {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * f64::from(*value);
                    *value *= root as f32;
                }
            }
        }
        let x = Window::whole(&x, weights.len(), channels);
        let e = Window::whole(&e, weights.len(), hidden);
        add_gram(&mut self.xx, x);
        add_transposed_matmul(&mut self.xe, hidden, x, e, 1.0, Threads::Pool);
    }

    /// The matrix and bias that foretell the drift; `None` where nothing has drifted, or where the
    /// network is broken and its stream holds no numbers.
    pub fn fit(&self) -> Option<Recovered> {
        let (channels, hidden) = (self.x.len(), self.e.len());
        if self.weight == 0.0 || self.xe.iter().all(|v| *v == 0.0) {
            return None;
        }
        let x: Vec<f64> = self.x.iter().map(|sum| sum / self.weight).collect();
        let e: Vec<f64> = self.e.iter().map(|sum| sum / self.weight).collect();
        let moment = |sums: &[f32], at: usize| f64::from(sums[at]) / self.weight;
        let covariance = |i: usize, j: usize| {
            let (high, low) = (i.max(j), i.min(j));
            moment(&self.xx, high * channels + low) - x[i] * x[j]
        };
        let variances = (0..channels).map(|i| covariance(i, i));
        let ridge = RIDGE * variances.sum::<f64>() / channels as f64 + f64::MIN_POSITIVE;
        let ridged = Mat::from_fn(channels, channels, |i, j| {
            covariance(i, j) + if i == j { ridge } else { 0.0 }
        });
        let target = Mat::from_fn(channels, hidden, |i, o| {
            moment(&self.xe, i * hidden + o) - x[i] * e[o]
        });
        let solution = Llt::new(ridged.as_ref(), Side::Lower).ok()?.solve(&target);
        let mut bias = e;
        let matrix = Array2::from_shape_fn((channels, hidden), |(i, o)| {
            bias[o] -= solution[(i, o)] * x[i];
            solution[(i, o)] as f32
        });
        let is_finite = matrix.iter().all(|v| v.is_finite()) && bias.iter().all(|v| v.is_finite());
        is_finite.then(|| Recovered {
            matrix,
            bias: bias.iter().map(|v| *v as f32).collect(),
        })
    }
}

/// What a fit foretells of the drift, `[tokens, hidden]`, from `rows [tokens, channels]`.
pub(super) fn foretold(fit: &Recovered, rows: &[f32]) -> Vec<f32> {
    let (channels, hidden) = fit.matrix.dim();
    let tokens = rows.len() / channels;
    let mut drift = fit.bias.repeat(tokens);
    matmul(
        &mut drift,
        hidden,
        Window::whole(rows, tokens, channels),
        window(&fit.matrix),
        Write::Add,
        Threads::Pool,
    );
    drift
}

/// How much of what is foretold comes true.
#[derive(Default)]
pub(super) struct Share {
    /// Of what was foretold and what was, weighted: the sum of their products.
    products: f64,
    /// And that of the squares of what was foretold.
    squares: f64,
}

impl Share {
    /// Takes in tokens that the fit has not seen.
    pub fn add(&mut self, foretold: &[f32], full: &[f32], own: &[f32], weights: &[f64]) {
        let hidden = full.len() / weights.len();
        for (token, weight) in weights.iter().enumerate() {
            let numbers = token * hidden..(token + 1) * hidden;
            let streams = full[numbers.clone()].iter().zip(&own[numbers.clone()]);
            for (foretold, (full, own)) in foretold[numbers].iter().zip(streams) {
                self.products += weight * f64::from(foretold * (full - own));
                self.squares += weight * f64::from(foretold * foretold);
            }
        }
    }

    /// The share of smallest squared error, between none and all.
    pub fn best(&self) -> f32 {
        let share = self.products / self.squares;
        if share.is_finite() {
            share.clamp(0.0, 1.0) as f32
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const CHANNELS: usize = 6;
    const HIDDEN: usize = 4;

    /// Channels, and streams whose drift is `told` of the channels and noise for the rest.
    fn tokens(seed: u64, count: usize, told: f32) -> [Vec<f32>; 3] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut numbers = |count: usize| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let rows = numbers(count * CHANNELS);
        let full = numbers(count * HIDDEN);
        let mut own = full.clone();
        let noise = numbers(count * HIDDEN);
        for (token, row) in rows.chunks_exact(CHANNELS).enumerate() {
            for out in 0..HIDDEN {
                let at = token * HIDDEN + out;
                let of_channels = row[out] - 0.5 * row[out + 1] + 0.25;
                own[at] -= told * of_channels + (1.0 - told) * noise[at];
            }
        }
        [rows, full, own]
    }

    fn fit(seed: u64, count: usize, told: f32) -> Recovered {
        let [rows, full, own] = tokens(seed, count, told);
        let mut moments = Moments::zeros(CHANNELS, HIDDEN);
        let weights = token_weights(&full, &own, HIDDEN, count + 1);
        moments.add(&rows, &full, &own, &weights);
        moments.fit().unwrap()
    }

    /// The share of a fit that unseen tokens bear out.
    fn share(fit: &Recovered, told: f32) -> f32 {
        let [rows, full, own] = tokens(9, 4000, told);
        let mut share = Share::default();
        let weights = token_weights(&full, &own, HIDDEN, 4000);
        share.add(&foretold(fit, &rows), &full, &own, &weights);
        share.best()
    }

    #[test]
    fn a_drift_that_channels_tell_is_found() {
        let fit = fit(1, 4000, 1.0);
        for out in 0..HIDDEN {
            assert!((fit.matrix[[out, out]] - 1.0).abs() < 0.03);
            assert!((fit.matrix[[out + 1, out]] + 0.5).abs() < 0.03);
            assert!((fit.bias[out] - 0.25).abs() < 0.03);
        }
        assert!(share(&fit, 1.0) > 0.97);
    }

    #[test]
    fn what_is_fitted_to_noise_is_not_taken() {
        assert!(share(&fit(1, 12, 0.0), 0.0) < 0.1);
        // Few tokens tell a little of a drift that is partly noise.
        let little = share(&fit(1, 12, 0.6), 0.6);
        assert!(
            little > 0.1 && little < share(&fit(1, 4000, 0.6), 0.6),
            "{little}"
        );
        assert_eq!(Share::default().best(), 0.0);
    }

    #[test]
    fn no_token_outweighs_the_others() {
        let full = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let own = [1.0, 1.0, 1.0, 1.0, 1.0, 1001.0];
        let weights = token_weights(&full, &own, 2, 3);
        assert_eq!(weights[..2], [0.0, 1.0]);
        // Its drift counts as much as the stream of any other.
        let drift = weights[2] * 1000.0f64.powi(2) / 2.0;
        assert!(drift > 0.9 && drift <= 1.0, "{drift}");
    }
}
