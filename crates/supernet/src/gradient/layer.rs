//! Through one layer, whose activations are made anew from its saved input (gradient
//! checkpointing, 1604.06174): memory holds those of a single layer at a time.

use std::borrow::Cow;

use ndarray::Array2;

use super::activation::activation_times_backward;
use super::attention::{AttentionInputs, causal_attention_backward};
use super::norm::rms_norm_backward;
use crate::cut::{CutAttention, CutMlp, Matrix, Subnet};
use crate::engine::attention::{AttentionShape, causal_attention};
use crate::engine::elementwise::{activation_times, add_bias, rms_norm};
use crate::engine::forward::{
    add_product, attention_output, attention_shape, project, projections, queries_keys_values,
    rotate,
};
use crate::engine::matmul::{Threads, Window, Write, add_transposed_matmul, matmul_transposed};
use crate::engine::rope::RopeTable;

/// Gradients of what a layer of a sub-network holds. Matrices are `[in, out]` and as large as
/// the sub-network's; biases have none.
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
    /// Gain of the norm of every query, `[head_dim]`, where the family has one.
    pub q_norm: Option<Vec<f32>>,
    /// Gain of the norm of every key, likewise.
    pub k_norm: Option<Vec<f32>>,
    /// Gain of the norm behind it, `[hidden]`, where the family has one.
    pub post_norm: Option<Vec<f32>>,
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
    /// Gain of the norm behind it, `[hidden]`, where the family has one.
    pub post_norm: Option<Vec<f32>>,
}

impl LayerGradient {
    /// Zeros, in the shapes of a layer.
    pub(super) fn zeros(subnet: &Subnet<'_>, layer: usize) -> Self {
        let model = subnet.supernet().model();
        let (hidden, head_dim) = (model.hidden_size, model.head_dim);
        let blocks = subnet.layer(layer);
        let gain = |width: usize, is_there: bool| is_there.then(|| vec![0.0; width]);
        Self {
            attention: blocks.attention.as_ref().map(|block| AttentionGradient {
                norm: vec![0.0; hidden],
                q: Array2::zeros((hidden, block.heads * head_dim)),
                k: Array2::zeros((hidden, block.kv_heads * head_dim)),
                v: Array2::zeros((hidden, block.kv_heads * head_dim)),
                o: Array2::zeros((block.heads * head_dim, hidden)),
                q_norm: gain(head_dim, block.qk_norm.is_some()),
                k_norm: gain(head_dim, block.qk_norm.is_some()),
                post_norm: gain(hidden, block.post_norm.is_some()),
            }),
            mlp: blocks.mlp.as_ref().map(|block| {
                let width = block.gate.window().col_count();
                MlpGradient {
                    norm: vec![0.0; hidden],
                    gate: Array2::zeros((hidden, width)),
                    up: Array2::zeros((hidden, width)),
                    down: Array2::zeros((width, hidden)),
                    post_norm: gain(hidden, block.post_norm.is_some()),
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
        let bias = blocks.mlp_bias.as_deref();
        mlp_backward(subnet, block, bias, &between, d, sums);
    }
    if let (Some((block, activations)), Some(sums)) = (attention, &mut sums.attention) {
        let bias = blocks.attention_bias.as_deref();
        attention_backward(subnet, block, bias, x, activations, d, sums);
    }
}

/// What an attention block makes on its way.
struct AttentionActivations<'a> {
    /// After rotation.
    inputs: AttentionInputs,
    /// What enters `o_proj`, `[tokens, heads * head_dim]`.
    mixed: Vec<f32>,
    shape: AttentionShape,
    /// How its queries and keys were turned.
    rope: &'a RopeTable,
}

/// Runs an attention block in place on `x`, as the forward pass does.
fn attention_activations<'a>(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    layer: usize,
    x: &mut [f32],
    seq_len: usize,
    rope: &'a RopeTable,
) -> AttentionActivations<'a> {
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
        rope,
    }
}

