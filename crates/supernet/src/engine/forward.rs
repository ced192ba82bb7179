//! The forward pass of a sub-network, one block at a time.

use lathe_arch::Precision;
use lathe_arch::quantize::round_activations;
use rayon::prelude::*;

use super::attention::{AttentionShape, cached_attention, causal_attention};
use super::elementwise::{activation_times, add_bias, rms_norm};
use super::matmul::{Threads, Window, Write, matmul};
use super::rope::RopeTable;
use crate::cut::{CutAttention, CutMlp, Matrix, Subnet};

/// Rows handed to one task.
const ROUNDED_ROWS: usize = 64;

/// Keys and values of the past tokens of one sequence in one layer, `[tokens, kv_heads * head_dim]`.
#[derive(Default)]
pub(crate) struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Sees what enters the last matrix of each block; calibration collects its statistics here.
pub(crate) trait Observer {
    /// `rows` is the input of `o_proj`, `[tokens, heads * head_dim]`.
    fn attention(&mut self, layer: usize, rows: &[f32]);
    /// `rows` is the input of `down_proj`, `[tokens, intermediate_size]`.
    fn mlp(&mut self, layer: usize, rows: &[f32]);
    /// `rows` is what an attention block adds to the residual stream after a norm of its own,
    /// `[tokens, hidden]`.
    fn normed_attention(&mut self, _layer: usize, _rows: &[f32]) {}
    /// The same of an MLP block.
    fn normed_mlp(&mut self, _layer: usize, _rows: &[f32]) {}
}

/// Observes nothing.
pub(crate) struct NoObserver;

impl Observer for NoObserver {
    fn attention(&mut self, _layer: usize, _rows: &[f32]) {}
    fn mlp(&mut self, _layer: usize, _rows: &[f32]) {}
}

/// The residual stream before layer 0, `[tokens, hidden]`.
pub(crate) fn embed(subnet: &Subnet<'_>, tokens: &[u32]) -> Vec<f32> {
    let hidden = subnet.supernet().model().hidden_size;
    let mut x = Vec::with_capacity(tokens.len() * hidden);
    for token in tokens {
        x.extend_from_slice(subnet.embedding_row(*token as usize));
    }
    if let Some(scale) = subnet.supernet().model().embedding_scale {
        x.iter_mut().for_each(|value| *value *= scale as f32);
    }
    x
}

/// Runs layer `layer` over whole sequences of `seq_len` tokens, in place on `x [tokens, hidden]`.
pub(crate) fn layer(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    seq_len: usize,
    rope: &RopeTable,
) {
    attention_half(subnet, layer, x, seq_len, rope, &mut NoObserver);
    mlp_half(subnet, layer, x, &mut NoObserver);
}

/// The attention block of a layer, or what is left of it.
pub(crate) fn attention_half(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    seq_len: usize,
    rope: &RopeTable,
    observer: &mut dyn Observer,
) {
    let blocks = subnet.layer(layer);
    let bias = blocks.attention_bias.as_deref();
    let Some(attention) = &blocks.attention else {
        return add_constant(x, bias);
    };
    let mixed = mixed_values(subnet, attention, layer, x, seq_len, rope);
    observer.attention(layer, &mixed);
    let observe = |rows: &[f32]| observer.normed_attention(layer, rows);
    attention_output(subnet, attention, bias, x, mixed, observe);
}

/// The MLP block of a layer, or what is left of it.
pub(crate) fn mlp_half(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    observer: &mut dyn Observer,
) {
    let blocks = subnet.layer(layer);
    let bias = blocks.mlp_bias.as_deref();
    let Some(mlp) = &blocks.mlp else {
        return add_constant(x, bias);
    };
    let neurons = mlp_neurons(subnet, mlp, x);
    observer.mlp(layer, &neurons);
    let observe = |rows: &[f32]| observer.normed_mlp(layer, rows);
    mlp_output(subnet, mlp, bias, x, neurons, observe);
}

