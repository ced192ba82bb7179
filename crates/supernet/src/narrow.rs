//! Hidden width: a checkpoint whose residual stream is narrower.
//!
//! A norm without gains commutes with rotations, so that a model whose gains are folded into the
//! matrices behind them computes the same in any orthonormal basis of its residual stream
//! (SliceGPT, 2401.15024). Of the basis of the normed stream's principal components, the first are
//! kept: one basis for the whole model, so that nothing has to be turned between blocks. What reads
//! from the stream is refitted by least squares to the full stream, block by block.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use lathe_arch::ModelConfig;
use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use crate::SupernetError;
use crate::checkpoint::{LayerWeights, ModelWeights};
use crate::engine::elementwise::rms_norm;
use crate::engine::forward::{self, NoObserver};
use crate::engine::matmul::{Threads, Window, add_gram, add_transposed_matmul};
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;
use crate::supernet::{Supernet, slice};
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;
/// What is added to the diagonal of the narrow stream's second moments, as a share of its mean.
const RIDGE: f64 = 0.01;

/// The model with the first `hidden_size` principal components of its residual stream on `windows`.
///
/// Takes two passes of the model over `windows`, and `on_progress` is told the blocks done of both,
/// `4 * num_hidden_layers + 2` in all. The embedding and the LM head of the result are two matrices,
/// also where the model has one for both.
///
/// # Errors
/// When the model's stream is not that wide, norms stand behind its blocks (their gains tie the
/// stream to the checkpoint's own basis), it cannot read the text, or it computes no finite numbers.
pub fn narrowed(
    model: &ModelConfig,
    weights: &ModelWeights,
    windows: &TokenWindows,
    hidden_size: usize,
    mut on_progress: impl FnMut(usize),
) -> Result<(ModelConfig, ModelWeights), SupernetError> {
    let refused = |reason: String| {
        Err(SupernetError::Narrow {
            hidden_size,
            reason,
        })
    };
    let full_size = model.hidden_size;
    if !(1..=full_size).contains(&hidden_size) {
        return refused(format!("expected 1 to the model's {full_size}"));
    }
    if model.post_norms {
        return refused("norms behind blocks tie this family's stream to its own basis".to_owned());
    }
    let supernet = Supernet::unordered(model, weights.clone());
    let full = Streams::embedded(&supernet, windows)?;
    let places = 2 * model.num_hidden_layers + 1;
    let config = ModelConfig {
        hidden_size,
        // Under the mean of fewer squares, of which the sum is to be the same.
        rms_norm_eps: model.rms_norm_eps * full_size as f64 / hidden_size as f64,
        tie_word_embeddings: false,
        ..model.clone()
    };
    let mut moments = vec![0.0; full_size * full_size];
    full.clone().visit(|place, x| {
        let z = normed(x, full_size, model.rms_norm_eps);
        add_gram(
            &mut moments,
            Window::whole(&z, z.len() / full_size, full_size),
        );
        on_progress(place + 1);
    });
    let Some(basis) = principal_components(&moments, full_size, hidden_size) else {
        return refused("the model's residual stream holds no finite numbers".to_owned());
    };
    let mut readers = vec![Reader::zeros(model, &config); places];
    full.visit(|place, x| {
        readers[place].add(x, &basis);
        on_progress(places + place + 1);
    });
    let readers: Option<Vec<_>> = readers.par_iter().map(|r| r.fit(&basis)).collect();
    let Some(readers) = readers else {
        return refused("the narrow stream cannot be fitted".to_owned());
    };
    let layers = weights.layers.par_iter().zip(readers.par_chunks(2));
    let head = weights.lm_head.as_ref().unwrap_or(&weights.embed_tokens);
    let narrow = ModelWeights {
        embed_tokens: weights.embed_tokens.dot(&basis),
        layers: layers
            .map(|(layer, readers)| narrowed_layer(layer, [&readers[0], &readers[1]], &basis))
            .collect(),
        norm: Array1::ones(hidden_size),
        lm_head: Some(reading(head, &weights.norm, &readers[places - 1])),
    };
    Ok((config, narrow))
}

/// The residual streams of a text on their way through the full model.
#[derive(Clone)]
struct Streams<'a> {
    supernet: &'a Supernet,
    seq_len: usize,
    /// `[tokens, hidden]` each.
    batches: Vec<Vec<f32>>,
}

impl<'a> Streams<'a> {
    fn embedded(supernet: &'a Supernet, windows: &TokenWindows) -> Result<Self, SupernetError> {
        let seq_len = windows.window_len();
        check_tokens(supernet, windows.tokens(), seq_len)?;
        let full = supernet.full();
        let batches = windows.batches(BATCH_TOKENS);
        Ok(Self {
            supernet,
            seq_len,
            batches: batches
                .map(|batch| forward::embed(&full, &batch.inputs))
                .collect(),
        })
    }

    /// Shows what every norm is given, `[tokens, hidden]`: those before the blocks, in their order, and
    /// the last.
    fn visit(mut self, mut see: impl FnMut(usize, &[f32])) {
        let (full, model) = (self.supernet.full(), self.supernet.model());
        let rope = RopeTable::new(model, self.seq_len);
        let blocks = 2 * model.num_hidden_layers;
        for place in 0..=blocks {
            for x in &mut self.batches {
                see(place, x);
                let layer = place / 2;
                if place == blocks {
                    // There is nothing behind the last norm but the head.
                } else if place.is_multiple_of(2) {
                    forward::attention_half(&full, layer, x, self.seq_len, &rope, &mut NoObserver);
                } else {
                    forward::mlp_half(&full, layer, x, &mut NoObserver);
                }
            }
        }
    }
}

