//! What stands for the units that were cut away: nothing, their mean output, or the best linear
//! fit of the units that are left.
//!
//! The fit minimises `E |W^T x - (W'^T x_K + b')|^2` over calibration tokens, with a ridge that
//! draws `W'` towards the checkpoint's own rows. With `A = Cov(x) + lambda I = L L^T`, channels
//! in order of importance, keeping the first `k` and removing the rest `r` has the solution
//! `W' = W_k + L_kk^-T L_rk^T W_r` and `b' = W^T mu - W'^T mu_K`: one factorisation serves every
//! `k`, and a candidate costs one triangular solve. Where the block stands in for a removed one
//! with output `y`, `A_kk^-1 Cov(x_k, y)` is added to `W'` and `E[y]` to `W^T mu`.
//!
//! Where a norm stands behind the block's last matrix (Gemma), fit and bias are still those of the
//! matrix's output, and the norm takes them in. A removed block has no norm left: it is replaced by
//! the mean of what the norm gave.

mod map;

use std::ops::Range;
use std::str::FromStr;

use faer::linalg::solvers::{Llt, Solve};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, MatMut, MatRef, Par, Side};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::calibration::{ChannelStatistics, StoredMatrix};
use crate::covariance::ridge_covariance;
use crate::engine::matmul::{Threads, Window, add_transposed_matmul};

pub(crate) use map::RefitMap;

/// Why a matrix has its numbers in one slice.
const LAID_OUT: &str = "a matrix that was made row by row is laid out so";

/// What stands for the units that were cut away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recovery {
    /// Nothing.
    None,
    /// Their mean output, as a bias (FLAP, 2312.11983).
    Bias,
    /// The ridge least-squares fit of the units that are left, and a bias.
    LeastSquares,
}

impl FromStr for Recovery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "bias" => Ok(Self::Bias),
            "least-squares" => Ok(Self::LeastSquares),
            other => Err(format!("`{other}`: expected none, bias or least-squares")),
        }
    }
}

/// What one block needs for its recovery, channels in order of importance.
pub(crate) struct BlockRecovery {
    /// Means of the channels; `None` where nothing stands for removed units.
    mean: Option<Vec<f32>>,
    factor: Option<Factor>,
    /// Mean of what the norm behind the block gives, where there is one.
    normed_output: Option<Vec<f32>>,
}

/// A removed block that another one stands in for.
pub(crate) struct Absorbed {
    /// How many blocks further on it was, less 1.
    pub ahead: usize,
    /// Its mean output, `[outputs]`.
    pub mean_output: Vec<f32>,
}

struct Factor {
    lower: LowerTriangle,
    /// Mean squared error of the output when the first `k` channels are kept, for every `k` from
    /// none to all.
    errors: Vec<f64>,
    /// Mean products with the outputs of the next blocks, `[channels, outputs]`, channels in the
    /// checkpoint's order, and which of them stands where.
    following: Vec<StoredMatrix>,
    order: Vec<usize>,
}

/// `L`, row after row, without the zeros above the diagonal.
struct LowerTriangle(Vec<f32>);

/// A last matrix for the channels that are kept, and the bias beside it.
pub(crate) struct Recovered {
    /// `[kept channels, outputs]`
    pub matrix: Array2<f32>,
    /// `[outputs]`
    pub bias: Vec<f32>,
}

impl BlockRecovery {
    /// `matrix` is the block's last, `[channels, outputs]`, its channels picked from the
    /// checkpoint's in `order`.
    ///
    /// # Errors
    /// When the calibration's file cannot be read.
    pub fn new(
        statistics: &ChannelStatistics,
        order: &[usize],
        matrix: &Array2<f32>,
        recovery: Recovery,
    ) -> Result<Self, SupernetError> {
        let factor = match recovery {
            Recovery::LeastSquares => Factor::new(statistics, order, matrix)?,
            Recovery::None | Recovery::Bias => None,
        };
        let mean = || order.iter().map(|&i| statistics.mean[i] as f32).collect();
        Ok(Self {
            mean: (recovery != Recovery::None).then(mean),
            factor,
            normed_output: None,
        })
    }

