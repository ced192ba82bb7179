//! Matrix products on faer's kernels.

use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows and columns of the part of a product that one task makes. The columns of its right operand
/// stay in the second-level cache, and the parts are many enough for threads to end together.
const TILE: (usize, usize) = (512, 48);

/// A row-major window of a matrix: `rows x cols`, consecutive rows `stride` numbers apart.
///
/// The window may be part of a wider matrix, which is how a sub-network reads the
/// super-network's weights without a copy.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Window<'a> {
    /// A window of `rows x cols` at the start of `values`.
    ///
    /// # Panics
    /// When the window does not lie inside `values`.
    pub fn new(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride || rows <= 1, "rows overlap");
        assert!(span(rows, cols, stride) <= values.len(), "outside the data");
        Self {
            values,
            rows,
            cols,
            stride,
        }
    }

    /// A whole matrix of `rows x cols`.
    pub fn whole(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(values, rows, cols, cols)
    }

    /// The `cols` columns from `start` on.
    pub fn columns(self, start: usize, cols: usize) -> Self {
        assert!(start + cols <= self.cols, "columns outside the window");
        let values = self.values.get(start..).unwrap_or_default();
        Self::new(values, self.rows, cols, self.stride)
    }

    /// The `rows` rows from `start` on.
    pub fn rows(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows, "rows outside the window");
        Self::new(
            &self.values[(start * self.stride).min(self.values.len())..],
            rows,
            self.cols,
            self.stride,
        )
    }

    /// Row `index`, `[cols]`.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.cols]
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn col_count(&self) -> usize {
        self.cols
    }

    fn view(self) -> MatRef<'a, f32> {
        MatRef::from_row_major_slice_with_stride(self.values, self.rows, self.cols, self.stride)
    }
}

/// Numbers from the first to the last of a window.
fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    (rows - 1)
        .checked_mul(stride)
        .and_then(|n| n.checked_add(cols))
        .expect("a window in memory has a span that fits usize")
}

/// What happens to the numbers already in the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// How many threads one product may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Only the calling thread.
    One,
    /// All threads of the current rayon pool.
    Pool,
}

/// `out = a b`, or `out += a b`. `a` is `[m, k]`, `b` is `[k, n]`, `out` is `[m, n]` with
/// consecutive rows `out_stride` apart.
///
/// # Panics
/// When the shapes do not fit together or `out` is too short.
pub fn matmul(
    out: &mut [f32],
    out_stride: usize,
    a: Window<'_>,
    b: Window<'_>,
    write: Write,
    threads: Threads,
) {
    let (a, b) = (a.view(), b.view());
    product(out, out_stride, a, b, 1.0, write, threads);
}

/// `out = scale a b^T`, or `out += scale a b^T`. `a` is `[m, k]`, `b` is `[n, k]`, `out` is
/// `[m, n]`.
///
/// # Panics
/// When the shapes do not fit together or `out` is too short.
pub fn matmul_transposed(
    out: &mut [f32],
    out_stride: usize,
    a: Window<'_>,
    b: Window<'_>,
    scale: f32,
    write: Write,
    threads: Threads,
) {
    let (a, b) = (a.view(), b.view().transpose());
    product(out, out_stride, a, b, scale, write, threads);
}

/// `out += scale a^T b`: what a sum over tokens is. `a` is `[tokens, m]`, `b` is `[tokens, n]`,
/// `out` is `[m, n]`.
///
/// # Panics
/// When the shapes do not fit together or `out` is too short.
pub fn add_transposed_matmul(
    out: &mut [f32],
    out_stride: usize,
    a: Window<'_>,
    b: Window<'_>,
    scale: f32,
    threads: Threads,
) {
    let copy;
    let a = match threads {
        Threads::One => a.view(),
        Threads::Pool => {
            copy = by_column(a);
            copy.as_ref()
        }
    };
    let (a, b) = (a.transpose(), b.view());
    product(out, out_stride, a, b, scale, Write::Add, threads);
}

/// `out += x^T x`. `x` is `[tokens, n]`, `out` is `[n, n]`; only the lower triangle is right.
///
/// # Panics
/// When `out` is too short.
pub fn add_gram(out: &mut [f32], x: Window<'_>) {
    /// Columns at a time: what lies above the band's diagonal is not computed.
    const BAND: usize = 384;
    let n = x.cols;
    let transposed = by_column(x);
    for start in (0..n).step_by(BAND) {
        let band = BAND.min(n - start);
        let below = transposed.as_ref().subcols(start, n - start).transpose();
        let columns = x.columns(start, band).view();
        let out = &mut out[start * n + start..];
        product(out, n, below, columns, 1.0, Write::Add, Threads::Pool);
    }
}

