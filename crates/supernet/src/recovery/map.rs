//! A refit as the linear map that it is of the block's last matrix: `W' = W_k + F W_r + E` with
//! `F = A_kk^-1 A_kr` and `E = A_kk^-1 C_k`, and `b' = E[y] + W_r^T mu_r - (F W_r + E)^T mu_k`.
//!
//! `F` and `E` follow from the calibration alone. A training of the super-network holds them fixed:
//! gradients go back through them to the matrix that all its sub-networks share.

use faer::linalg::solvers::{Llt, Solve};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, MatMut, MatRef, Par, Side};
use ndarray::{Array2, Axis};

use super::{Absorbed, BlockRecovery, Factor, LAID_OUT};
use crate::SupernetError;
use crate::engine::matmul::{Threads, Window, Write, add_transposed_matmul, matmul};

/// What becomes of the last matrix `[channels, outputs]` of a block when some channels are kept.
pub(crate) struct RefitMap {
    kept: Vec<usize>,
    removed: Vec<usize>,
    /// `F [kept, removed]`, where the kept channels get new weights.
    fill: Option<Array2<f32>>,
    /// `E [kept, outputs]`, where the block stands in for others.
    absorbed: Option<Array2<f32>>,
    /// Means of all channels; `None` where nothing stands for removed ones.
    mean: Option<Vec<f32>>,
    /// Mean output of what the block stands in for, or of what the norm behind it gave.
    constant: Option<Vec<f32>>,
}

impl BlockRecovery {
    /// The map to the channels `kept` of `channels`, given in rising order.
    ///
    /// # Errors
    /// When the calibration's file cannot be read.
    pub fn map(
        &self,
        channels: usize,
        kept: Vec<usize>,
        absorbed: &[Absorbed],
    ) -> Result<RefitMap, SupernetError> {
        let mut is_kept = vec![false; channels];
        kept.iter().for_each(|&channel| is_kept[channel] = true);
        let removed: Vec<usize> = (0..channels).filter(|&channel| !is_kept[channel]).collect();
        let mut map = RefitMap {
            kept,
            removed,
            fill: None,
            absorbed: None,
            mean: self.mean.clone(),
            constant: None,
        };
        let (Some(factor), Some(means)) = (&self.factor, &self.mean) else {
            return Ok(map);
        };
        if map.kept.is_empty() {
            return Ok(map);
        }
        let mut covariance: Option<Array2<f32>> = None;
        let mut constant: Option<Vec<f32>> = None;
        for block in absorbed {
            let one = factor.covariance(means, &map.kept, block)?;
            covariance = Some(covariance.map_or(one.clone(), |sum| sum + &one));
            let sum = constant.get_or_insert_with(|| vec![0.0; block.mean_output.len()]);
            let outputs = sum.iter_mut().zip(&block.mean_output);
            outputs.for_each(|(sum, value)| *sum += value);
        }
        let is_prefix = map.kept.iter().enumerate().all(|(at, kept)| at == *kept);
        let solved = match is_prefix {
            true => Some(factor.fill_of_first(map.kept.len(), channels, covariance)),
            false => factor.fill_of_subset(&map.kept, &map.removed, covariance),
        };
        if let Some((fill, covariance)) = solved {
            map.fill = Some(fill);
            map.absorbed = covariance;
            map.constant = constant;
        }
        Ok(map)
    }

    /// The map of a block that is removed and that no other one stands in for.
    pub fn map_of_removed(&self, channels: usize) -> RefitMap {
        let normed = self.normed_output.clone();
        RefitMap {
            kept: Vec::new(),
            removed: (0..channels).collect(),
            fill: None,
            absorbed: None,
            mean: self.mean.clone().filter(|_| normed.is_none()),
            constant: normed,
        }
    }
}

impl Factor {
    /// `L_kk^-T L_rk^T` of the first `kept` channels, and `A_kk^-1` times `covariance`.
    fn fill_of_first(
        &self,
        kept: usize,
        channels: usize,
        covariance: Option<Array2<f32>>,
    ) -> (Array2<f32>, Option<Array2<f32>>) {
        let square = self.lower.block(0..kept, kept);
        let lower = MatRef::from_row_major_slice(&square, kept, kept);
        let below = self.lower.block(kept..channels, kept);
        let below = Array2::from_shape_vec((channels - kept, kept), below);
        let below = below.expect("a block has as many numbers as rows times columns");
        let mut fill = below.t().as_standard_layout().into_owned();
        solve_upper_triangular_in_place(lower.transpose(), of(&mut fill), Par::Seq);
        let covariance = covariance.map(|mut covariance| {
            solve_lower_triangular_in_place(lower, of(&mut covariance), Par::Seq);
            solve_upper_triangular_in_place(lower.transpose(), of(&mut covariance), Par::Seq);
            covariance
        });
        (fill, covariance)
    }