    /// The recovery of a block with a norm behind it, whose mean output is `mean`.
    pub fn with_normed_output(mut self, mean: Option<&[f64]>) -> Self {
        let mean = mean.filter(|_| self.mean.is_some());
        self.normed_output = mean.map(|mean| mean.iter().map(|v| *v as f32).collect());
        self
    }

    /// What stands for the whole block, `[outputs]`.
    pub fn removed_block(&self, matrix: &Array2<f32>) -> Option<Vec<f32>> {
        let output = self.normed_output.clone();
        output.or_else(|| self.mean_output(matrix, 0..matrix.nrows()))
    }

    /// Whether the kept channels get new weights.
    pub fn is_refitted(&self) -> bool {
        self.factor.is_some()
    }

    /// How many of the next blocks this one can stand in for.
    pub fn reach(&self) -> usize {
        self.factor.as_ref().map_or(0, |f| f.following.len())
    }

    /// Changes with the means and the fit.
    pub fn digest(&self) -> u64 {
        let means = self.mean.iter().flatten().map(|mean| mean.to_bits().into());
        let fit = self.factor.iter().map(|factor| factor.errors[0].to_bits());
        let fit = fit.chain([self.reach() as u64]);
        let outputs = self.normed_output.iter().flatten();
        let outputs = outputs.map(|mean| mean.to_bits().into());
        means
            .chain(fit)
            .chain(outputs)
            .fold(0, |sum: u64, bits: u64| sum.rotate_left(7) ^ bits)
    }

    /// Mean squared error of the block's output, and the ridge's share of it, when the first
    /// `kept` channels are refitted; `None` when nothing is refitted.
    pub fn error(&self, kept: usize) -> Option<f64> {
        Some(self.factor.as_ref()?.errors[kept])
    }

    /// The mean output of the channels that are not kept, `[outputs]`.
    pub fn mean_output(
        &self,
        matrix: &Array2<f32>,
        removed: impl Iterator<Item = usize>,
    ) -> Option<Vec<f32>> {
        let means = self.mean.as_ref()?;
        let mut bias = vec![0.0f64; matrix.ncols()];
        for channel in removed {
            let mean = f64::from(means[channel]);
            add_scaled(&mut bias, mean, matrix.row(channel).iter());
        }
        Some(bias.iter().map(|b| *b as f32).collect())
    }

    /// Refitted weights of the kept channels, given in rising order, for the block's own output
    /// and those of the removed blocks it stands in for; `None` when nothing is refitted.
    ///
    /// # Errors
    /// When the calibration's file cannot be read.
    pub fn refit(
        &self,
        matrix: &Array2<f32>,
        kept: &[usize],
        absorbed: &[Absorbed],
    ) -> Result<Option<Recovered>, SupernetError> {
        let (Some(factor), Some(means)) = (&self.factor, &self.mean) else {
            return Ok(None);
        };
        let mut covariance = None;
        for block in absorbed {
            let one = factor.covariance(means, kept, block)?;
            covariance = Some(match covariance {
                Some(sum) => one + &sum,
                None => one,
            });
        }
        let is_prefix = kept.iter().enumerate().all(|(at, channel)| at == *channel);
        let refitted = if is_prefix {
            factor.first(matrix, kept.len(), covariance)
        } else {
            let Some(refitted) = factor.subset(matrix, kept, covariance) else {
                return Ok(None);
            };
            refitted
        };
        let mut bias = vec![0.0f64; matrix.ncols()];
        for (row, mean) in matrix.rows().into_iter().zip(means) {
            add_scaled(&mut bias, f64::from(*mean), row.iter());
        }
        for block in absorbed {
            add_scaled(&mut bias, 1.0, block.mean_output.iter());
        }
        for (row, channel) in refitted.rows().into_iter().zip(kept) {
            add_scaled(&mut bias, -f64::from(means[*channel]), row.iter());
        }
        Ok(Some(Recovered {
            matrix: refitted,
            bias: bias.iter().map(|b| *b as f32).collect(),
        }))
    }
}