/// What enters `o_proj`: the values that every head has mixed, `[tokens, heads * head_dim]`.
pub(crate) fn mixed_values(
    subnet: &Subnet<'_>,
    attention: &CutAttention<'_>,
    layer: usize,
    x: &[f32],
    seq_len: usize,
    rope: &RopeTable,
) -> Vec<f32> {
    let rope = rope.of(subnet.supernet().model().layer_type(layer));
    let shape = attention_shape(subnet, attention, layer, seq_len);
    let [mut q, mut k, v] = queries_keys_values(subnet, attention, x);
    rotate(rope, &mut q, shape.heads * shape.head_dim, seq_len, 0);
    rotate(rope, &mut k, shape.kv_heads * shape.head_dim, seq_len, 0);
    causal_attention(&q, &k, &v, shape)
}

/// Runs layer `layer` over the next tokens of one sequence, whose past is in `cache`.
pub(crate) fn layer_with_cache(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    cache: &mut LayerCache,
    past_len: usize,
    rope: &RopeTable,
) {
    let blocks = subnet.layer(layer);
    let model = subnet.supernet().model();
    let tokens = x.len() / model.hidden_size;
    let bias = blocks.attention_bias.as_deref();
    if let Some(attention) = &blocks.attention {
        let rope = rope.of(model.layer_type(layer));
        let shape = attention_shape(subnet, attention, layer, tokens);
        let [mut q, mut k, v] = queries_keys_values(subnet, attention, x);
        let width = shape.heads * shape.head_dim;
        rotate(rope, &mut q, width, tokens, past_len);
        let kv_width = shape.kv_heads * shape.head_dim;
        rotate(rope, &mut k, kv_width, tokens, past_len);
        cache.keys.extend_from_slice(&k);
        cache.values.extend_from_slice(&v);
        let mixed = if past_len == 0 {
            causal_attention(&q, &k, &v, shape)
        } else {
            let one = |(t, q): (usize, &[f32])| {
                let last = past_len + t;
                let seen = shape.first_seen(last) * kv_width..(last + 1) * kv_width;
                cached_attention(q, &cache.keys[seen.clone()], &cache.values[seen], shape)
            };
            q.chunks_exact(width).enumerate().flat_map(one).collect()
        };
        attention_output(subnet, attention, bias, x, mixed, |_| {});
    } else {
        add_constant(x, bias);
    }
    mlp_half(subnet, layer, x, &mut NoObserver);
}

pub(crate) fn rotate(
    rope: &RopeTable,
    rows: &mut [f32],
    width: usize,
    seq_len: usize,
    past_len: usize,
) {
    for (token, row) in rows.chunks_exact_mut(width).enumerate() {
        rope.rotate(row, past_len + token % seq_len);
    }
}

/// Adds what stands for a removed block.
pub(crate) fn add_constant(x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        add_bias(x, bias);
    }
}

pub(crate) fn attention_shape(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    layer: usize,
    seq_len: usize,
) -> AttentionShape {
    let model = subnet.supernet().model();
    AttentionShape {
        heads: block.heads,
        kv_heads: block.kv_heads,
        head_dim: model.head_dim,
        seq_len,
        scale: model.attention_scale() as f32,
        window: model.window(layer),
    }
}

/// Queries `[tokens, heads * head_dim]`, keys and values `[tokens, kv_heads * head_dim]` of the
/// normalised input, before they are turned.
pub(crate) fn queries_keys_values(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    x: &[f32],
) -> [Vec<f32>; 3] {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let eps = model.rms_norm_eps as f32;
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, eps);
    round(&mut normed, hidden, block.precision);
    let [q, k, v] = projections(block, Window::whole(&normed, tokens, hidden));
    match block.qk_norm {
        Some(gains) => [norm_heads(q, gains.q, eps), norm_heads(k, gains.k, eps), v],
        None => [q, k, v],
    }
}

/// The same before the norms of their own that some families have.
pub(crate) fn projections(block: &CutAttention<'_>, input: Window<'_>) -> [Vec<f32>; 3] {
    let parts = || block.q.iter().map(Matrix::window);
    let width = parts().map(|part| part.col_count()).sum();
    let mut q = vec![0.0; input.row_count() * width];
    let mut column = 0;
    for part in parts() {
        let (out, write) = (&mut q[column..], Write::Replace);
        matmul(out, width, input, part, write, Threads::Pool);
        column += part.col_count();
    }
    let mut k = project(input, block.k.window());
    let mut v = project(input, block.v.window());
    if let Some(bias) = &block.qkv_bias {
        add_bias(&mut q, &bias.q);
        add_bias(&mut k, &bias.k);
        add_bias(&mut v, &bias.v);
    }
    [q, k, v]
}