/// A copy whose columns are contiguous: the kernels take a left operand by rows faster than the
/// copy takes to make.
fn by_column(x: Window<'_>) -> Mat<f32> {
    /// Columns handed to one task: a cache line of a row.
    const COLUMNS: usize = 16;
    let mut copy = Mat::zeros(x.rows, x.cols);
    let to = copy.par_col_chunks_mut(COLUMNS);
    let parts = to.zip(x.view().par_col_chunks(COLUMNS));
    parts.for_each(|(mut to, from)| to.copy_from(from));
    copy
}

fn product(
    out: &mut [f32],
    out_stride: usize,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
    scale: f32,
    write: Write,
    threads: Threads,
) {
    let (m, n) = (a.nrows(), b.ncols());
    // As a transpose: faer 0.24's constructor of rows with a stride swaps the two strides.
    let out = MatMut::from_column_major_slice_with_stride_mut(out, n, m, out_stride);
    let out = out.transpose_mut();
    let accumulate = match write {
        Write::Replace => Accum::Replace,
        Write::Add => Accum::Add,
    };
    let tile = |out: MatMut<'_, f32>, a, b| {
        faer::linalg::matmul::matmul(out, accumulate, a, b, scale, Par::Seq);
    };
    let (rows, columns) = match threads {
        Threads::One => return tile(out, a, b),
        Threads::Pool => TILE,
    };
    let bands = out.par_row_chunks_mut(rows).zip(a.par_row_chunks(rows));
    bands.for_each(|(out, a)| {
        let tiles = out
            .par_col_chunks_mut(columns)
            .zip(b.par_col_chunks(columns));
        tiles.for_each(|(out, b)| tile(out, a, b));
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    proptest! {
        #[test]
        fn a_gram_matrix_is_the_product_with_its_transpose(
            tokens in 1usize..9,
            n in prop::sample::select(vec![1usize, 7, 383, 384, 385, 800]),
        ) {
            let x = random(tokens * n, 5);
            let mut out = vec![1.0; n * n];
            add_gram(&mut out, Window::whole(&x, tokens, n));
            for (i, j) in (0..n).step_by(31).flat_map(|i| (0..=i).step_by(17).map(move |j| (i, j))) {
                let dot: f32 = (0..tokens).map(|t| x[t * n + i] * x[t * n + j]).sum();
                prop_assert!((out[i * n + j] - 1.0 - dot).abs() < 1e-4);
            }
        }

        #[test]
        fn products_of_windows_equal_the_definition(
            m in prop_oneof![9 => 0usize..20, 1 => TILE.0 - 1..TILE.0 + 2],
            (k, n) in (0usize..40, 0usize..2 * TILE.1 + 2),
            (pad_a, pad_b, pad_out) in (0usize..5, 0usize..5, 0usize..5),
            add: bool,
            which in 0usize..3,
        ) {
            let [is_a_transposed, is_b_transposed] = [which == 1, which == 2];
            let (a_rows, a_cols) = if is_a_transposed { (k, m) } else { (m, k) };
            let a_values = random(a_rows * (a_cols + pad_a), 1);
            let (b_rows, b_cols) = if is_b_transposed { (n, k) } else { (k, n) };
            let b_values = random(b_rows * (b_cols + pad_b), 2);
            let before = random(m * (n + pad_out), 3);
            let a = Window::new(&a_values, a_rows, a_cols, a_cols + pad_a);
            let b = Window::new(&b_values, b_rows, b_cols, b_cols + pad_b);
            let mut out = before.clone();
            let add = add || is_a_transposed;
            let write = if add { Write::Add } else { Write::Replace };
            let stride = n + pad_out;
            match which {
                0 => matmul(&mut out, stride, a, b, write, Threads::Pool),
                1 => add_transposed_matmul(&mut out, stride, a, b, 0.5, Threads::Pool),
                _ => matmul_transposed(&mut out, stride, a, b, 0.5, write, Threads::One),
            }
            let scale = if which == 0 { 1.0 } else { 0.5 };
            for i in 0..m {
                for j in 0..n + pad_out {
                    let at = i * (n + pad_out) + j;
                    if j >= n {
                        prop_assert_eq!(out[at], before[at]);
                        continue;
                    }
                    let a_at = |p: usize| if is_a_transposed { a.row(p)[i] } else { a.row(i)[p] };
                    let b_at = |p: usize| if is_b_transposed { b.row(j)[p] } else { b.row(p)[j] };
                    let mut want: f64 = (0..k).map(|p| f64::from(a_at(p) * b_at(p))).sum();
                    want *= scale;
                    want += if add { f64::from(before[at]) } else { 0.0 };
                    prop_assert!((f64::from(out[at]) - want).abs() < 1e-4);
                }
            }
        }
    }
}