impl Factor {
    /// `None` where the covariance is not positive definite in spite of the ridge: the moments are
    /// no moments.
    fn new(
        statistics: &ChannelStatistics,
        order: &[usize],
        matrix: &Array2<f32>,
    ) -> Result<Option<Self>, SupernetError> {
        let covariance = ridge_covariance(statistics, order)?;
        let Ok(factor) = Llt::new(covariance.as_ref(), Side::Lower) else {
            return Ok(None);
        };
        let lower = factor.L();
        let (channels, outputs) = matrix.dim();
        let weights = Mat::from_fn(channels, outputs, |i, o| f64::from(matrix[[i, o]]));
        let projected = lower.transpose() * &weights;
        // Row `r` of `L^T W` holds what only channels from `r` on can give.
        let mut errors = vec![0.0; channels + 1];
        for row in (0..channels).rev() {
            let square: f64 = (0..outputs).map(|o| projected[(row, o)].powi(2)).sum();
            errors[row] = errors[row + 1] + square;
        }
        let rows = (0..channels).flat_map(|i| (0..=i).map(move |j| lower[(i, j)] as f32));
        Ok(Some(Self {
            errors,
            lower: LowerTriangle(rows.collect()),
            following: statistics.following.clone(),
            order: order.to_vec(),
        }))
    }

    /// Covariance of the kept channels with the output of a following block, `[kept, outputs]`.
    fn covariance(
        &self,
        means: &[f32],
        kept: &[usize],
        block: &Absorbed,
    ) -> Result<Array2<f32>, SupernetError> {
        let products = self.following[block.ahead].load()?;
        let outputs = block.mean_output.len();
        Ok(Array2::from_shape_fn((kept.len(), outputs), |(i, o)| {
            let (channel, mean) = (self.order[kept[i]], f64::from(means[kept[i]]));
            let product = f64::from(products[[channel, o]]);
            (product - mean * f64::from(block.mean_output[o])) as f32
        }))
    }

    /// Weights of the first `kept` channels: their own and
    /// `L_kk^-T (L_rk^T W_r + L_kk^-1 C_k)`, with the removed rows `r` and the covariance `C` with
    /// what else the block has to give.
    fn first(
        &self,
        matrix: &Array2<f32>,
        kept: usize,
        covariance: Option<Array2<f32>>,
    ) -> Array2<f32> {
        let (channels, outputs) = matrix.dim();
        let (removed, lower) = (channels - kept, self.lower.block(0..kept, kept));
        let lower = MatRef::from_row_major_slice(&lower, kept, kept);
        let mut solution = covariance.unwrap_or_else(|| Array2::zeros((kept, outputs)));
        let values = solution.as_slice_mut().expect(LAID_OUT);
        let rows = MatMut::from_row_major_slice_mut(&mut *values, kept, outputs);
        solve_lower_triangular_in_place(lower, rows, Par::Seq);
        let below = self.lower.block(kept..channels, kept);
        let weights = matrix.as_slice().expect(LAID_OUT);
        add_transposed_matmul(
            values,
            outputs,
            Window::whole(&below, removed, kept),
            Window::whole(&weights[kept * outputs..], removed, outputs),
            1.0,
            Threads::One,
        );
        let rows = MatMut::from_row_major_slice_mut(values, kept, outputs);
        solve_upper_triangular_in_place(lower.transpose(), rows, Par::Seq);
        solution + matrix.slice(ndarray::s![..kept, ..])
    }

    /// Weights of any channels: `(A_KK)^-1 (A_K: W + C_K)`, with `A = L L^T`.
    fn subset(
        &self,
        matrix: &Array2<f32>,
        kept: &[usize],
        covariance: Option<Array2<f32>>,
    ) -> Option<Array2<f32>> {
        let (channels, outputs) = matrix.dim();
        let lower = self.lower.block(0..channels, channels);
        let lower = MatRef::from_row_major_slice(&lower, channels, channels);
        let rows = Mat::from_fn(kept.len(), channels, |i, j| f64::from(lower[(kept[i], j)]));
        let weights = Mat::from_fn(channels, outputs, |i, o| f64::from(matrix[[i, o]]));
        let full = Mat::from_fn(channels, channels, |i, j| f64::from(lower[(i, j)]));
        let mut target = &rows * (full.transpose() * weights);
        if let Some(covariance) = covariance {
            target += Mat::from_fn(kept.len(), outputs, |i, o| f64::from(covariance[[i, o]]));
        }
        let factor = Llt::new((&rows * rows.transpose()).as_ref(), Side::Lower).ok()?;
        let solution = factor.solve(&target);
        let shape = (solution.nrows(), solution.ncols());
        Some(Array2::from_shape_fn(shape, |at| solution[at] as f32))
    }
}

