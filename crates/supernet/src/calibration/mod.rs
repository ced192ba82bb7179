//! What the units of a model do on calibration text.

mod store;
mod sums;

use lathe_arch::ModelConfig;
use rayon::prelude::*;

use crate::SupernetError;
use crate::absorption::reach;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::engine::rope::RopeTable;
use crate::supernet::Supernet;
use crate::text::TokenWindows;

use sums::Sums;

pub use crate::tensor_file::StoredMatrix;

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;

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

/// Moments of the channels of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    /// Mean over tokens, `[channels]`.
    pub mean: Vec<f64>,
    /// Mean square over tokens, `[channels]`.
    pub mean_square: Vec<f64>,
    /// Mean product of each two channels over tokens, `[channels, channels]`, symmetric.
    pub second_moment: StoredMatrix,
    /// Mean magnitude over the tokens of each sequence, as an L2 norm over sequences,
    /// `[channels]`: the activation score of Minitron (2407.14679).
    pub magnitude: Vec<f64>,
    /// Mean product of each channel with what each of the next blocks adds to the residual stream,
    /// `[channels, hidden_size]`, the nearest block first: as many as it may stand in for, fewer at the
    /// end of the model, none where norms stand behind the blocks.
    pub following: Vec<StoredMatrix>,
}

impl ChannelStatistics {
    /// Variance of each channel.
    pub fn variances(&self) -> impl Iterator<Item = f64> + '_ {
        let moments = self.mean.iter().zip(&self.mean_square);
        moments.map(|(mean, square)| (square - mean * mean).max(0.0))
    }
}

impl LayerStatistics {
    fn check_normed_outputs(&self, model: &ModelConfig, layer: usize) -> Result<(), SupernetError> {
        let means = self.normed_outputs.as_ref();
        let [attention, mlp] = means.map_or([&[][..]; 2], |means| [&means.attention, &means.mlp]);
        let count = if model.post_norms {
            model.hidden_size
        } else {
            0
        };
        for (block, means) in [("attention", attention), ("mlp", mlp)] {
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
        let mut tokens = 0;
        for batch in windows.batches(BATCH_TOKENS) {
            observe(&subnet, (&batch.inputs, seq_len), &rope, &mut sums);
            tokens += batch.inputs.len();
            on_progress(tokens);
        }
        sums.finish(tokens)
    }

    pub(crate) fn check(&self, model: &ModelConfig) -> Result<(), SupernetError> {
        expect("layers", self.layers.len(), model.num_hidden_layers)?;
        let query_channels = model.num_attention_heads * model.head_dim;
        for (layer, statistics) in self.layers.iter().enumerate() {
            let attention = ("attention", &statistics.attention, query_channels);
            let mlp = ("mlp", &statistics.mlp, model.intermediate_size);
            for (at, (block, channels, count)) in [attention, mlp].into_iter().enumerate() {
                let following = reach(model, 2 * layer + at);
                expect("products with blocks", channels.following.len(), following)?;
                expect("channel means", channels.mean.len(), count)?;
                expect("channel magnitudes", channels.magnitude.len(), count)?;
                expect("mean squares", channels.mean_square.len(), count)?;
                let (rows, columns) = channels.second_moment.dim();
                expect("rows of moments", rows, count)?;
                expect("columns of moments", columns, count)?;
                for products in &channels.following {
                    let (rows, columns) = products.dim();
                    expect("rows of products", rows, count)?;
                    expect("columns of products", columns, model.hidden_size)?;
                }
                let values = channels.mean.iter().chain(&channels.magnitude);
                let mut values = values.chain(&channels.mean_square).copied().enumerate();
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

fn observe(
    subnet: &Subnet<'_>,
    (tokens, seq_len): (&[u32], usize),
    rope: &RopeTable,
    sums: &mut Sums,
) {
    let model = subnet.supernet().model();
    let mut x = forward::embed(subnet, tokens);
    for layer in 0..model.num_hidden_layers {
        let before = x.clone();
        forward::attention_half(subnet, layer, &mut x, seq_len, rope, sums);
        sums.follow(2 * layer, &before, &x);
        let between = x.clone();
        forward::mlp_half(subnet, layer, &mut x, sums);
        sums.follow(2 * layer + 1, &between, &x);
        sums.add_influence(layer, turn(&before, &x, model.hidden_size));
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