/// RMSNorm without gains.
fn normed(x: &[f32], width: usize, eps: f64) -> Vec<f32> {
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, &vec![1.0; width], eps as f32);
    normed
}

/// The `kept` eigenvectors of the largest eigenvalues, `[hidden, kept]`, of second moments of which
/// the lower triangle is right. `None` where these are not finite.
fn principal_components(moments: &[f32], hidden: usize, kept: usize) -> Option<Array2<f32>> {
    let moments = Mat::from_fn(hidden, hidden, |i, j| {
        f64::from(moments[i.max(j) * hidden + i.min(j)])
    });
    if !moments.is_all_finite() {
        return None;
    }
    let eigen = moments.self_adjoint_eigen(Side::Lower).ok()?;
    let vectors = eigen.U();
    let largest_first = |(i, j): (usize, usize)| vectors[(i, hidden - 1 - j)] as f32;
    Some(Array2::from_shape_fn((hidden, kept), largest_first))
}

/// Second moments over tokens of what a norm of the narrow stream gives, `n`, and of what the full
/// model's gives, `z`: the least-squares fit of `z` by `n`.
#[derive(Clone)]
struct Reader {
    /// Widths of the two streams.
    full_size: usize,
    hidden_size: usize,
    /// Epsilons of their norms.
    full_eps: f64,
    eps: f64,
    tokens: usize,
    /// `n n^T`, of which the lower triangle is right.
    nn: Vec<f32>,
    /// `n z^T`
    nz: Vec<f32>,
}

impl Reader {
    fn zeros(full: &ModelConfig, narrow: &ModelConfig) -> Self {
        let (full_size, hidden_size) = (full.hidden_size, narrow.hidden_size);
        Self {
            full_size,
            hidden_size,
            full_eps: full.rms_norm_eps,
            eps: narrow.rms_norm_eps,
            tokens: 0,
            nn: vec![0.0; hidden_size * hidden_size],
            nz: vec![0.0; hidden_size * full_size],
        }
    }

    fn add(&mut self, x: &[f32], basis: &Array2<f32>) {
        let (full_size, hidden_size) = (self.full_size, self.hidden_size);
        let tokens = x.len() / full_size;
        let basis = Window::whole(slice(basis), full_size, hidden_size);
        let narrow = forward::project(Window::whole(x, tokens, full_size), basis);
        let n = normed(&narrow, hidden_size, self.eps);
        let n = Window::whole(&n, tokens, hidden_size);
        let z = normed(x, full_size, self.full_eps);
        let z = Window::whole(&z, tokens, full_size);
        add_gram(&mut self.nn, n);
        add_transposed_matmul(&mut self.nz, full_size, n, z, 1.0, Threads::Pool);
        self.tokens += tokens;
    }

    /// `[full, narrow]`: what turns `n` into `z`. The ridge draws it towards the basis, scaled for the
    /// norm's mean over fewer numbers.
    fn fit(&self, basis: &Array2<f32>) -> Option<Array2<f32>> {
        let (full_size, hidden_size) = (self.full_size, self.hidden_size);
        let tokens = self.tokens.max(1) as f64;
        let nn = Mat::from_fn(hidden_size, hidden_size, |i, j| {
            f64::from(self.nn[i.max(j) * hidden_size + i.min(j)]) / tokens
        });
        let nz = Mat::from_fn(hidden_size, full_size, |i, j| {
            f64::from(self.nz[i * full_size + j]) / tokens
        });
        let scale = (full_size as f64 / hidden_size as f64).sqrt();
        let plain = Mat::from_fn(hidden_size, full_size, |i, j| {
            scale * f64::from(basis[[j, i]])
        });
        let diagonal = (0..hidden_size).map(|i| nn[(i, i)]);
        let ridge = RIDGE * diagonal.sum::<f64>() / hidden_size as f64;
        let ridged = Mat::from_fn(hidden_size, hidden_size, |i, j| {
            nn[(i, j)] + if i == j { ridge } else { 0.0 }
        });
        let rest = &nz - &nn * &plain;
        let change = Llt::new(ridged.as_ref(), Side::Lower).ok()?.solve(&rest);
        let reader = Array2::from_shape_fn((full_size, hidden_size), |(i, j)| {
            (plain[(j, i)] + change[(j, i)]) as f32
        });
        reader.iter().all(|v| v.is_finite()).then_some(reader)
    }
}

/// A matrix `[out, full]` behind a norm with `gains`, as `[out, narrow]` behind one without.
fn reading(matrix: &Array2<f32>, gains: &Array1<f32>, reader: &Array2<f32>) -> Array2<f32> {
    matrix.dot(&(reader * &gains.view().insert_axis(Axis(1))))
}

fn narrowed_layer(
    layer: &LayerWeights,
    [attention, mlp]: [&Array2<f32>; 2],
    basis: &Array2<f32>,
) -> LayerWeights {
    let before_attention = |matrix| reading(matrix, &layer.input_layernorm, attention);
    let before_mlp = |matrix| reading(matrix, &layer.post_attention_layernorm, mlp);
    LayerWeights {
        input_layernorm: Array1::ones(basis.ncols()),
        q_proj: before_attention(&layer.q_proj),
        k_proj: before_attention(&layer.k_proj),
        v_proj: before_attention(&layer.v_proj),
        o_proj: basis.t().dot(&layer.o_proj),
        post_attention_layernorm: Array1::ones(basis.ncols()),
        gate_proj: before_mlp(&layer.gate_proj),
        up_proj: before_mlp(&layer.up_proj),
        down_proj: basis.t().dot(&layer.down_proj),
        qkv_bias: layer.qkv_bias.clone(),
        qk_norm: layer.qk_norm.clone(),
        post_norms: None,
    }
}
