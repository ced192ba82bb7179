//! Through one layer, whose activations are made anew from its saved input (gradient
//! checkpointing, 1604.06174): memory holds those of a single layer at a time.

use lathe_arch::Activation;
use ndarray::Array2;

use super::attention::{AttentionInputs, causal_attention_backward};
use super::norm::rms_norm_backward;
use super::swiglu::silu_times_backward;
use crate::cut::{CutAttention, CutMlp, Matrix, Subnet};
use crate::engine::attention::{AttentionShape, causal_attention};
use crate::engine::elementwise::{activation_times, add_bias, rms_norm};
use crate::engine::forward::{
    attention_output, attention_shape, project, queries_keys_values, rotate,
};
use crate::engine::matmul::{Threads, Window, Write, add_transposed_matmul, matmul_transposed};
use crate::engine::rope::RopeTable;

/// Gradients of what a layer of a sub-network holds. Matrices are `[in, out]` and as large as
/// the sub-network's; biases that stand for what was cut away have none.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerGradient {
    /// The attention block's, where there is one.
    pub attention: Option<AttentionGradient>,
    /// The MLP block's, where there is one.
    pub mlp: Option<MlpGradient>,
}

/// Gradients of an attention block.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradient {
    /// Gain of the norm before it, `[hidden]`.
    pub norm: Vec<f32>,
    /// `[hidden, heads * head_dim]`
    pub q: Array2<f32>,
    /// `[hidden, kv_heads * head_dim]`
    pub k: Array2<f32>,
    /// `[hidden, kv_heads * head_dim]`
    pub v: Array2<f32>,
    /// `[heads * head_dim, hidden]`
    pub o: Array2<f32>,
}

/// Gradients of an MLP block.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpGradient {
    /// Gain of the norm before it, `[hidden]`.
    pub norm: Vec<f32>,
    /// `[hidden, intermediate_size]`
    pub gate: Array2<f32>,
    /// `[hidden, intermediate_size]`
    pub up: Array2<f32>,
    /// `[intermediate_size, hidden]`
    pub down: Array2<f32>,
}

impl LayerGradient {
    /// Zeros, in the shapes of a layer.
    pub(super) fn zeros(subnet: &Subnet<'_>, layer: usize) -> Self {
        let model = subnet.supernet().model();
        let (hidden, head_dim) = (model.hidden_size, model.head_dim);
        let blocks = subnet.layer(layer);
        Self {
            attention: blocks.attention.as_ref().map(|block| AttentionGradient {
                norm: vec![0.0; hidden],
                q: Array2::zeros((hidden, block.heads * head_dim)),
                k: Array2::zeros((hidden, block.kv_heads * head_dim)),
                v: Array2::zeros((hidden, block.kv_heads * head_dim)),
                o: Array2::zeros((block.heads * head_dim, hidden)),
            }),
            mlp: blocks.mlp.as_ref().map(|block| {
                let width = block.gate.window().col_count();
                MlpGradient {
                    norm: vec![0.0; hidden],
                    gate: Array2::zeros((hidden, width)),
                    up: Array2::zeros((hidden, width)),
                    down: Array2::zeros((width, hidden)),
                }
            }),
        }
    }
}

/// Turns `d`, the gradient of the residual stream after layer `layer`, into that before it, and
/// adds the gradients of the layer's weights to `sums`.
///
/// `x` is the stream before the layer, sequences of `seq_len` tokens; `x` and `d` are
/// `[tokens, hidden]`.
pub(super) fn layer_backward(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &[f32],
    d: &mut [f32],
    seq_len: usize,
    rope: &RopeTable,
    sums: &mut LayerGradient,
) {
    let blocks = subnet.layer(layer);
    let mut between = x.to_vec();
    let attention = blocks.attention.as_ref().map(|block| {
        let activations = attention_activations(subnet, block, layer, &mut between, seq_len, rope);
        (block, activations)
    });
    if let (None, Some(bias)) = (&blocks.attention, &blocks.attention_bias) {
        add_bias(&mut between, bias);
    }
    if let (Some(block), Some(sums)) = (&blocks.mlp, &mut sums.mlp) {
        mlp_backward(subnet, block, &between, d, sums);
    }
    if let (Some((block, activations)), Some(sums)) = (attention, &mut sums.attention) {
        let rope = rope.of(subnet.supernet().model().layer_type(layer));
        attention_backward(subnet, block, x, activations, d, rope, sums);
    }
}

/// What an attention block makes on its way.
struct AttentionActivations {
    /// After rotation.
    inputs: AttentionInputs,
    /// What enters `o_proj`, `[tokens, heads * head_dim]`.
    mixed: Vec<f32>,
    shape: AttentionShape,
}

/// Runs an attention block in place on `x`, as the forward pass does.
fn attention_activations(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    layer: usize,
    x: &mut [f32],
    seq_len: usize,
    rope: &RopeTable,
) -> AttentionActivations {
    let rope = rope.of(subnet.supernet().model().layer_type(layer));
    let shape = attention_shape(subnet, block, layer, seq_len);
    let [mut q, mut k, v] = queries_keys_values(subnet, block, x);
    rotate(rope, &mut q, shape.heads * shape.head_dim, seq_len, 0);
    rotate(rope, &mut k, shape.kv_heads * shape.head_dim, seq_len, 0);
    let mixed = causal_attention(&q, &k, &v, shape);
    let bias = subnet.layer(layer).attention_bias.as_deref();
    attention_output(subnet, block, bias, x, mixed.clone(), |_| {});
    AttentionActivations {
        inputs: AttentionInputs { q, k, v },
        mixed,
        shape,
    }
}