    /// The same of any channels: `A_KK^-1 A_KR`.
    fn fill_of_subset(
        &self,
        kept: &[usize],
        removed: &[usize],
        covariance: Option<Array2<f32>>,
    ) -> Option<(Array2<f32>, Option<Array2<f32>>)> {
        let channels = kept.len() + removed.len();
        let lower = self.lower.block(0..channels, channels);
        let lower = MatRef::from_row_major_slice(&lower, channels, channels);
        let rows = |of: &[usize]| {
            let row = |i: usize, j: usize| f64::from(lower[(of[i], j)]);
            Mat::from_fn(of.len(), channels, row)
        };
        let (kept, removed) = (rows(kept), rows(removed));
        let factor = Llt::new((&kept * kept.transpose()).as_ref(), Side::Lower).ok()?;
        let array = |solution: Mat<f64>| {
            let shape = (solution.nrows(), solution.ncols());
            Array2::from_shape_fn(shape, |at| solution[at] as f32)
        };
        let fill = array(factor.solve(&(&kept * removed.transpose())));
        let covariance = covariance.map(|covariance| {
            let (rows, outputs) = covariance.dim();
            let wide = Mat::from_fn(rows, outputs, |i, o| f64::from(covariance[[i, o]]));
            array(factor.solve(&wide))
        });
        Some((fill, covariance))
    }
}

impl RefitMap {
    /// The kept channels' weights, and the bias beside them.
    pub fn apply(&self, matrix: &Array2<f32>) -> (Array2<f32>, Option<Vec<f32>>) {
        let outputs = matrix.ncols();
        let mut added = match &self.absorbed {
            Some(absorbed) => absorbed.clone(),
            None => Array2::zeros((self.kept.len(), outputs)),
        };
        let removed = matrix.select(Axis(0), &self.removed);
        if let Some(fill) = self.fill.as_ref().filter(|_| !self.removed.is_empty()) {
            let out = added.as_slice_mut().expect(LAID_OUT);
            let (fill, rows) = (view(fill), view(&removed));
            matmul(out, outputs, fill, rows, Write::Add, Threads::One);
        }
        let bias = self.bias(&removed, &added);
        (added + matrix.select(Axis(0), &self.kept), bias)
    }

    fn bias(&self, removed: &Array2<f32>, added: &Array2<f32>) -> Option<Vec<f32>> {
        let Some(mean) = &self.mean else {
            return self.constant.clone();
        };
        let mut bias = match &self.constant {
            Some(constant) => constant.iter().map(|v| f64::from(*v)).collect(),
            None => vec![0.0; removed.ncols()],
        };
        for (row, &channel) in removed.rows().into_iter().zip(&self.removed) {
            super::add_scaled(&mut bias, f64::from(mean[channel]), row.iter());
        }
        for (row, &channel) in added.rows().into_iter().zip(&self.kept) {
            super::add_scaled(&mut bias, -f64::from(mean[channel]), row.iter());
        }
        Some(bias.iter().map(|b| *b as f32).collect())
    }

    /// Adds `scale` times the gradient of the whole matrix to `sum`, from those of what
    /// [`Self::apply`] gave.
    pub fn add_back(
        &self,
        d_kept: Option<&Array2<f32>>,
        d_bias: Option<&[f32]>,
        scale: f32,
        sum: &mut Array2<f32>,
    ) {
        let outputs = sum.ncols();
        let d_bias = d_bias.filter(|_| self.mean.is_some());
        let mean_of = |channel: usize| self.mean.as_ref().map_or(0.0, |mean| mean[channel]);
        if let Some(d_kept) = d_kept {
            for (row, &channel) in d_kept.rows().into_iter().zip(&self.kept) {
                add(sum, channel, scale, row.iter());
            }
        }
        if let (Some(fill), Some(d_kept)) = (&self.fill, d_kept) {
            // The bias has the added weights in it.
            let mut d_added = d_kept.clone();
            if let Some(d_bias) = d_bias {
                for (mut row, &channel) in d_added.rows_mut().into_iter().zip(&self.kept) {
                    let mean = mean_of(channel);
                    let values = row.iter_mut().zip(d_bias);
                    values.for_each(|(value, d)| *value -= mean * d);
                }
            }
            let mut d_removed = vec![0.0; self.removed.len() * outputs];
            let (fill, rows) = (view(fill), view(&d_added));
            add_transposed_matmul(&mut d_removed, outputs, fill, rows, 1.0, Threads::One);
            let rows = d_removed.chunks_exact(outputs).zip(&self.removed);
            rows.for_each(|(row, &channel)| add(sum, channel, scale, row.iter()));
        }
        if let Some(d_bias) = d_bias {
            for &channel in &self.removed {
                add(sum, channel, scale * mean_of(channel), d_bias.iter());
            }
        }
    }

    /// Numbers that it holds.
    pub fn len(&self) -> usize {
        let matrices = [&self.fill, &self.absorbed];
        matrices.into_iter().flatten().map(Array2::len).sum()
    }
}

/// `sum[row] += scale values`
fn add<'a>(sum: &mut Array2<f32>, row: usize, scale: f32, values: impl Iterator<Item = &'a f32>) {
    let sums = sum.row_mut(row).into_iter().zip(values);
    sums.for_each(|(sum, value)| *sum += scale * value);
}

fn of(matrix: &mut Array2<f32>) -> MatMut<'_, f32> {
    let (rows, columns) = matrix.dim();
    MatMut::from_row_major_slice_mut(matrix.as_slice_mut().expect(LAID_OUT), rows, columns)
}

fn view(matrix: &Array2<f32>) -> Window<'_> {
    let (rows, columns) = matrix.dim();
    Window::whole(matrix.as_slice().expect(LAID_OUT), rows, columns)
}
