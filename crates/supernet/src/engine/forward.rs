//! The forward pass of a sub-network, one block at a time.

use lathe_arch::Precision;
use lathe_arch::quantize::round_activations;
use rayon::prelude::*;

use super::attention::{AttentionShape, cached_attention, causal_attention};
use super::elementwise::{add_bias, rms_norm, silu_times};
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
    if let Some(attention) = &blocks.attention {
        let attend = |mut q: Vec<f32>, mut k: Vec<f32>, v: Vec<f32>, shape: AttentionShape| {
            rotate(rope, &mut q, shape.heads * shape.head_dim, seq_len, 0);
            rotate(rope, &mut k, shape.kv_heads * shape.head_dim, seq_len, 0);
            let mixed = causal_attention(&q, &k, &v, shape);
            observer.attention(layer, &mixed);
            mixed
        };
        attention_block(subnet, attention, x, seq_len, attend);
    }
    if let Some(bias) = &blocks.attention_bias {
        add_bias(x, bias);
    }
}

/// The MLP block of a layer, or what is left of it.
pub(crate) fn mlp_half(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    observer: &mut dyn Observer,
) {
    let blocks = subnet.layer(layer);
    if let Some(mlp) = &blocks.mlp {
        mlp_block(subnet, mlp, x, |rows| observer.mlp(layer, rows));
    }
    if let Some(bias) = &blocks.mlp_bias {
        add_bias(x, bias);
    }
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
    let tokens = x.len() / subnet.supernet().model().hidden_size;
    if let Some(attention) = &blocks.attention {
        let attend = |mut q: Vec<f32>, mut k: Vec<f32>, v: Vec<f32>, shape: AttentionShape| {
            let (width, kv_width) = (
                shape.heads * shape.head_dim,
                shape.kv_heads * shape.head_dim,
            );
            rotate(rope, &mut q, width, tokens, past_len);
            rotate(rope, &mut k, kv_width, tokens, past_len);
            cache.keys.extend_from_slice(&k);
            cache.values.extend_from_slice(&v);
            if past_len == 0 {
                return causal_attention(&q, &k, &v, shape);
            }
            let one = |(t, q): (usize, &[f32])| {
                let seen = (past_len + t + 1) * kv_width;
                cached_attention(q, &cache.keys[..seen], &cache.values[..seen], shape)
            };
            q.chunks_exact(width).enumerate().flat_map(one).collect()
        };
        attention_block(subnet, attention, x, tokens, attend);
    }
    if let Some(bias) = &blocks.attention_bias {
        add_bias(x, bias);
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

/// `x += o_proj(attend(q, k, v))` on the normalised input.
pub(crate) fn attention_block(
    subnet: &Subnet<'_>,
    block: &CutAttention<'_>,
    x: &mut [f32],
    seq_len: usize,
    attend: impl FnOnce(Vec<f32>, Vec<f32>, Vec<f32>, AttentionShape) -> Vec<f32>,
) {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let shape = AttentionShape {
        heads: block.heads,
        kv_heads: block.kv_heads,
        head_dim: model.head_dim,
        seq_len,
    };
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, model.rms_norm_eps as f32);
    round(&mut normed, hidden, block.precision);
    let input = Window::whole(&normed, tokens, hidden);
    let width = shape.heads * shape.head_dim;
    let mut q = vec![0.0; tokens * width];
    let mut column = 0;
    for part in block.q.iter().map(Matrix::window) {
        matmul(
            &mut q[column..],
            width,
            input,
            part,
            Write::Replace,
            Threads::Pool,
        );
        column += part.col_count();
    }
    let k = project(input, block.k.window());
    let v = project(input, block.v.window());
    let mut mixed = attend(q, k, v, shape);
    round(&mut mixed, width, block.precision);
    let mut column = 0;
    for part in block.o.iter().map(Matrix::window) {
        let rows = part.row_count();
        let mixed = Window::whole(&mixed, tokens, width).columns(column, rows);
        matmul(x, hidden, mixed, part, Write::Add, Threads::Pool);
        column += rows;
    }
}

/// `x += down(silu(gate x) * up x)` on the normalised input.
fn mlp_block(subnet: &Subnet<'_>, block: &CutMlp<'_>, x: &mut [f32], observe: impl FnOnce(&[f32])) {
    let model = subnet.supernet().model();
    let hidden = model.hidden_size;
    let tokens = x.len() / hidden;
    let mut normed = vec![0.0; x.len()];
    rms_norm(&mut normed, x, block.norm, model.rms_norm_eps as f32);
    round(&mut normed, hidden, block.precision);
    let input = Window::whole(&normed, tokens, hidden);
    let mut gate = project(input, block.gate.window());
    let up = project(input, block.up.window());
    silu_times(&mut gate, &up);
    observe(&gate);
    let width = block.gate.window().col_count();
    round(&mut gate, width, block.precision);
    let activations = Window::whole(&gate, tokens, width);
    matmul(
        x,
        hidden,
        activations,
        block.down.window(),
        Write::Add,
        Threads::Pool,
    );
}

/// What a kernel for quantised weights makes of its input; nothing in f32.
pub(crate) fn round(rows: &mut [f32], width: usize, precision: Precision) {
    if precision != Precision::F32 {
        let tasks = rows.par_chunks_mut(ROUNDED_ROWS * width);
        tasks.for_each(|rows| round_activations(rows, width));
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
