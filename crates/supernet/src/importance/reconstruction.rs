//! The order in which units are removed when those that are left make up for each as well as
//! they can.
//!
//! With `P` the inverse covariance of a block's channels and `W` the rows of its last matrix,
//! removing unit `u` and refitting the rest raises the mean squared error of the output by
//! `tr(W_u^T P_uu^-1 W_u)`, and leaves `P - P_:u P_uu^-1 P_u:` and `W - P_:u P_uu^-1 W_u` behind
//! (optimal brain surgeon, Hassibi & Stork 1993, for groups as in ZipLM, 2302.04089). Some units
//! go at a time, as in SlimGPT (2412.18110): fewer, the fewer are left.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::{DenseSolveCore, Llt, Solve};
use faer::{Accum, Mat, MatRef, Par, Side};
use ndarray::Array2;

use crate::SupernetError;
use crate::calibration::ChannelStatistics;
use crate::covariance::ridge_covariance;

/// One in this many of the units that are left is removed at a time.
const SHARE: usize = 48;

/// Units of `unit` channels each, the most important first. `matrix` is the block's last,
/// `[outputs, channels]`.
pub(super) fn order(
    matrix: &Array2<f32>,
    statistics: &ChannelStatistics,
    unit: usize,
) -> Result<Vec<usize>, SupernetError> {
    let (outputs, channels) = matrix.dim();
    let all: Vec<usize> = (0..channels).collect();
    let mut left = Left {
        units: (0..channels / unit).collect(),
        inverse: inverse(ridge_covariance(statistics, &all)?.as_ref()),
        weights: Mat::from_fn(channels, outputs, |i, o| f64::from(matrix[[o, i]])),
        unit,
    };
    let mut removed = Vec::with_capacity(left.units.len());
    while !left.units.is_empty() {
        removed.extend(left.remove(left.units.len().div_ceil(SHARE)));
    }
    removed.reverse();
    Ok(removed)
}

/// What has not been removed yet.
struct Left {
    units: Vec<usize>,
    /// Inverse covariance of their channels.
    inverse: Mat<f64>,
    /// Their refitted rows, `[channels, outputs]`.
    weights: Mat<f64>,
    unit: usize,
}

impl Left {
    /// Removes the `count` units that cost least and returns them, the cheapest first.
    fn remove(&mut self, count: usize) -> Vec<usize> {
        let losses: Vec<f64> = (0..self.units.len()).map(|at| self.loss(at)).collect();
        let mut cheapest: Vec<usize> = (0..losses.len()).collect();
        cheapest.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
        cheapest.truncate(count);
        let mut is_kept = vec![true; losses.len()];
        for &at in &cheapest {
            is_kept[at] = false;
        }
        let kept: Vec<usize> = (0..losses.len()).filter(|at| is_kept[*at]).collect();
        let removed = cheapest.iter().map(|&at| self.units[at]).collect();
        self.keep(&kept, &cheapest);
        removed
    }

    /// `tr(W_u^T P_uu^-1 W_u)`
    fn loss(&self, at: usize) -> f64 {
        let (start, unit) = (at * self.unit, self.unit);
        let rows = self.weights.get(start..start + unit, ..);
        if unit == 1 {
            return rows.squared_norm_l2() / self.inverse[(start, start)];
        }
        let block = self.inverse.get(start..start + unit, start..start + unit);
        let solved = solve(block, rows);
        let products = (0..unit).flat_map(|i| (0..rows.ncols()).map(move |o| (i, o)));
        products.map(|at| rows[at] * solved[at]).sum()
    }

    fn keep(&mut self, kept: &[usize], removed: &[usize]) {
        let channels = |units: &[usize]| -> Vec<usize> {
            let of = |at: &usize| at * self.unit..(at + 1) * self.unit;
            units.iter().flat_map(of).collect()
        };
        let (k, r) = (channels(kept), channels(removed));
        let pick = |matrix: &Mat<f64>, rows: &[usize], columns: &[usize]| {
            Mat::from_fn(rows.len(), columns.len(), |i, j| {
                matrix[(rows[i], columns[j])]
            })
        };
        let outputs: Vec<usize> = (0..self.weights.ncols()).collect();
        let across = pick(&self.inverse, &k, &r);
        let block = pick(&self.inverse, &r, &r);
        let back = solve(block.as_ref(), across.transpose());
        let rows = solve(block.as_ref(), pick(&self.weights, &r, &outputs).as_ref());
        let mut inverse = pick(&self.inverse, &k, &k);
        let mut weights = pick(&self.weights, &k, &outputs);
        matmul(&mut inverse, Accum::Add, &across, &back, -1.0, Par::Seq);
        matmul(&mut weights, Accum::Add, &across, &rows, -1.0, Par::Seq);
        self.units = kept.iter().map(|at| self.units[*at]).collect();
        (self.inverse, self.weights) = (inverse, weights);
    }
}

/// `a^-1 b` for a symmetric positive definite `a`.
fn solve(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    match Llt::new(a, Side::Lower) {
        Ok(factor) => factor.solve(b),
        // Rounding has left nothing of a direction: it is worth nothing.
        Err(_) => Mat::zeros(b.nrows(), b.ncols()),
    }
}

fn inverse(a: MatRef<'_, f64>) -> Mat<f64> {
    match Llt::new(a, Side::Lower) {
        Ok(factor) => factor.inverse(),
        Err(_) => Mat::from_fn(a.nrows(), a.ncols(), |i, j| {
            f64::from(u8::from(i == j)) / a[(i, i)]
        }),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn a_copy_is_worth_nothing_and_then_its_original_is_worth_both() {
        // Channel 2 is channel 0 with little noise: either can stand for both.
        let statistics = ChannelStatistics {
            mean: vec![0.0; 3],
            mean_square: vec![1.0, 1.0, 1.001],
            second_moment: arr2(&[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.001]]).into(),
            magnitude: vec![1.0; 3],
            following: Vec::new(),
        };
        let matrix = arr2(&[[1.0, 1.2, 0.9]]);
        // One at a time: the copy goes first, and what is left of the pair beats channel 1.
        assert_eq!(order(&matrix, &statistics, 1).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn groups_of_channels_go_together() {
        let mut moments: Array2<f32> = Array2::eye(6);
        moments[[4, 4]] = 1e-6;
        moments[[5, 5]] = 1e-6;
        let statistics = ChannelStatistics {
            mean: vec![0.0; 6],
            mean_square: moments.diag().iter().map(|v| f64::from(*v)).collect(),
            second_moment: moments.into(),
            magnitude: vec![1.0; 6],
            following: Vec::new(),
        };
        let matrix = arr2(&[[1.0, 1.0, 2.0, 2.0, 30.0, 30.0]]);
        assert_eq!(order(&matrix, &statistics, 2).unwrap(), [2, 1, 0]);
    }
}
