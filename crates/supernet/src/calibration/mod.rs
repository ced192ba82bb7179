//! What the units of a model do on calibration text.

mod store;

use std::collections::VecDeque;

use lathe_arch::ModelConfig;
use ndarray::Array2;
use rayon::prelude::*;

use crate::SupernetError;
use crate::absorption::REACH;
use crate::cut::Subnet;
use crate::engine::forward::{self, Observer};
use crate::engine::matmul::{Threads, Window, add_gram, add_transposed_matmul};
use crate::engine::rope::RopeTable;
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;
/// Why a matrix has its numbers in one slice.
const LAID_OUT: &str = "a matrix that was made row by row is laid out so";

/// Statistics of every channel that pruning may remove, in the checkpoint's own order.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Tokens seen.
    pub tokens: usize,
    /// One entry a layer.
    pub layers: Vec<LayerStatistics>,
}

/// Statistics of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStatistics {
    /// Inputs of `o_proj`, `[heads * head_dim]`.
    pub attention: ChannelStatistics,
    /// Inputs of `down_proj`, `[intermediate_size]`.
    pub mlp: ChannelStatistics,
    /// `1 - cos` between the residual stream before and after the layer, mean over tokens: its
    /// block influence (2403.03853).
    pub influence: f64,
    /// Means of what the blocks add to the residual stream, where norms stand behind them.
    pub normed_outputs: Option<OutputMeans>,
}

/// Means over tokens of what the two blocks of a layer add to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputMeans {
    /// `[hidden_size]`
    pub attention: Vec<f64>,
    /// `[hidden_size]`
    pub mlp: Vec<f64>,
}

impl OutputMeans {
    fn zeros(hidden: usize) -> Self {
        Self {
            attention: vec![0.0; hidden],
            mlp: vec![0.0; hidden],
        }
    }
}

/// Moments of the channels of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    /// Mean over tokens, `[channels]`.
    pub mean: Vec<f64>,
    /// Mean product of each two channels over tokens, `[channels, channels]`, symmetric.
    pub second_moment: Array2<f32>,
    /// Mean magnitude over the tokens of each sequence, as an L2 norm over sequences,
    /// `[channels]`: the activation score of Minitron (2407.14679).
    pub magnitude: Vec<f64>,
    /// Mean product of each channel with what each of the next blocks adds to the residual stream,
    /// `[channels, hidden_size]`, the nearest block first: two, fewer at the end of the model, none
    /// where norms stand behind the blocks.
    pub following: Vec<Array2<f32>>,
}

impl ChannelStatistics {
    /// Mean square of each channel.
    pub fn mean_squares(&self) -> impl Iterator<Item = f64> + '_ {
        self.second_moment.diag().into_iter().map(|v| f64::from(*v))
    }

    /// Variance of each channel.
    pub fn variances(&self) -> impl Iterator<Item = f64> + '_ {
        let moments = self.mean.iter().zip(self.mean_squares());
        moments.map(|(mean, square)| (square - mean * mean).max(0.0))
    }

    /// Mean of what `matrix [channels, outputs]` makes of the channels picked in `order`.
    pub(crate) fn mean_output(&self, order: &[usize], matrix: &Array2<f32>) -> Vec<f64> {
        let mut output = vec![0.0; matrix.ncols()];
        for (row, &channel) in matrix.rows().into_iter().zip(order) {
            for (sum, weight) in output.iter_mut().zip(row) {
                *sum += self.mean[channel] * f64::from(*weight);
            }
        }
        output
    }

    fn zeros(channels: usize, following: usize, hidden: usize) -> Self {
        Self {
            following: vec![Array2::zeros((channels, hidden)); following],
            mean: vec![0.0; channels],
            second_moment: Array2::zeros((channels, channels)),
            magnitude: vec![0.0; channels],
        }
    }
}

impl LayerStatistics {
    /// The block of this layer that is counted as `block` through the model.
    fn block_mut(&mut self, block: usize) -> &mut ChannelStatistics {
        if block.is_multiple_of(2) {
            &mut self.attention
        } else {
            &mut self.mlp
        }
    }

    fn check_normed_outputs(&self, model: &ModelConfig, layer: usize) -> Result<(), SupernetError> {
        let zeros = OutputMeans::zeros(0);
        let means = self.normed_outputs.as_ref().unwrap_or(&zeros);
        let count = if model.post_norms {
            model.hidden_size
        } else {
            0
        };
        for (block, means) in [("attention", &means.attention), ("mlp", &means.mlp)] {
            expect("means of normed outputs", means.len(), count)?;
            if let Some(channel) = means.iter().position(|mean| !mean.is_finite()) {
                return Err(SupernetError::CalibrationValue {
                    layer,
                    block,
                    channel,
                    value: means[channel],
                });
            }
        }
        Ok(())
    }
}

fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), SupernetError> {
    if found == expected {
        return Ok(());
    }
    Err(SupernetError::CalibrationMismatch {
        what,
        found,
        expected,
    })
}

impl Calibration {
    /// Runs the full model of an unordered super-network over `windows`.
    ///
    /// `on_progress` is told the tokens done so far.
    pub fn measure(
        supernet: &Supernet,
        windows: &TokenWindows,
        mut on_progress: impl FnMut(usize),
    ) -> Self {
        let model = supernet.model();
        let subnet = supernet.full();
        let seq_len = windows.window_len();
        let rope = RopeTable::new(model, seq_len);
        let mut sums = Sums::new(model, seq_len);
        for batch in windows.batches(BATCH_TOKENS) {
            observe(&subnet, &batch.inputs, &rope, &mut sums);
            sums.tokens += batch.inputs.len();
            on_progress(sums.tokens);
        }
        sums.finish()
    }

    pub(crate) fn check(&self, model: &ModelConfig) -> Result<(), SupernetError> {
        expect("layers", self.layers.len(), model.num_hidden_layers)?;
        let query_channels = model.num_attention_heads * model.head_dim;
        for (layer, statistics) in self.layers.iter().enumerate() {
            for (block, channels, count) in [
                ("attention", &statistics.attention, query_channels),
                ("mlp", &statistics.mlp, model.intermediate_size),
            ] {
                expect("channel means", channels.mean.len(), count)?;
                expect("channel magnitudes", channels.magnitude.len(), count)?;
                expect("rows of moments", channels.second_moment.nrows(), count)?;
                expect("columns of moments", channels.second_moment.ncols(), count)?;
                let products = channels.following.iter();
                for products in products.clone() {
                    expect("rows of products", products.nrows(), count)?;
                    expect("columns of products", products.ncols(), model.hidden_size)?;
                }
                let moments = products.flatten().chain(&channels.second_moment);
                let moments = moments.map(|v| f64::from(*v));
                let values = channels.mean.iter().chain(&channels.magnitude).copied();
                let mut values = values.chain(moments).enumerate();
                if let Some((at, value)) = values.find(|(_, v)| !v.is_finite()) {
                    return Err(SupernetError::CalibrationValue {
                        layer,
                        block,
                        channel: at % count,
                        value,
                    });
                }
            }
            statistics.check_normed_outputs(model, layer)?;
        }
        Ok(())
    }
}

fn observe(subnet: &Subnet<'_>, tokens: &[u32], rope: &RopeTable, sums: &mut Sums) {
    let model = subnet.supernet().model();
    let seq_len = sums.seq_len;
    let mut x = forward::embed(subnet, tokens);
    for layer in 0..model.num_hidden_layers {
        let before = x.clone();
        forward::attention_half(subnet, layer, &mut x, seq_len, rope, sums);
        sums.follow(2 * layer, &before, &x);
        let between = x.clone();
        forward::mlp_half(subnet, layer, &mut x, sums);
        sums.follow(2 * layer + 1, &between, &x);
        sums.layers[layer].influence += turn(&before, &x, model.hidden_size);
    }
}

/// Sum over tokens of `1 - cos` between rows of `before` and `after`.
fn turn(before: &[f32], after: &[f32], hidden: usize) -> f64 {
    let rows = before
        .par_chunks_exact(hidden)
        .zip(after.par_chunks_exact(hidden));
    rows.map(|(before, after)| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let norms = (dot(before, before) * dot(after, after)).sqrt();
        1.0 - dot(before, after) / norms.max(f64::MIN_POSITIVE)
    })
    .sum()
}

/// Running sums. In `second_moment` only the lower triangle is kept up.
struct Sums {
    seq_len: usize,
    tokens: usize,
    layers: Vec<LayerStatistics>,
    /// Channels of the last blocks, the newest first, each with the block's number.
    recent: VecDeque<(usize, Vec<f32>)>,
}

impl Sums {
    fn new(model: &ModelConfig, seq_len: usize) -> Self {
        let hidden = model.hidden_size;
        let following = |block: usize| match model.post_norms {
            true => 0,
            false => REACH.min(2 * model.num_hidden_layers - 1 - block),
        };
        let query_channels = model.num_attention_heads * model.head_dim;
        let layer = |layer: usize| LayerStatistics {
            attention: ChannelStatistics::zeros(query_channels, following(2 * layer), hidden),
            mlp: ChannelStatistics::zeros(
                model.intermediate_size,
                following(2 * layer + 1),
                hidden,
            ),
            influence: 0.0,
            normed_outputs: model.post_norms.then(|| OutputMeans::zeros(hidden)),
        };
        Self {
            seq_len,
            tokens: 0,
            layers: (0..model.num_hidden_layers).map(layer).collect(),
            recent: VecDeque::new(),
        }
    }

