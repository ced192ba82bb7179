//! Correcting what pruned blocks before have shifted.
//!
//! Refits ([`crate::recovery`]) know what a block's channels are in the full model. In a sub-network
//! they see a residual stream that has drifted: the errors of all blocks before are in it. Block by
//! block, on what the sub-network itself computes, the last matrix takes in a step of the ridge
//! least-squares fit of that drift, `full stream - own stream`, by the block's channels. Where they
//! tell nothing of it, the output stays as it is. (SparseGPT, 2301.00774, and GPTQ, 2210.17323, take
//! layers in the same order, on the same inputs.)

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use lathe_arch::SubnetConfig;
use ndarray::Array2;

use crate::SupernetError;
use crate::cut::{CutLayer, Matrix, Subnet};
use crate::engine::forward::{self, NoObserver};
use crate::engine::matmul::{Threads, Window, add_gram, add_transposed_matmul};
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;
use crate::recovery::Recovered;
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;
/// What is added to the diagonal of the channels' covariance, as a share of its mean.
const RIDGE: f64 = 0.1;
/// Share of the fit that is taken: a part of the drift is noise that the next text has otherwise.
const STEP: f64 = 0.5;

/// One of the two blocks of a layer.
#[derive(Debug, Clone, Copy)]
enum Half {
    Attention,
    Mlp,
}

/// The residual streams of a batch, `[tokens, hidden]`.
struct Streams {
    full: Vec<f32>,
    own: Vec<f32>,
}

impl Subnet<'_> {
    /// The sub-network with the matrices and biases of its blocks corrected for the drift of its
    /// residual stream on `windows`. Blocks with a norm behind them (Gemma 3) stay as they are,
    /// and so do those before the first that is not the full model's.
    ///
    /// Takes about three passes of the full model over `windows`, and memory for two residual
    /// streams and the inputs of the widest block, `tokens * (2 * hidden_size + intermediate_size)`
    /// numbers. `on_progress` is told the layers done.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or a window is longer than the context.
    pub fn correct_drift(
        mut self,
        windows: &TokenWindows,
        mut on_progress: impl FnMut(usize),
    ) -> Result<Self, SupernetError> {
        let (supernet, seq_len) = (self.supernet(), windows.window_len());
        check_tokens(supernet, windows.tokens(), seq_len)?;
        let full = supernet.teacher();
        let choices = |subnet: &SubnetConfig| (subnet.layers.clone(), subnet.head_precision);
        if choices(self.config()) == choices(full.config()) {
            return Ok(self);
        }
        let rope = RopeTable::new(supernet.model(), seq_len);
        let mut batches: Vec<Streams> = Vec::new();
        for batch in windows.batches(BATCH_TOKENS) {
            batches.push(Streams {
                full: forward::embed(&full, &batch.inputs),
                own: forward::embed(&self, &batch.inputs),
            });
        }
        for layer in 0..supernet.model().num_hidden_layers {
            for half in [Half::Attention, Half::Mlp] {
                for streams in &mut batches {
                    full.run(layer, half, &mut streams.full, seq_len, &rope);
                }
                self.correct_block(layer, half, &mut batches, seq_len, &rope);
            }
            on_progress(layer + 1);
        }
        self.set_corrected();
        Ok(self)
    }

    fn run(&self, layer: usize, half: Half, x: &mut [f32], seq_len: usize, rope: &RopeTable) {
        match half {
            Half::Attention => {
                forward::attention_half(self, layer, x, seq_len, rope, &mut NoObserver);
            }
            Half::Mlp => forward::mlp_half(self, layer, x, &mut NoObserver),
        }
    }

    /// What enters the last matrix of a block, `[tokens, channels]`.
    fn channels(
        &self,
        layer: usize,
        half: Half,
        x: &[f32],
        seq_len: usize,
        rope: &RopeTable,
    ) -> Vec<f32> {
        let blocks = self.layer(layer);
        let rows = match half {
            Half::Attention => blocks
                .attention
                .as_ref()
                .map(|block| forward::mixed_values(self, block, layer, x, seq_len, rope)),
            Half::Mlp => blocks
                .mlp
                .as_ref()
                .map(|block| forward::mlp_neurons(self, block, x)),
        };
        rows.unwrap_or_default()
    }

    /// Adds a block's output to the residual stream.
    fn add_output(&self, layer: usize, half: Half, x: &mut [f32], rows: Vec<f32>) {
        let blocks = self.layer(layer);
        match half {
            Half::Attention => {
                if let Some(block) = &blocks.attention {
                    let bias = blocks.attention_bias.as_deref();
                    forward::attention_output(self, block, bias, x, rows, |_| {});
                }
            }
            Half::Mlp => {
                if let Some(block) = &blocks.mlp {
                    let bias = blocks.mlp_bias.as_deref();
                    forward::mlp_output(self, block, bias, x, rows, |_| {});
                }
            }
        }
    }

    /// Fits the last matrix of a block, and moves the residual streams behind it.
    fn correct_block(
        &mut self,
        layer: usize,
        half: Half,
        batches: &mut [Streams],
        seq_len: usize,
        rope: &RopeTable,
    ) {
        let Some(channels) = self.correctable_channels(layer, half) else {
            for streams in batches {
                self.run(layer, half, &mut streams.own, seq_len, rope);
            }
            return;
        };
        let mut drift = Drift::zeros(channels, self.supernet().model().hidden_size);
        let mut inputs = Vec::new();
        for streams in &*batches {
            let rows = self.channels(layer, half, &streams.own, seq_len, rope);
            let mut own = streams.own.clone();
            self.add_output(layer, half, &mut own, rows.clone());
            drift.add(&rows, &streams.full, &own, seq_len);
            inputs.push(rows);
        }
        if let Some(correction) = drift.fit() {
            self.correct(layer, half, correction);
        }
        for (streams, rows) in batches.iter_mut().zip(inputs) {
            self.add_output(layer, half, &mut streams.own, rows);
        }
    }

    /// Inputs of the last matrix of a block that can be corrected.
    fn correctable_channels(&self, layer: usize, half: Half) -> Option<usize> {
        let blocks = self.layer(layer);
        let (post_norm, channels) = match half {
            Half::Attention => {
                let block = blocks.attention.as_ref()?;
                let head_dim = self.supernet().model().head_dim;
                (block.post_norm, block.heads * head_dim)
            }
            Half::Mlp => {
                let block = blocks.mlp.as_ref()?;
                (block.post_norm, block.down.window().row_count())
            }
        };
        post_norm.is_none().then_some(channels)
    }

    /// Adds a correction to the last matrix and the bias of a block that is kept.
    fn correct(&mut self, layer: usize, half: Half, correction: Recovered) {
        let values = match half {
            Half::Attention => self.o_proj(layer),
            Half::Mlp => self.down_proj(layer),
        };
        let mut matrix = correction.matrix;
        for (sum, value) in matrix.iter_mut().zip(values.unwrap_or_default()) {
            *sum += value;
        }
        let matrix = Matrix::Own(matrix);
        let CutLayer {
            attention,
            attention_bias,
            mlp,
            mlp_bias,
        } = self.layer_mut(layer);
        let bias = match half {
            Half::Attention => {
                if let Some(block) = attention {
                    block.o = vec![matrix.quantized(block.precision)];
                }
                attention_bias
            }
            Half::Mlp => {
                if let Some(block) = mlp {
                    block.down = matrix.quantized(block.precision);
                }
                mlp_bias
            }
        };
        let mut sum = correction.bias;
        for (sum, value) in sum.iter_mut().zip(bias.iter().flatten()) {
            *sum += value;
        }
        *bias = Some(sum);
    }
}

