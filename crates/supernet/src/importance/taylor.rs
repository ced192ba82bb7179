//! First-order Taylor scores (LLM-Pruner, 2305.11627).
//!
//! Setting a weight `w` to zero changes the loss by about `-g w`, with `g` the loss's gradient. A
//! unit's score is the sum of `|g w|` over all its weights: a neuron's row of `gate_proj` and
//! `up_proj` and column of `down_proj`; a query head's rows of `q_proj` and columns of `o_proj`;
//! a KV group's heads and its rows of `k_proj` and `v_proj`. `g` is of the mean loss over all
//! tokens, so the magnitude is taken after the sum over tokens, as LLM-Pruner does in its
//! default, element-wise form.

use lathe_arch::ModelConfig;
use ndarray::Array2;

use super::score::{UnitScores, sums};
use crate::SupernetError;
use crate::checkpoint::{LayerWeights, ModelWeights};
use crate::gradient::{LayerGradient, loss_gradient};
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Tokens whose loss is differentiated, at most. Each costs about three times what it costs a
/// calibration and its residual stream is kept at every layer, so a quarter of a calibration's
/// usual tokens costs as much as the whole of it; LLM-Pruner's own scores are of 640.
const TOKENS: usize = 8192;

/// The scores of every layer's units on the first of `windows`.
pub(super) fn unit_scores(
    model: &ModelConfig,
    weights: &ModelWeights,
    windows: &TokenWindows,
) -> Result<Vec<UnitScores>, SupernetError> {
    let supernet = Supernet::unordered(model, weights.clone());
    let mut layers = Vec::with_capacity(model.num_hidden_layers);
    let windows = windows.up_to(TOKENS);
    loss_gradient(&supernet.full(), &windows, |layer, gradient| {
        layers.push(layer_scores(model, &weights.layers[layer], &gradient));
    })?;
    // The last layer came first.
    layers.reverse();
    Ok(layers)
}

fn layer_scores(
    model: &ModelConfig,
    weights: &LayerWeights,
    gradient: &LayerGradient,
) -> UnitScores {
    let whole = "the full model has every block";
    let attention = gradient.attention.as_ref().expect(whole);
    let mlp = gradient.mlp.as_ref().expect(whole);
    let heads = added(
        by_output(&weights.q_proj, &attention.q),
        by_input(&weights.o_proj, &attention.o),
    );
    let keys_and_values = added(
        by_output(&weights.k_proj, &attention.k),
        by_output(&weights.v_proj, &attention.v),
    );
    let of_heads = sums(&heads, model.heads_per_group() * model.head_dim);
    let made = added(
        by_output(&weights.gate_proj, &mlp.gate),
        by_output(&weights.up_proj, &mlp.up),
    );
    UnitScores {
        kv_groups: added(of_heads, sums(&keys_and_values, model.head_dim)),
        heads: sums(&heads, model.head_dim),
        neurons: added(made, by_input(&weights.down_proj, &mlp.down)),
    }
}

/// For each output, the sum over inputs of `|gradient x weight|`. `weights` is `[out, in]`,
/// `gradient` `[in, out]`.
fn by_output(weights: &Array2<f32>, gradient: &Array2<f32>) -> Vec<f64> {
    let channels = weights.rows().into_iter().zip(gradient.columns());
    channels.map(|(w, g)| magnitudes(w, g)).collect()
}

/// The same for each input, over outputs.
fn by_input(weights: &Array2<f32>, gradient: &Array2<f32>) -> Vec<f64> {
    let channels = weights.columns().into_iter().zip(gradient.rows());
    channels.map(|(w, g)| magnitudes(w, g)).collect()
}

fn magnitudes<'a>(
    weights: impl IntoIterator<Item = &'a f32>,
    gradients: impl IntoIterator<Item = &'a f32>,
) -> f64 {
    let pairs = weights.into_iter().zip(gradients);
    pairs.map(|(w, g)| f64::from(w * g).abs()).sum()
}

fn added(mut a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    a
}
