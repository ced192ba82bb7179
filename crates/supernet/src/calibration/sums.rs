//! The sums over tokens that become a calibration.

use std::collections::VecDeque;

use lathe_arch::ModelConfig;
use ndarray::Array2;
use rayon::prelude::*;

use super::{Calibration, ChannelStatistics, LayerStatistics, OutputMeans, StoredMatrix};
use crate::absorption::{REACH, reach};
use crate::engine::forward::Observer;
use crate::engine::matmul::{Threads, Window, add_gram, add_transposed_matmul};

/// Why a matrix has its numbers in one slice.
const LAID_OUT: &str = "a matrix that was made row by row is laid out so";

/// Of every block as counted through the model.
pub(super) struct Sums {
    seq_len: usize,
    blocks: Vec<BlockSums>,
    /// Of each layer.
    influences: Vec<f64>,
    /// What the blocks add to the residual stream, where norms stand behind them, `[hidden_size]`.
    normed_outputs: Option<Vec<Vec<f64>>>,
    /// Channels of the last blocks, the newest first, each with the block's number.
    recent: VecDeque<(usize, Vec<f32>)>,
}

struct BlockSums {
    channels: Vec<f64>,
    /// Squares of the mean magnitudes of each sequence.
    magnitudes: Vec<f64>,
    /// Products of each two channels; only the lower triangle is kept up.
    products: Array2<f32>,
    /// Products of the channels with the outputs of the next blocks.
    following: Vec<Array2<f32>>,
}

impl Sums {
    pub fn new(model: &ModelConfig, seq_len: usize) -> Self {
        let hidden = model.hidden_size;
        let channels = [
            model.num_attention_heads * model.head_dim,
            model.intermediate_size,
        ];
        let count = 2 * model.num_hidden_layers;
        let block = |block: usize| {
            let channels = channels[block % 2];
            BlockSums {
                channels: vec![0.0; channels],
                magnitudes: vec![0.0; channels],
                products: Array2::zeros((channels, channels)),
                following: vec![Array2::zeros((channels, hidden)); reach(model, block)],
            }
        };
        Self {
            seq_len,
            blocks: (0..count).map(block).collect(),
            influences: vec![0.0; model.num_hidden_layers],
            normed_outputs: model.post_norms.then(|| vec![vec![0.0; hidden]; count]),
            recent: VecDeque::new(),
        }
    }

    /// Adds the block influence of a layer, summed over tokens.
    pub fn add_influence(&mut self, layer: usize, influence: f64) {
        self.influences[layer] += influence;
    }

    /// Takes in what `block` added to the residual stream, `[tokens, hidden]`, on behalf of the
    /// blocks before it.
    pub fn follow(&mut self, block: usize, before: &[f32], after: &[f32]) {
        let output: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        for (earlier, rows) in self.recent.iter().filter(|(earlier, _)| *earlier < block) {
            let following = &mut self.blocks[*earlier].following;
            let Some(sums) = following.get_mut(block - earlier - 1) else {
                continue;
            };
            let (channels, hidden) = sums.dim();
            let tokens = rows.len() / channels;
            add_transposed_matmul(
                sums.as_slice_mut().expect(LAID_OUT),
                hidden,
                Window::whole(rows, tokens, channels),
                Window::whole(&output, tokens, hidden),
                1.0,
                Threads::Pool,
            );
        }
        if block + 1 == self.blocks.len() {
            self.recent.clear();
        }
    }

    fn channels(&mut self, block: usize, rows: &[f32]) {
        self.blocks[block].add(rows, self.seq_len);
        self.recent.push_front((block, rows.to_vec()));
        self.recent.truncate(1 + REACH);
    }

    fn normed_output(&mut self, block: usize, rows: &[f32]) {
        let Some(outputs) = &mut self.normed_outputs else {
            return;
        };
        let sums = &mut outputs[block];
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
    }

    /// The means over `tokens` tokens.
    pub fn finish(self, tokens: usize) -> Calibration {
        let count = tokens.max(1) as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| sum / count).collect();
        let blocks = self.blocks.into_par_iter();
        let blocks: Vec<_> = blocks.map(|block| block.finish(count)).collect();
        let mut blocks = blocks.into_iter();
        let mut outputs = self.normed_outputs.into_iter().flatten();
        let layers = self.influences.iter().map_while(|influence| {
            Some(LayerStatistics {
                attention: blocks.next()?,
                mlp: blocks.next()?,
                influence: influence / count,
                normed_outputs: match (outputs.next(), outputs.next()) {
                    (Some(attention), Some(mlp)) => Some(OutputMeans {
                        attention: mean(attention),
                        mlp: mean(mlp),
                    }),
                    (_, _) => None,
                },
            })
        });
        Calibration {
            tokens,
            layers: layers.collect(),
        }
    }
}

impl Observer for Sums {
    fn attention(&mut self, layer: usize, rows: &[f32]) {
        self.channels(2 * layer, rows);
    }

    fn mlp(&mut self, layer: usize, rows: &[f32]) {
        self.channels(2 * layer + 1, rows);
    }

    fn normed_attention(&mut self, layer: usize, rows: &[f32]) {
        self.normed_output(2 * layer, rows);
    }

    fn normed_mlp(&mut self, layer: usize, rows: &[f32]) {
        self.normed_output(2 * layer + 1, rows);
    }
}

impl BlockSums {
    /// Adds `rows [tokens, channels]`.
    fn add(&mut self, rows: &[f32], seq_len: usize) {
        /// Channels handed to one task.
        const BAND: usize = 64;
        let channels = self.channels.len();
        let bands = self.channels.par_chunks_mut(BAND);
        let bands = bands.zip(self.magnitudes.par_chunks_mut(BAND));
        bands.enumerate().for_each(|(band, (sums, squares))| {
            let mut magnitudes = vec![0.0; sums.len()];
            for sequence in rows.chunks(seq_len * channels) {
                magnitudes.fill(0.0);
                for row in sequence.chunks_exact(channels) {
                    let values = row[band * BAND..].iter().map(|v| f64::from(*v));
                    let sums = sums.iter_mut().zip(&mut magnitudes);
                    for ((sum, magnitude), value) in sums.zip(values) {
                        *sum += value;
                        *magnitude += value.abs();
                    }
                }
                for (square, magnitude) in squares.iter_mut().zip(&magnitudes) {
                    *square += (magnitude / seq_len as f64).powi(2);
                }
            }
        });
        let products = self.products.as_slice_mut().expect(LAID_OUT);
        add_gram(
            products,
            Window::whole(rows, rows.len() / channels, channels),
        );
    }

    fn finish(self, count: f64) -> ChannelStatistics {
        let mut moments = self.products / count as f32;
        for row in 0..moments.nrows() {
            for column in 0..row {
                moments[[column, row]] = moments[[row, column]];
            }
        }
        let following = self.following.into_iter();
        let following = following.map(|sums| StoredMatrix::from(sums / count as f32));
        ChannelStatistics {
            mean: self.channels.iter().map(|sum| sum / count).collect(),
            mean_square: moments.diag().iter().map(|v| f64::from(*v)).collect(),
            magnitude: self.magnitudes.iter().map(|sum| sum.sqrt()).collect(),
            second_moment: moments.into(),
            following: following.collect(),
        }
    }
}
