//! Correcting what pruned blocks before have shifted.
//!
//! Refits ([`crate::recovery`]) know what a block's channels are in the full model. In a sub-network
//! they see a residual stream that has drifted: the errors of all blocks before are in it. Block by
//! block, on what the sub-network itself computes, the last matrix takes in a share of the ridge
//! least-squares fit of that drift, `full stream - own stream`, by the block's channels. (SparseGPT,
//! 2301.00774, and GPTQ, 2210.17323, take layers in the same order, on the same inputs.)
//!
//! Channels tell little of the drift, and a fit of its own text always seems to tell more: followed
//! by fits of what it leaves, it would end at networks that suit that text alone. So the text is in
//! parts, and the stream of each is corrected by a fit on the others (cross-fitting, Chernozhukov et
//! al. 2018, 1608.00060). What these foretell of parts that they have not seen sets the share: none,
//! where it is nothing.

mod fit;

use lathe_arch::SubnetConfig;

use crate::SupernetError;
use crate::cut::{CutLayer, Matrix, Subnet};
use crate::engine::forward::{self, NoObserver};
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;
use crate::recovery::Recovered;
use crate::text::TokenWindows;

use fit::{Moments, Share, foretold, token_weights};

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;
/// Parts of the text: each is corrected by what the others tell.
const PARTS: usize = 4;

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
        let full = supernet.full();
        let choices = |subnet: &SubnetConfig| (subnet.layers.clone(), subnet.head_precision);
        if choices(self.config()) == choices(full.config()) {
            return Ok(self);
        }
        let rope = RopeTable::new(supernet.model(), seq_len);
        let mut batches: Vec<Streams> = Vec::new();
        let part_tokens = windows.token_count().div_ceil(PARTS);
        for batch in windows.batches(BATCH_TOKENS.min(part_tokens)) {
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
        let (all, hidden) = (batches.len(), self.supernet().model().hidden_size);
        let parts = PARTS.min(all);
        let part = |batch: usize| batch * parts / all;
        let mut moments = vec![Moments::zeros(channels, hidden); parts];
        let mut seen = Vec::new();
        for (batch, streams) in batches.iter_mut().enumerate() {
            let rows = self.channels(layer, half, &streams.own, seq_len, rope);
            self.add_output(layer, half, &mut streams.own, rows.clone());
            let weights = token_weights(&streams.full, &streams.own, hidden, seq_len);
            moments[part(batch)].add(&rows, &streams.full, &streams.own, &weights);
            seen.push((rows, weights));
        }
        let others = |part: usize| moments[..part].iter().chain(&moments[part + 1..]);
        let fits = (0..parts).map(|part| Moments::sum(channels, hidden, others(part)).fit());
        let fits: Vec<Option<Recovered>> = fits.collect();
        let mut share = Share::default();
        let mut drifts = Vec::new();
        for (batch, (streams, (rows, weights))) in batches.iter().zip(seen).enumerate() {
            let drift = fits[part(batch)].as_ref().map(|fit| foretold(fit, &rows));
            if let Some(drift) = &drift {
                share.add(drift, &streams.full, &streams.own, &weights);
            }
            drifts.push(drift.unwrap_or_default());
        }
        let share = share.best();
        let whole = Moments::sum(channels, hidden, moments.iter());
        let Some(mut correction) = whole.fit().filter(|_| share > 0.0) else {
            return;
        };
        for (streams, drift) in batches.iter_mut().zip(drifts) {
            for (own, drift) in streams.own.iter_mut().zip(drift) {
                *own += share * drift;
            }
        }
        correction.matrix *= share;
        correction.bias.iter_mut().for_each(|bias| *bias *= share);
        self.correct(layer, half, correction);
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