    /// Takes in what `block` added to the residual stream, `[tokens, hidden]`, on behalf of the
    /// blocks before it.
    fn follow(&mut self, block: usize, before: &[f32], after: &[f32]) {
        let output: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        for (earlier, rows) in &self.recent {
            let distance = block - earlier;
            let channels = self.layers[earlier / 2].block_mut(*earlier);
            if distance == 0 || distance > channels.following.len() {
                continue;
            }
            let (width, sums) = (channels.mean.len(), &mut channels.following[distance - 1]);
            let hidden = sums.ncols();
            let tokens = rows.len() / width;
            add_transposed_matmul(
                sums.as_slice_mut().expect(LAID_OUT),
                hidden,
                Window::whole(rows, tokens, width),
                Window::whole(&output, tokens, hidden),
                1.0,
                Threads::Pool,
            );
        }
        if block + 1 == 2 * self.layers.len() {
            self.recent.clear();
        }
    }

    fn remember(&mut self, block: usize, rows: &[f32]) {
        self.recent.push_front((block, rows.to_vec()));
        self.recent.truncate(1 + REACH);
    }

    fn finish(mut self) -> Calibration {
        let count = self.tokens.max(1) as f64;
        self.layers.par_iter_mut().for_each(|layer| {
            layer.influence /= count;
            if let Some(means) = &mut layer.normed_outputs {
                let sums = means.attention.iter_mut().chain(&mut means.mlp);
                sums.for_each(|sum| *sum /= count);
            }
            for channels in [&mut layer.attention, &mut layer.mlp] {
                channels.mean.iter_mut().for_each(|sum| *sum /= count);
                channels
                    .magnitude
                    .iter_mut()
                    .for_each(|sum| *sum = sum.sqrt());
                let moments = &mut channels.second_moment;
                for products in channels.following.iter_mut().chain([&mut *moments]) {
                    *products *= 1.0 / count as f32;
                }
                for row in 0..moments.nrows() {
                    for column in 0..row {
                        moments[[column, row]] = moments[[row, column]];
                    }
                }
            }
        });
        Calibration {
            tokens: self.tokens,
            layers: self.layers,
        }
    }
}

impl Observer for Sums {
    fn attention(&mut self, layer: usize, rows: &[f32]) {
        accumulate(&mut self.layers[layer].attention, rows, self.seq_len);
        self.remember(2 * layer, rows);
    }

    fn mlp(&mut self, layer: usize, rows: &[f32]) {
        accumulate(&mut self.layers[layer].mlp, rows, self.seq_len);
        self.remember(2 * layer + 1, rows);
    }

    fn normed_attention(&mut self, layer: usize, rows: &[f32]) {
        if let Some(means) = &mut self.layers[layer].normed_outputs {
            add_rows(&mut means.attention, rows);
        }
    }

    fn normed_mlp(&mut self, layer: usize, rows: &[f32]) {
        if let Some(means) = &mut self.layers[layer].normed_outputs {
            add_rows(&mut means.mlp, rows);
        }
    }
}

/// Adds `rows [tokens, channels]` to the sums of the channels.
fn add_rows(sums: &mut [f64], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
}

/// Adds `rows [tokens, channels]` to the sums.
fn accumulate(sums: &mut ChannelStatistics, rows: &[f32], seq_len: usize) {
    /// Channels handed to one task.
    const BAND: usize = 64;
    let channels = sums.mean.len();
    let bands = sums.mean.par_chunks_mut(BAND);
    let bands = bands.zip(sums.magnitude.par_chunks_mut(BAND));
    bands.enumerate().for_each(|(band, (means, squares))| {
        let mut magnitudes = vec![0.0; means.len()];
        for sequence in rows.chunks(seq_len * channels) {
            magnitudes.fill(0.0);
            for row in sequence.chunks_exact(channels) {
                let values = row[band * BAND..].iter().map(|v| f64::from(*v));
                for ((mean, magnitude), value) in means.iter_mut().zip(&mut magnitudes).zip(values)
                {
                    *mean += value;
                    *magnitude += value.abs();
                }
            }
            for (square, magnitude) in squares.iter_mut().zip(&magnitudes) {
                *square += (magnitude / seq_len as f64).powi(2);
            }
        }
    });
    let moments = sums.second_moment.as_slice_mut();
    let moments = moments.expect(LAID_OUT);
    add_gram(
        moments,
        Window::whole(rows, rows.len() / channels, channels),
    );
}