impl LowerTriangle {
    /// The first `columns` columns of some rows, row-major, with the zeros.
    fn block(&self, rows: Range<usize>, columns: usize) -> Vec<f32> {
        let mut block = vec![0.0; rows.len() * columns];
        for (row, out) in rows.zip(block.chunks_exact_mut(columns.max(1))) {
            let filled = columns.min(row + 1);
            let start = row * (row + 1) / 2;
            out[..filled].copy_from_slice(&self.0[start..start + filled]);
        }
        block
    }
}

fn add_scaled<'a>(sums: &mut [f64], factor: f64, row: impl Iterator<Item = &'a f32>) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += factor * f64::from(*value);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const CHANNELS: usize = 12;
    const OUTPUTS: usize = 5;

    /// Samples of correlated channels, and a matrix.
    fn samples() -> (Array2<f64>, Array2<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let hidden = Array2::from_shape_fn((400, 4), |_| rng.random_range(-1.0..1.0));
        let mix = Array2::from_shape_fn((4, CHANNELS), |_| rng.random_range(-1.0..1.0));
        let noise = Array2::from_shape_fn((400, CHANNELS), |_| rng.random_range(-0.3..0.3));
        let x = hidden.dot(&mix) + noise + 0.7;
        let matrix = Array2::from_shape_fn((CHANNELS, OUTPUTS), |_| rng.random_range(-1.0..1.0));
        (x, matrix)
    }

    fn recovery() -> (Array2<f64>, Array2<f32>, BlockRecovery) {
        let (x, matrix) = samples();
        let count = x.nrows() as f64;
        let next = next_output(&x);
        let statistics = ChannelStatistics {
            mean: (x.sum_axis(ndarray::Axis(0)) / count).to_vec(),
            mean_square: x
                .mapv(|v| v * v)
                .mean_axis(ndarray::Axis(0))
                .unwrap()
                .to_vec(),
            second_moment: (x.t().dot(&x) / count).mapv(|v| v as f32).into(),
            magnitude: vec![0.0; CHANNELS],
            following: vec![(x.t().dot(&next) / count).mapv(|v| v as f32).into()],
        };
        let order: Vec<usize> = (0..CHANNELS).collect();
        let recovery =
            BlockRecovery::new(&statistics, &order, &matrix, Recovery::LeastSquares).unwrap();
        (x, matrix, recovery)
    }

    /// What the next block gives: half of it bends.
    fn next_output(x: &Array2<f64>) -> Array2<f64> {
        Array2::from_shape_fn((x.nrows(), OUTPUTS), |(t, o)| {
            x[[t, o]] - 2.0 * x[[t, o + 3]] + (x[[t, o]] * x[[t, 7]]).tanh() + 3.0
        })
    }

    #[test]
    fn a_removed_block_is_stood_in_for() {
        let (x, matrix, recovery) = recovery();
        let next = next_output(&x);
        let mean_output = next.sum_axis(ndarray::Axis(0)) / x.nrows() as f64;
        let absorbed = Absorbed {
            ahead: 0,
            mean_output: mean_output.iter().map(|v| *v as f32).collect(),
        };
        let target = x.dot(&matrix.mapv(f64::from)) + &next;
        let error = |kept: &[usize], got: &Recovered| {
            let inputs = x.select(ndarray::Axis(1), kept);
            let bias = Array1::from_iter(got.bias.iter().map(|b| f64::from(*b)));
            let output = inputs.dot(&got.matrix.mapv(f64::from)) + bias;
            (&target - output).mapv(|e| e * e).sum()
        };
        for kept in [
            (0..CHANNELS).collect(),
            (0..8).collect(),
            vec![0, 3, 4, 9, 10],
        ] {
            let refit = |absorbed: &[Absorbed]| {
                let refitted = recovery.refit(&matrix, &kept, absorbed);
                refitted.unwrap().unwrap()
            };
            let fitted = refit(std::slice::from_ref(&absorbed));
            let mut by_mean = refit(&[]);
            let sums = by_mean.bias.iter_mut().zip(&absorbed.mean_output);
            sums.for_each(|(bias, mean)| *bias += mean);
            let (fitted, by_mean) = (error(&kept, &fitted), error(&kept, &by_mean));
            assert!(fitted < 0.6 * by_mean, "{kept:?}: {fitted} {by_mean}");
        }
    }

    /// Mean squared error of the output.
    fn error(x: &Array2<f64>, matrix: &Array2<f32>, kept: &[usize], got: &Recovered) -> f64 {
        let mut squares = 0.0;
        for row in x.rows() {
            for o in 0..OUTPUTS {
                let full: f64 = (0..CHANNELS)
                    .map(|c| row[c] * f64::from(matrix[[c, o]]))
                    .sum();
                let kept = kept.iter().enumerate();
                let cut: f64 = kept
                    .map(|(at, c)| row[*c] * f64::from(got.matrix[[at, o]]))
                    .sum();
                squares += (full - cut - f64::from(got.bias[o])).powi(2);
            }
        }
        squares / x.nrows() as f64
    }

    #[test]
    fn nothing_near_the_fit_is_better() {
        let (x, matrix, recovery) = recovery();
        for kept in [vec![0, 1, 2, 3, 4, 5], vec![1, 4, 5, 9]] {
            let fitted = recovery.refit(&matrix, &kept, &[]).unwrap().unwrap();
            let plain = Recovered {
                matrix: matrix.select(ndarray::Axis(0), &kept),
                bias: recovery
                    .mean_output(&matrix, (0..CHANNELS).filter(|c| !kept.contains(c)))
                    .unwrap(),
            };
            let (best, bias_only) = (
                error(&x, &matrix, &kept, &fitted),
                error(&x, &matrix, &kept, &plain),
            );
            assert!(best < 0.7 * bias_only, "{best} {bias_only}");
            // Beyond what the ridge costs, no change of one weight helps.
            for at in 0..kept.len() {
                for step in [-0.05f32, 0.05] {
                    let mut other = Recovered {
                        matrix: fitted.matrix.clone(),
                        bias: fitted.bias.clone(),
                    };
                    other.matrix[[at, 0]] += step;
                    other.bias[0] -= step * recovery.mean.as_ref().unwrap()[kept[at]];
                    assert!(error(&x, &matrix, &kept, &other) > 0.995 * best);
                }
            }
        }
    }

    #[test]
    fn the_error_of_a_fit_is_known_before_it_is_made() {
        let (x, matrix, recovery) = recovery();
        for kept in 1..CHANNELS {
            let channels: Vec<usize> = (0..kept).collect();
            let fitted = recovery.refit(&matrix, &channels, &[]).unwrap().unwrap();
            let (known, measured) = (
                recovery.error(kept).unwrap(),
                error(&x, &matrix, &channels, &fitted),
            );
            // The ridge stands in the one and not in the other.
            assert!(
                measured <= 1.01 * known && known < 1.15 * measured,
                "{known} {measured}"
            );
        }
        assert_eq!(recovery.error(CHANNELS), Some(0.0));
    }

    #[test]
    fn a_prefix_is_a_subset() {
        let (_, matrix, recovery) = recovery();
        let factor = recovery.factor.as_ref().unwrap();
        let kept: Vec<usize> = (0..7).collect();
        let (a, b) = (
            factor.first(&matrix, 7, None),
            factor.subset(&matrix, &kept, None).unwrap(),
        );
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        let all: Vec<usize> = (0..CHANNELS).collect();
        let whole = recovery.refit(&matrix, &all, &[]).unwrap().unwrap();
        for (a, b) in whole.matrix.iter().zip(&matrix) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }
}
