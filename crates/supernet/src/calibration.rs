//! What the units of a model do on calibration text.

use std::path::Path;

use lathe_arch::ModelConfig;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward::{self, Observer};
use crate::engine::rope::RopeTable;
use crate::file;
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;

/// Statistics of every channel that pruning may remove, in the checkpoint's own order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Tokens seen.
    pub tokens: usize,
    /// One entry a layer.
    pub layers: Vec<LayerStatistics>,
}

/// Statistics of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerStatistics {
    /// Inputs of `o_proj`, `[heads * head_dim]`.
    pub attention: ChannelStatistics,
    /// Inputs of `down_proj`, `[intermediate_size]`.
    pub mlp: ChannelStatistics,
}

/// First two moments of each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelStatistics {
    /// Mean over tokens.
    pub mean: Vec<f64>,
    /// Mean square over tokens.
    pub mean_square: Vec<f64>,
}

impl ChannelStatistics {
    /// Variance of each channel.
    pub fn variances(&self) -> impl Iterator<Item = f64> + '_ {
        let moments = self.mean.iter().zip(&self.mean_square);
        moments.map(|(mean, square)| (square - mean * mean).max(0.0))
    }
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
        let rope = RopeTable::new(model, windows.window_len());
        let mut moments = Moments::new(model);
        let mut done = 0;
        for batch in windows.batches(BATCH_TOKENS) {
            observe(
                &subnet,
                &batch.inputs,
                windows.window_len(),
                &rope,
                &mut moments,
            );
            done += batch.inputs.len();
            on_progress(done);
        }
        moments.finish(done)
    }

    /// Reads a calibration written by [`Calibration::save`].
    ///
    /// # Errors
    /// When the file cannot be read or is not a calibration.
    pub fn load(path: &Path) -> Result<Self, SupernetError> {
        file::read_json(path)
    }

    /// Writes the calibration as JSON, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SupernetError> {
        file::write_json(path, self)
    }

    pub(crate) fn check(&self, model: &ModelConfig) -> Result<(), SupernetError> {
        let expect = |what, found: usize, expected: usize| {
            if found == expected {
                return Ok(());
            }
            Err(SupernetError::CalibrationMismatch {
                what,
                found,
                expected,
            })
        };
        expect("layers", self.layers.len(), model.num_hidden_layers)?;
        let query_channels = model.num_attention_heads * model.head_dim;
        for (layer, statistics) in self.layers.iter().enumerate() {
            for (block, channels, count) in [
                ("attention", &statistics.attention, query_channels),
                ("mlp", &statistics.mlp, model.intermediate_size),
            ] {
                expect("channel means", channels.mean.len(), count)?;
                expect("channel mean squares", channels.mean_square.len(), count)?;
                let values = channels.mean.iter().chain(&channels.mean_square);
                let mut values = values.enumerate();
                if let Some((at, value)) = values.find(|(_, v)| !v.is_finite()) {
                    return Err(SupernetError::CalibrationValue {
                        layer,
                        block,
                        channel: at % count,
                        value: *value,
                    });
                }
            }
        }
        Ok(())
    }
}

fn observe(
    subnet: &Subnet<'_>,
    tokens: &[u32],
    seq_len: usize,
    rope: &RopeTable,
    moments: &mut Moments,
) {
    let model = subnet.supernet().model();
    let mut x = forward::embed(subnet, tokens);
    for layer in 0..model.num_hidden_layers {
        forward::attention_half(subnet, layer, &mut x, seq_len, rope, moments);
        forward::mlp_half(subnet, layer, &mut x, moments);
    }
}

/// Running sums in f64, `[layers][channels]` of (sum, sum of squares).
struct Moments {
    attention: Vec<Vec<(f64, f64)>>,
    mlp: Vec<Vec<(f64, f64)>>,
}

impl Moments {
    fn new(model: &ModelConfig) -> Self {
        let zeros = |channels| vec![vec![(0.0, 0.0); channels]; model.num_hidden_layers];
        Self {
            attention: zeros(model.num_attention_heads * model.head_dim),
            mlp: zeros(model.intermediate_size),
        }
    }

    fn finish(self, tokens: usize) -> Calibration {
        let layers = self.attention.iter().zip(&self.mlp);
        let layers = layers.map(|(attention, mlp)| LayerStatistics {
            attention: statistics(attention, tokens),
            mlp: statistics(mlp, tokens),
        });
        Calibration {
            tokens,
            layers: layers.collect(),
        }
    }
}

impl Observer for Moments {
    fn attention(&mut self, layer: usize, rows: &[f32]) {
        accumulate(&mut self.attention[layer], rows);
    }

    fn mlp(&mut self, layer: usize, rows: &[f32]) {
        accumulate(&mut self.mlp[layer], rows);
    }
}

/// Adds `rows [tokens, channels]` to the sums, one band of channels a task.
fn accumulate(sums: &mut [(f64, f64)], rows: &[f32]) {
    const BAND: usize = 64;
    let channels = sums.len();
    sums.par_chunks_mut(BAND)
        .enumerate()
        .for_each(|(band, sums)| {
            for row in rows.chunks_exact(channels) {
                for (sum, value) in sums.iter_mut().zip(&row[band * BAND..]) {
                    let value = f64::from(*value);
                    sum.0 += value;
                    sum.1 += value * value;
                }
            }
        });
}

fn statistics(sums: &[(f64, f64)], tokens: usize) -> ChannelStatistics {
    let count = tokens.max(1) as f64;
    ChannelStatistics {
        mean: sums.iter().map(|sum| sum.0 / count).collect(),
        mean_square: sums.iter().map(|sum| sum.1 / count).collect(),
    }
}