/// RMSNorm of every head, `[heads, head_dim]` a token.
fn norm_heads(rows: Vec<f32>, gain: &[f32], eps: f32) -> Vec<f32> {
    let mut normed = vec![0.0; rows.len()];
    rms_norm(&mut normed, &rows, gain, eps);
    normed
}

/// `x += o_proj(mixed)`, with `mixed [tokens, heads * head_dim]`.
pub(crate) fn attention_output(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    bias: Option<&[f32]>,
    x: &mut [f32],
    mut mixed: Vec<f32>,
    observe: impl FnOnce(&[f32]),
) {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let width = block.heads * model.head_dim;
    round(&mut mixed, width, block.precision);
    let mixed = Window::whole(&mixed, tokens, width);
    let product = |out: &mut [f32]| add_product(out, mixed, &block.o);
    let eps = model.rms_norm_eps as f32;
    add_output(x, product, bias, block.post_norm, eps, observe);
}

/// `activation(gate x) * up x` of the normalised input, `[tokens, intermediate_size]`.
pub(crate) fn mlp_neurons(subnet: &Subnet<'_>, block: &CutMlp<'_>, x: &[f32]) -> Vec<f32> {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, model.rms_norm_eps as f32);
    round(&mut normed, hidden, block.precision);
    let input = Window::whole(&normed, tokens, hidden);
    let mut gate = project(input, block.gate.window());
    let up = project(input, block.up.window());
    activation_times(model.hidden_act, &mut gate, &up);
    gate
}

/// `x += down(neurons)`
pub(crate) fn mlp_output(
    subnet: &Subnet<'_>,
    block: &CutMlp<'_>,
    bias: Option<&[f32]>,
    x: &mut [f32],
    mut neurons: Vec<f32>,
    observe: impl FnOnce(&[f32]),
) {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let width = block.down.window().row_count();
    round(&mut neurons, width, block.precision);
    let neurons = Window::whole(&neurons, tokens, width);
    let last = std::slice::from_ref(&block.down);
    let product = |out: &mut [f32]| add_product(out, neurons, last);
    let eps = model.rms_norm_eps as f32;
    add_output(x, product, bias, block.post_norm, eps, observe);
}

/// `out += input matrix`, with the rows of the matrix in parts and `out [tokens, hidden]`.
pub(crate) fn add_product(out: &mut [f32], input: Window<'_>, parts: &[Matrix<'_>]) {
    let mut column = 0;
    for part in parts.iter().map(Matrix::window) {
        let (rows, hidden) = (part.row_count(), part.col_count());
        let input = input.columns(column, rows);
        matmul(out, hidden, input, part, Write::Add, Threads::Pool);
        column += rows;
    }
}

/// Adds a block's output to the residual stream: what `product` adds to its argument, and the bias
/// for what was cut away. Where the block has a norm behind it, that is of their sum.
fn add_output(
    x: &mut [f32],
    product: impl FnOnce(&mut [f32]),
    bias: Option<&[f32]>,
    post_norm: Option<&[f32]>,
    eps: f32,
    observe: impl FnOnce(&[f32]),
) {
    let Some(gain) = post_norm else {
        product(x);
        return add_constant(x, bias);
    };
    let mut output = vec![0.0; x.len()];
    product(&mut output);
    add_constant(&mut output, bias);
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, &output, gain, eps);
    observe(&normed);
    for (x, normed) in x.iter_mut().zip(&normed) {
        *x += normed;
    }
}

/// What a kernel for quantised weights makes of its input; nothing in f32.
pub(crate) fn round(rows: &mut [f32], width: usize, precision: Precision) {
    if precision != Precision::F32 {
        let tasks = rows.par_chunks_mut(ROUNDED_ROWS * width);
        tasks.for_each(|rows| round_activations(rows, width, precision));
    }
}

pub(crate) fn project(input: Window<'_>, weights: Window<'_>) -> Vec<f32> {
    let width = weights.col_count();
    let mut out = vec![0.0; input.row_count() * width];
    matmul(
        &mut out,
        width,
        input,
        weights,
        Write::Replace,
        Threads::Pool,
    );
    out
}
