//! Through one layer.

use std::borrow::Cow;

use ndarray::Array2;

use super::activation::activation_times_backward;
use super::attention::{AttentionInputs, causal_attention_backward};
use super::norm::rms_norm_backward;
use super::sink::GradientSink;
use crate::cut::{CutAttention, CutMlp, Matrix, Subnet};
use crate::engine::attention::causal_attention;
use crate::engine::elementwise::{activation_times, add_bias, rms_norm};
use crate::engine::forward::{
    add_product, attention_output, attention_shape, mlp_output, project, projections,
    queries_keys_values, rotate,
};
use crate::engine::matmul::{Threads, Window, Write, matmul_transposed};
use crate::engine::rope::RopeTable;
use crate::parameters::{Part, Role};

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

/// What a layer makes on its way that the way back needs.
pub(crate) struct LayerActivations {
    /// The residual stream before the layer, `[tokens, hidden]`.
    x: Vec<f32>,
    attention: Option<AttentionActivations>,
    /// The stream between the two blocks.
    between: Vec<f32>,
    mlp: Option<MlpActivations>,
}

struct AttentionActivations {
    /// After rotation.
    inputs: AttentionInputs,
    /// What enters `o_proj`, `[tokens, heads * head_dim]`.
    mixed: Vec<f32>,
}

/// `[tokens, intermediate_size]` each.
struct MlpActivations {
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl LayerActivations {
    /// Runs layer `layer` over `x [tokens, hidden]`, sequences of `seq_len` tokens, but for its last
    /// product.
    pub fn new(
        subnet: &Subnet<'_>,
        layer: usize,
        x: Vec<f32>,
        seq_len: usize,
        rope: &RopeTable,
    ) -> Self {
        let blocks = subnet.layer(layer);
        let mut between = x.clone();
        let bias = blocks.attention_bias.as_deref();
        let attention = blocks.attention.as_ref().map(|block| {
            let rope = rope.of(subnet.supernet().model().layer_type(layer));
            let shape = attention_shape(subnet, block, layer, seq_len);
            let [mut q, mut k, v] = queries_keys_values(subnet, block, &x);
            rotate(rope, &mut q, shape.heads * shape.head_dim, seq_len, 0);
            rotate(rope, &mut k, shape.kv_heads * shape.head_dim, seq_len, 0);
            let mixed = causal_attention(&q, &k, &v, shape);
            attention_output(subnet, block, bias, &mut between, mixed.clone(), |_| {});
            let inputs = AttentionInputs { q, k, v };
            AttentionActivations { inputs, mixed }
        });
        if let (None, Some(bias)) = (&attention, bias) {
            add_bias(&mut between, bias);
        }
        let mlp = blocks.mlp.as_ref().map(|block| {
            let normed = normed(subnet, block.norm, &between);
            MlpActivations {
                gate: project(normed.window(), block.gate.window()),
                up: project(normed.window(), block.up.window()),
            }
        });
        Self {
            x,
            attention,
            between,
            mlp,
        }
    }

    /// The residual stream after the layer, `[tokens, hidden]`.
    pub fn output(&self, subnet: &Subnet<'_>, layer: usize) -> Vec<f32> {
        let blocks = subnet.layer(layer);
        let bias = blocks.mlp_bias.as_deref();
        let mut x = self.between.clone();
        match (&blocks.mlp, &self.mlp) {
            (Some(block), Some(activations)) => {
                let product = activations.product(subnet);
                mlp_output(subnet, block, bias, &mut x, product, |_| {});
            }
            (_, _) => {
                if let Some(bias) = bias {
                    add_bias(&mut x, bias);
                }
            }
        }
        x
    }

    /// Turns `d`, the gradient of the residual stream after the layer, into that before it, both
    /// `[tokens, hidden]`, and tells `sink` the gradients of the layer's weights.
    pub fn backward(
        self,
        subnet: &Subnet<'_>,
        layer: usize,
        d: &mut [f32],
        seq_len: usize,
        rope: &RopeTable,
        sink: &mut dyn GradientSink,
    ) {
        let blocks = subnet.layer(layer);
        let way_back = WayBack {
            subnet,
            layer,
            seq_len,
            rope,
        };
        match (&blocks.mlp, self.mlp) {
            (Some(block), Some(activations)) => {
                way_back.mlp(block, &self.between, activations, d, sink);
            }
            (_, _) => way_back.bias(Part::MlpBias, &blocks.mlp_bias, d, sink),
        }
        match (&blocks.attention, self.attention) {
            (Some(block), Some(activations)) => {
                way_back.attention(block, &self.x, activations, d, sink);
            }
            (_, _) => way_back.bias(Part::AttentionBias, &blocks.attention_bias, d, sink),
        }
    }
}

impl MlpActivations {
    fn product(&self, subnet: &Subnet<'_>) -> Vec<f32> {
        let mut product = self.gate.clone();
        let activation = subnet.supernet().model().hidden_act;
        activation_times(activation, &mut product, &self.up);
        product
    }
}

/// Rows of a matrix of its own.
struct Rows {
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    fn window(&self) -> Window<'_> {
        Window::whole(&self.values, self.values.len() / self.width, self.width)
    }
}