fn attention_backward(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    bias: Option<&[f32]>,
    x: &[f32],
    activations: AttentionActivations<'_>,
    d: &mut [f32],
    sums: &mut AttentionGradient,
) {
    let AttentionActivations {
        inputs,
        mixed,
        shape,
        rope,
    } = activations;
    let model = subnet.supernet().model();
    let (hidden, eps) = (model.hidden_size, model.rms_norm_eps as f32);
    let tokens = x.len() / hidden;
    let width = shape.heads * shape.head_dim;
    let kv_width = shape.kv_heads * shape.head_dim;
    let gain = block.post_norm.zip(sums.post_norm.as_deref_mut());
    let d_out = before_post_norm(d, &mixed, &block.o, bias, gain, eps);
    let d_mixed = last_matrix_backward(&d_out, &mixed, &block.o, &mut sums.o);
    drop(d_out);
    let mut d_inputs = causal_attention_backward(&inputs, &d_mixed, shape);
    for (rows, width) in [(&mut d_inputs.q, width), (&mut d_inputs.k, kv_width)] {
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            rope.rotate_back(row, token % shape.seq_len);
        }
    }
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, eps);
    if let Some(gains) = block.qk_norm {
        let [q, k, _] = projections(block, Window::whole(&normed, tokens, hidden));
        for (d, rows, gain, sum) in [
            (&mut d_inputs.q, q, &gains.q, &mut sums.q_norm),
            (&mut d_inputs.k, k, &gains.k, &mut sums.k_norm),
        ] {
            let mut d_rows = vec![0.0; rows.len()];
            let d_gain = rms_norm_backward(&mut d_rows, &rows, gain, eps, d);
            *d = d_rows;
            add(sum.as_deref_mut().unwrap_or_default(), &d_gain);
        }
    }
    let d_q = Window::whole(&d_inputs.q, tokens, width);
    let d_k = Window::whole(&d_inputs.k, tokens, kv_width);
    let d_v = Window::whole(&d_inputs.v, tokens, kv_width);
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

/// The gradient of what a block's last matrix and its bias give, `[tokens, hidden]`: `d`, which is
/// that of the residual stream, taken back through the norm behind the block where there is one.
///
/// `gain` is that norm's gain and the sum to which the gain's gradient is added; `input` is what
/// enters the last matrix, whose rows are in `parts`.
fn before_post_norm<'a>(
    d: &'a [f32],
    input: &[f32],
    parts: &[Matrix<'_>],
    bias: Option<&[f32]>,
    gain: Option<(&[f32], &mut [f32])>,
    eps: f32,
) -> Cow<'a, [f32]> {
    let Some((gain, sum)) = gain else {
        return Cow::Borrowed(d);
    };
    let tokens = d.len() / gain.len();
    let mut output = vec![0.0; d.len()];
    let input = Window::whole(input, tokens, input.len() / tokens);
    add_product(&mut output, input, parts);
    if let Some(bias) = bias {
        add_bias(&mut output, bias);
    }
    let mut d_output = vec![0.0; d.len()];
    add(
        sum,
        &rms_norm_backward(&mut d_output, &output, gain, eps, d),
    );
    Cow::Owned(d_output)
}

/// The gradient of `input [tokens, in]` of a block's last matrix, whose rows are in `parts` and
/// whose own gradient is added to `sum`; `d_out` is that of its output.
fn last_matrix_backward(
    d_out: &[f32],
    input: &[f32],
    parts: &[Matrix<'_>],
    sum: &mut Array2<f32>,
) -> Vec<f32> {
    let (width, hidden) = sum.dim();
    let d_out = Window::whole(d_out, d_out.len() / hidden, hidden);
    add_weight_gradient(sum, input, d_out);
    let mut d_input = vec![0.0; input.len()];
    let mut column = 0;
    for part in parts.iter().map(Matrix::window) {
        let out = &mut d_input[column..];
        let (write, threads) = (Write::Replace, Threads::Pool);
        matmul_transposed(out, width, d_out, part, 1.0, write, threads);
        column += part.row_count();
    }
    d_input
}

/// `x` is the stream before the block.
fn mlp_backward(
    subnet: &Subnet<'_>,
    block: &CutMlp<'_>,
    bias: Option<&[f32]>,
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
    activation_times(model.hidden_act, &mut product, &up);
    let last = std::slice::from_ref(&block.down);
    let gain = block.post_norm.zip(sums.post_norm.as_deref_mut());
    let d_out = before_post_norm(d, &product, last, bias, gain, eps);
    let d_product = last_matrix_backward(&d_out, &product, last, &mut sums.down);
    drop((d_out, product));
    activation_times_backward(model.hidden_act, &mut gate, &mut up, &d_product);
    let width = block.gate.window().col_count();
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