fn attention_backward(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    x: &[f32],
    activations: AttentionActivations,
    d: &mut [f32],
    rope: &RopeTable,
    sums: &mut AttentionGradient,
) {
    let AttentionActivations {
        inputs,
        mixed,
        shape,
    } = activations;
    let model = subnet.supernet().model();
    let (hidden, eps) = (model.hidden_size, model.rms_norm_eps as f32);
    let tokens = x.len() / hidden;
    let width = shape.heads * shape.head_dim;
    let kv_width = shape.kv_heads * shape.head_dim;
    let d_out = Window::whole(d, tokens, hidden);
    add_weight_gradient(&mut sums.o, &mixed, d_out);
    let mut d_mixed = vec![0.0; mixed.len()];
    let mut column = 0;
    for part in block.o.iter().map(Matrix::window) {
        let out = &mut d_mixed[column..];
        let (write, threads) = (Write::Replace, Threads::Pool);
        matmul_transposed(out, width, d_out, part, 1.0, write, threads);
        column += part.row_count();
    }
    let mut d_inputs = causal_attention_backward(&inputs, &d_mixed, shape);
    for (rows, width) in [(&mut d_inputs.q, width), (&mut d_inputs.k, kv_width)] {
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            rope.rotate_back(row, token % shape.seq_len);
        }
    }
    let d_q = Window::whole(&d_inputs.q, tokens, width);
    let d_k = Window::whole(&d_inputs.k, tokens, kv_width);
    let d_v = Window::whole(&d_inputs.v, tokens, kv_width);
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, eps);
    add_weight_gradient(&mut sums.q, &normed, d_q);
    add_weight_gradient(&mut sums.k, &normed, d_k);
    add_weight_gradient(&mut sums.v, &normed, d_v);
    let mut d_normed = vec![0.0; x.len()];
    let mut column = 0;
    for part in block.q.iter().map(Matrix::window) {
        let d_q = d_q.columns(column, part.col_count());
        add_input_gradient(&mut d_normed, d_q, part);
        column += part.col_count();
    }
    add_input_gradient(&mut d_normed, d_k, block.k.window());
    add_input_gradient(&mut d_normed, d_v, block.v.window());
    let d_gain = rms_norm_backward(d, x, block.norm, eps, &d_normed);
    add(&mut sums.norm, &d_gain);
}

/// `x` is the stream before the block.
fn mlp_backward(
    subnet: &Subnet<'_>,
    block: &CutMlp<'_>,
    x: &[f32],
    d: &mut [f32],
    sums: &mut MlpGradient,
) {
    let model = subnet.supernet().model();
    let (hidden, eps) = (model.hidden_size, model.rms_norm_eps as f32);
    let tokens = x.len() / hidden;
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, eps);
    let input = Window::whole(&normed, tokens, hidden);
    let mut gate = project(input, block.gate.window());
    let mut up = project(input, block.up.window());
    let mut product = gate.clone();
    activation_times(Activation::Silu, &mut product, &up);
    let d_out = Window::whole(d, tokens, hidden);
    add_weight_gradient(&mut sums.down, &product, d_out);
    // The product has served: its gradient takes its place.
    let width = block.gate.window().col_count();
    let (down, write) = (block.down.window(), Write::Replace);
    let threads = Threads::Pool;
    matmul_transposed(&mut product, width, d_out, down, 1.0, write, threads);
    silu_times_backward(&mut gate, &mut up, &product);
    let d_gate = Window::whole(&gate, tokens, width);
    let d_up = Window::whole(&up, tokens, width);
    add_weight_gradient(&mut sums.gate, &normed, d_gate);
    add_weight_gradient(&mut sums.up, &normed, d_up);
    let mut d_normed = vec![0.0; x.len()];
    add_input_gradient(&mut d_normed, d_gate, block.gate.window());
    add_input_gradient(&mut d_normed, d_up, block.up.window());
    let d_gain = rms_norm_backward(d, x, block.norm, eps, &d_normed);
    add(&mut sums.norm, &d_gain);
}

/// `sum += x^T d`: of a matrix whose inputs are `x [tokens, in]` and whose outputs have the
/// gradient `d [tokens, out]`.
fn add_weight_gradient(sum: &mut Array2<f32>, x: &[f32], d: Window<'_>) {
    let (inputs, outputs) = sum.dim();
    let x = Window::whole(x, d.row_count(), inputs);
    let sum = sum.as_slice_mut();
    let sum = sum.expect("a gradient that was made row by row is laid out so");
    add_transposed_matmul(sum, outputs, x, d, 1.0, Threads::Pool);
}

/// `out += d weights^T`: of the inputs of `weights [in, out]`, `[tokens, in]`.
fn add_input_gradient(out: &mut [f32], d: Window<'_>, weights: Window<'_>) {
    let inputs = weights.row_count();
    let (write, threads) = (Write::Add, Threads::Pool);
    matmul_transposed(out, inputs, d, weights, 1.0, write, threads);
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}