/// The norm of every row of the residual stream.
fn normed(subnet: &Subnet<'_>, gain: &[f32], x: &[f32]) -> Rows {
    let mut values = vec![0.0; x.len()];
    let eps = subnet.supernet().model().rms_norm_eps as f32;
    rms_norm(&mut values, x, gain, eps);
    Rows {
        values,
        width: gain.len(),
    }
}

/// The backward pass through the blocks of one layer.
#[derive(Clone, Copy)]
struct WayBack<'a, 'b> {
    subnet: &'b Subnet<'a>,
    layer: usize,
    seq_len: usize,
    rope: &'b RopeTable,
}

impl WayBack<'_, '_> {
    fn role(self, part: Part) -> Role {
        Role::Layer(self.layer, part)
    }

    /// The gradient of a bias is the sum of that of the rows it is added to.
    fn bias(self, part: Part, bias: &Option<Vec<f32>>, d: &[f32], sink: &mut dyn GradientSink) {
        if let Some(bias) = bias {
            sink.vector(self.role(part), &column_sums(d, bias.len()));
        }
    }

    /// `x` is the stream before the block.
    fn attention(
        self,
        block: &CutAttention<'_>,
        x: &[f32],
        activations: AttentionActivations,
        d: &mut [f32],
        sink: &mut dyn GradientSink,
    ) {
        let AttentionActivations { inputs, mixed } = activations;
        let shape = attention_shape(self.subnet, block, self.layer, self.seq_len);
        let model = self.subnet.supernet().model();
        let rope = self.rope.of(model.layer_type(self.layer));
        let (hidden, eps) = (model.hidden_size, model.rms_norm_eps as f32);
        let tokens = x.len() / hidden;
        let width = shape.heads * shape.head_dim;
        let kv_width = shape.kv_heads * shape.head_dim;
        let bias = &self.subnet.layer(self.layer).attention_bias;
        let last = LastMatrix {
            parts: &block.o,
            bias: bias.as_deref(),
            gain: block.post_norm,
            matrix: Part::Output,
            post_norm: Part::AttentionPostNorm,
        };
        let d_out = self.before_post_norm(last, d, &mixed, sink);
        self.bias(Part::AttentionBias, bias, &d_out, sink);
        let d_mixed = self.last_matrix(last, &d_out, &mixed, sink);
        drop(d_out);
        let mut d_inputs = causal_attention_backward(&inputs, &d_mixed, shape);
        for (rows, width) in [(&mut d_inputs.q, width), (&mut d_inputs.k, kv_width)] {
            for (token, row) in rows.chunks_exact_mut(width).enumerate() {
                rope.rotate_back(row, token % shape.seq_len);
            }
        }
        let normed = normed(self.subnet, block.norm, x);
        if let Some(gains) = block.qk_norm {
            let [q, k, _] = projections(block, normed.window());
            for (d, rows, gain, part) in [
                (&mut d_inputs.q, q, gains.q, Part::QueryNorm),
                (&mut d_inputs.k, k, gains.k, Part::KeyNorm),
            ] {
                let mut d_rows = vec![0.0; rows.len()];
                let d_gain = rms_norm_backward(&mut d_rows, &rows, gain, eps, d);
                *d = d_rows;
                sink.vector(self.role(part), &d_gain);
            }
        }
        let d_q = Window::whole(&d_inputs.q, tokens, width);
        let d_k = Window::whole(&d_inputs.k, tokens, kv_width);
        let d_v = Window::whole(&d_inputs.v, tokens, kv_width);
        for (matrix, bias, d, rows) in [
            (Part::Query, Part::QueryBias, d_q, &d_inputs.q),
            (Part::Key, Part::KeyBias, d_k, &d_inputs.k),
            (Part::Value, Part::ValueBias, d_v, &d_inputs.v),
        ] {
            sink.matrix(self.role(matrix), normed.window(), d);
            if block.qkv_bias.is_some() {
                sink.vector(self.role(bias), &column_sums(rows, d.col_count()));
            }
        }
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
        sink.vector(self.role(Part::AttentionNorm), &d_gain);
    }