/// Weighted sums over tokens of a block's channels `x` and of the drift `e` behind it.
///
/// A token weighs one over the mean square of its stream in the full model, since the next norm
/// takes its scale away; the first of a window, on which attention piles up what it has no use for
/// (2309.17453), nothing.
struct Drift {
    weight: f64,
    x: Vec<f64>,
    e: Vec<f64>,
    /// `x x^T`, `[channels, channels]`
    xx: Vec<f32>,
    /// `x e^T`, `[channels, hidden]`
    xe: Vec<f32>,
}

impl Drift {
    fn zeros(channels: usize, hidden: usize) -> Self {
        Self {
            weight: 0.0,
            x: vec![0.0; channels],
            e: vec![0.0; hidden],
            xx: vec![0.0; channels * channels],
            xe: vec![0.0; channels * hidden],
        }
    }

    /// Takes in whole sequences: `rows [tokens, channels]`, and the streams behind the block.
    fn add(&mut self, rows: &[f32], full: &[f32], own: &[f32], seq_len: usize) {
        let (channels, hidden) = (self.x.len(), self.e.len());
        let tokens = full.len() / hidden;
        let mut x = rows.to_vec();
        let mut e: Vec<f32> = full.iter().zip(own).map(|(full, own)| full - own).collect();
        let each = x.chunks_exact_mut(channels).zip(e.chunks_exact_mut(hidden));
        for (token, ((x, e), full)) in each.zip(full.chunks_exact(hidden)).enumerate() {
            let square = full.iter().map(|v| f64::from(v * v)).sum::<f64>() / hidden as f64;
            let weight = match token % seq_len {
                0 => 0.0,
                _ => 1.0 / square.max(f64::from(f32::MIN_POSITIVE)),
            };
            self.weight += weight;
            let root = weight.sqrt();
            for (sums, values) in [(&mut self.x, x), (&mut self.e, e)] {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * f64::from(*value);
                    *value *= root as f32;
                }
            }
        }
        let x = Window::whole(&x, tokens, channels);
        let e = Window::whole(&e, tokens, hidden);
        add_gram(&mut self.xx, x);
        add_transposed_matmul(&mut self.xe, hidden, x, e, 1.0, Threads::Pool);
    }

    /// What is to be added to the matrix and to the bias; `None` where nothing has drifted, or where
    /// the network is broken and its stream holds no numbers.
    fn fit(&self) -> Option<Recovered> {
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
        let mut bias: Vec<f64> = e.iter().map(|mean| STEP * mean).collect();
        let matrix = Array2::from_shape_fn((channels, hidden), |(i, o)| {
            let value = STEP * solution[(i, o)];
            bias[o] -= value * x[i];
            value as f32
        });
        let is_finite = matrix.iter().all(|v| v.is_finite()) && bias.iter().all(|v| v.is_finite());
        is_finite.then(|| Recovered {
            matrix,
            bias: bias.iter().map(|v| *v as f32).collect(),
        })
    }
}
