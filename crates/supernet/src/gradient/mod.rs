//! The backward pass: the gradient of the mean next-token loss by the weights of the layers.
//!
//! The forward pass keeps the residual stream before every layer. The backward pass then takes
//! the layers from the last to the first, each over all tokens, and makes a layer's activations anew
//! from its input (gradient checkpointing, 1604.06174), so that only one layer's activations and one
//! layer's gradients exist at a time. Training ([`crate::train`]) has fewer tokens at a time and keeps
//! their activations. Kernels stand beside those of the
//! forward pass ([`crate::engine`]) and are held to finite differences, the whole to PyTorch.

mod activation;
mod attention;
mod head;
mod layer;
mod norm;
#[cfg(test)]
pub(crate) mod reference;
mod sink;

use lathe_arch::Precision;

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;
use crate::text::TokenWindows;
pub(crate) use head::loss_backward;
pub(crate) use layer::LayerActivations;
pub use layer::{AttentionGradient, LayerGradient, MlpGradient};
pub(crate) use sink::{GradientSink, add_rows};

/// Tokens run together: bounds the memory of a layer's activations.
const BATCH_TOKENS: usize = 2048;

/// The mean loss of a sub-network over `windows` in nats per token; `visit` is given its gradient
/// by the weights of each layer, the last layer first.
///
/// The matrices at both ends and the final norm have no gradient. Memory: the residual stream
/// before every layer, `layers * tokens * hidden_size` numbers, and one layer's gradient.
///
/// ```
/// use lathe_supernet::checkpoint::Checkpoint;
/// use lathe_supernet::{Supernet, TokenWindows, loss_gradient};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-llama");
/// let checkpoint = Checkpoint::load(path.as_ref())?;
/// let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
/// let windows = TokenWindows::from_tokens(&[5, 3, 8, 1, 7, 2, 6, 4], 3);
/// let loss = loss_gradient(&supernet.full(), &windows, |layer, gradient| {
///     assert!(gradient.mlp.is_some(), "layer {layer} has an MLP");
/// })?;
/// assert!(loss > 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a block is quantised, a window is longer than the model's context, or a token is outside
/// its vocabulary.
pub fn loss_gradient(
    subnet: &Subnet<'_>,
    windows: &TokenWindows,
    mut visit: impl FnMut(usize, LayerGradient),
) -> Result<f64, SupernetError> {
    check_differentiable(subnet)?;
    let (model, seq_len) = (subnet.supernet().model(), windows.window_len());
    check_tokens(subnet.supernet(), windows.tokens(), seq_len)?;
    let rope = RopeTable::new(model, seq_len);
    let tokens = windows.token_count().max(1);
    let mut loss = 0.0;
    let mut passes = Vec::new();
    for batch in windows.batches(BATCH_TOKENS) {
        let (inputs, x) = run(subnet, &batch.inputs, seq_len, &rope);
        let weight = 1.0 / tokens as f32;
        let (of_batch, d) =
            loss_backward(subnet, &x, &batch.targets, None, weight, &mut sink::Nothing);
        loss += of_batch.loss;
        passes.push(Pass { inputs, d });
    }
    for layer in (0..model.num_hidden_layers).rev() {
        let mut sums = LayerGradient::zeros(subnet, layer);
        for pass in &mut passes {
            let x = pass.inputs.pop().unwrap_or_default();
            let activations = LayerActivations::new(subnet, layer, x, seq_len, &rope);
            activations.backward(subnet, layer, &mut pass.d, seq_len, &rope, &mut sums);
        }
        visit(layer, sums);
    }
    Ok(loss / tokens as f64)
}

/// A batch on its way back.
struct Pass {
    /// The residual stream before each layer that is still to come, `[tokens, hidden]` each.
    inputs: Vec<Vec<f32>>,
    /// Gradient of the stream after them.
    d: Vec<f32>,
}

/// Rounded weights have no gradient.
pub(crate) fn check_differentiable(subnet: &Subnet<'_>) -> Result<(), SupernetError> {
    let config = subnet.config();
    let layers = config.layers.iter().flat_map(|layer| {
        let attention = layer.attention.map(|block| block.precision);
        attention.into_iter().chain(layer.mlp.map(|m| m.precision))
    });
    let mut precisions = layers.chain([config.head_precision]);
    match precisions.find(|precision| *precision != Precision::F32) {
        Some(precision) => Err(SupernetError::NotDifferentiable { precision }),
        None => Ok(()),
    }
}

/// The residual stream before each layer and after the last.
fn run(
    subnet: &Subnet<'_>,
    tokens: &[u32],
    seq_len: usize,
    rope: &RopeTable,
) -> (Vec<Vec<f32>>, Vec<f32>) {
    let mut x = forward::embed(subnet, tokens);
    let layers = 0..subnet.supernet().model().num_hidden_layers;
    let inputs = layers.map(|layer| {
        let before = x.clone();
        forward::layer(subnet, layer, &mut x, seq_len, rope);
        before
    });
    let inputs = inputs.collect();
    (inputs, x)
}