    /// `x` is the stream before the block.
    fn mlp(
        self,
        block: &CutMlp<'_>,
        x: &[f32],
        activations: MlpActivations,
        d: &mut [f32],
        sink: &mut dyn GradientSink,
    ) {
        let model = self.subnet.supernet().model();
        let (hidden, eps) = (model.hidden_size, model.rms_norm_eps as f32);
        let tokens = x.len() / hidden;
        let product = activations.product(self.subnet);
        let bias = &self.subnet.layer(self.layer).mlp_bias;
        let last = LastMatrix {
            parts: std::slice::from_ref(&block.down),
            bias: bias.as_deref(),
            gain: block.post_norm,
            matrix: Part::Down,
            post_norm: Part::MlpPostNorm,
        };
        let d_out = self.before_post_norm(last, d, &product, sink);
        self.bias(Part::MlpBias, bias, &d_out, sink);
        let d_product = self.last_matrix(last, &d_out, &product, sink);
        drop((d_out, product));
        let MlpActivations { mut gate, mut up } = activations;
        activation_times_backward(model.hidden_act, &mut gate, &mut up, &d_product);
        let width = block.gate.window().col_count();
        let d_gate = Window::whole(&gate, tokens, width);
        let d_up = Window::whole(&up, tokens, width);
        let normed = normed(self.subnet, block.norm, x);
        sink.matrix(self.role(Part::Gate), normed.window(), d_gate);
        sink.matrix(self.role(Part::Up), normed.window(), d_up);
        let mut d_normed = vec![0.0; x.len()];
        add_input_gradient(&mut d_normed, d_gate, block.gate.window());
        add_input_gradient(&mut d_normed, d_up, block.up.window());
        let d_gain = rms_norm_backward(d, x, block.norm, eps, &d_normed);
        sink.vector(self.role(Part::MlpNorm), &d_gain);
    }

    /// The gradient of what a block's last matrix and its bias give, `[tokens, hidden]`: `d`, which
    /// is that of the residual stream, taken back through the norm behind the block where there is
    /// one. `input` is what enters the last matrix.
    fn before_post_norm<'d>(
        self,
        last: LastMatrix<'_>,
        d: &'d [f32],
        input: &[f32],
        sink: &mut dyn GradientSink,
    ) -> Cow<'d, [f32]> {
        let Some(gain) = last.gain else {
            return Cow::Borrowed(d);
        };
        let tokens = d.len() / gain.len();
        let mut output = vec![0.0; d.len()];
        let input = Window::whole(input, tokens, input.len() / tokens);
        add_product(&mut output, input, last.parts);
        if let Some(bias) = last.bias {
            add_bias(&mut output, bias);
        }
        let mut d_output = vec![0.0; d.len()];
        let eps = self.subnet.supernet().model().rms_norm_eps as f32;
        let d_gain = rms_norm_backward(&mut d_output, &output, gain, eps, d);
        sink.vector(self.role(last.post_norm), &d_gain);
        Cow::Owned(d_output)
    }

    /// The gradient of `input [tokens, in]` of a block's last matrix; `d_out` is that of its output.
    fn last_matrix(
        self,
        last: LastMatrix<'_>,
        d_out: &[f32],
        input: &[f32],
        sink: &mut dyn GradientSink,
    ) -> Vec<f32> {
        let hidden = self.subnet.supernet().model().hidden_size;
        let tokens = d_out.len() / hidden;
        let (width, d_out) = (input.len() / tokens, Window::whole(d_out, tokens, hidden));
        let rows = Window::whole(input, tokens, width);
        sink.matrix(self.role(last.matrix), rows, d_out);
        let mut d_input = vec![0.0; input.len()];
        let mut column = 0;
        for part in last.parts.iter().map(Matrix::window) {
            let out = &mut d_input[column..];
            let (write, threads) = (Write::Replace, Threads::Pool);
            matmul_transposed(out, width, d_out, part, 1.0, write, threads);
            column += part.row_count();
        }
        d_input
    }
}

/// The matrix through which a block writes, its rows in parts, with what is behind it.
#[derive(Clone, Copy)]
struct LastMatrix<'a> {
    parts: &'a [Matrix<'a>],
    bias: Option<&'a [f32]>,
    /// Of the norm behind the block.
    gain: Option<&'a [f32]>,
    matrix: Part,
    post_norm: Part,
}

/// `out += d weights^T`: of the inputs of `weights [in, out]`, `[tokens, in]`.
fn add_input_gradient(out: &mut [f32], d: Window<'_>, weights: Window<'_>) {
    let inputs = weights.row_count();
    let (write, threads) = (Write::Add, Threads::Pool);
    matmul_transposed(out, inputs, d, weights, 1.0, write, threads);
}

/// Sums over the rows of `d [tokens, width]`.
fn column_sums(d: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in d.chunks_exact(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    sums
}
