use lathe_arch::{AttentionConfig, LayerType, ModelConfig};

use crate::graph::{BATCH, Dim, GraphBuilder, MICROSOFT, PAST, TOTAL, float, integer};
use crate::linear::Projections;
use crate::proto::ElementType;
use crate::rotary::{Rotary, RotaryTable};
use crate::weights::TensorRole;

use super::Residual;
use super::residual::plain_norm;

/// What all attention blocks of a graph share.
pub(crate) struct AttentionInputs {
    last_position: String,
    total_len: String,
    full: RotaryNames,
    /// Of layers that see a window, where there are some.
    sliding: Option<RotaryNames>,
}

/// Names of a rotary embedding's two tables.
struct RotaryNames {
    cos: String,
    sin: String,
}

/// Puts a rotary table into the graph under a name.
type Place = fn(&mut GraphBuilder, &str, RotaryTable) -> String;

impl RotaryNames {
    fn new(graph: &mut GraphBuilder, rotary: &Rotary, place: Place, suffix: &str) -> Self {
        Self {
            cos: place(graph, &format!("cos_cache{suffix}"), rotary.cos()),
            sin: place(graph, &format!("sin_cache{suffix}"), rotary.sin()),
        }
    }
}

impl AttentionInputs {
    /// The attention mask's preamble; `place` puts a rotary table into the graph, `sliding` is that
    /// of the layers that see a window.
    pub fn new(
        graph: &mut GraphBuilder,
        rotary: &Rotary,
        sliding: Option<&Rotary>,
        place: Place,
    ) -> Self {
        let mask = graph.input("attention_mask", ElementType::Int64, &[BATCH, TOTAL]);
        let one = graph.integers("/model/constants/one", &[1], &[1]);
        let second = graph.integers("/model/constants/second", &[], &[1]);
        let keep = vec![integer("keepdims", 0)];
        let to_int32 = || vec![integer("to", ElementType::Int32 as i64)];
        let name = |part: &str| format!("/model/attn_mask/{part}");
        let sum = graph.node(&name("ReduceSum"), "ReduceSum", &[&mask, &one], keep);
        let last = graph.node(&name("Sub"), "Sub", &[&sum, &one], vec![]);
        let last_position = graph.node(&name("Sub/Cast"), "Cast", &[&last], to_int32());
        let shape = graph.node(&name("Shape"), "Shape", &[&mask], vec![]);
        let axis = vec![integer("axis", 0)];
        let total = graph.node(&name("Gather"), "Gather", &[&shape, &second], axis);
        let total_len = graph.node(&name("Gather/Cast"), "Cast", &[&total], to_int32());
        Self {
            last_position,
            total_len,
            full: RotaryNames::new(graph, rotary, place, ""),
            sliding: sliding.map(|sliding| RotaryNames::new(graph, sliding, place, "_local")),
        }
    }

    fn rotary(&self, layer_type: LayerType) -> &RotaryNames {
        match layer_type {
            LayerType::FullAttention => &self.full,
            LayerType::SlidingAttention => self.sliding.as_ref().unwrap_or(&self.full),
        }
    }
}

/// Adds layer `layer`'s attention block to the residual stream, with its KV cache as inputs and
/// outputs of the graph. `bias` stands for what was cut away.
pub(crate) fn attention(
    graph: &mut GraphBuilder,
    residual: &mut Residual,
    shared: &AttentionInputs,
    model: &ModelConfig,
    layer: usize,
    shape: AttentionConfig,
    bias: Option<Vec<f32>>,
) {
    let name = |part: &str| format!("/model/layers.{layer}/{part}");
    let projections = Projections {
        layer,
        block: "attn",
        precision: shape.precision,
    };
    let (hidden, head_dim) = (model.hidden_size, model.head_dim);
    let norm = name("input_layernorm");
    let normed = residual.norm(graph, &norm, TensorRole::InputNorm(layer), model);
    let width = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let role = TensorRole::QkvProj(layer);
    let mut qkv = projections.apply(graph, "qkv_proj", role, [hidden, width], &normed);
    if model.qkv_bias {
        let bias = format!("model.layers.{layer}.attn.qkv_proj.Add.bias");
        let bias = graph.weight(bias, TensorRole::QkvBias(layer), &[width]);
        qkv = graph.node(&name("attn/qkv_proj/Add"), "Add", &[&qkv, &bias], vec![]);
    }
    let inputs = if model.qk_norm {
        normed_heads(graph, &qkv, model, layer, shape)
    } else {
        [qkv, String::new(), String::new()]
    };
    let mixed = grouped_query_attention(graph, shared, &inputs, model, layer, shape);
    let role = TensorRole::OProj(layer);
    let outward = [shape.heads * head_dim, hidden];
    let output = projections.apply(graph, "o_proj", role, outward, &mixed);
    let post_norm = name("post_attention_layernorm");
    let gain = TensorRole::AttentionPostNorm(layer);
    residual.add_output(graph, &post_norm, output, bias, gain, model);
}

/// Queries, keys and values apart, with an RMSNorm of every query and key head.
fn normed_heads(
    graph: &mut GraphBuilder,
    qkv: &str,
    model: &ModelConfig,
    layer: usize,
    shape: AttentionConfig,
) -> [String; 3] {
    let head_dim = model.head_dim as i64;
    let node = format!("/model/layers.{layer}/attn/qkv_proj/Split");
    let [heads, kv_heads] = [shape.heads, shape.kv_heads].map(|heads| heads as i64);
    let widths = [heads, kv_heads, kv_heads].map(|heads| heads * head_dim);
    let widths = graph.integers(&format!("{node}/widths"), &[3], &widths);
    let parts = [0, 1, 2].map(|part| format!("{node}/output_{part}"));
    let outputs = parts.each_ref().map(String::as_str);
    let axis = vec![integer("axis", -1)];
    graph.push(&node, "", "Split", &[qkv, &widths], &outputs, axis);
    let [q, k, v] = parts;
    let mut norm = |part: &str, input: &str, role: TensorRole, heads: i64| {
        let node = format!("/model/layers.{layer}/attn/{part}");
        let constant = format!("model.layers.{layer}.attn.{part}.layernorm.weight");
        let gain = graph.weight(constant, role, &[model.head_dim]);
        // 0 keeps the dimension of the input.
        let shape = [0, 0, heads, head_dim];
        let apart = reshape(graph, &format!("{node}/Reshape_1"), input, &shape);
        let name = format!("{node}/SimplifiedLayerNormalization");
        let normed = plain_norm(graph, &name, &apart, &gain, model.rms_norm_eps as f32);
        let shape = [0, 0, heads * head_dim];
        reshape(graph, &format!("{node}/Reshape_2"), &normed, &shape)
    };
    let q = norm("q_norm", &q, TensorRole::QueryNorm(layer), heads);
    let k = norm("k_norm", &k, TensorRole::KeyNorm(layer), kv_heads);
    [q, k, v]
}

fn reshape(graph: &mut GraphBuilder, node: &str, input: &str, shape: &[i64]) -> String {
    let shape = graph.integers(&format!("{node}/shape"), &[shape.len()], shape);
    graph.node(node, "Reshape", &[input, &shape], vec![])
}

/// Rotary embedding, KV cache and causal attention in one operator.
fn grouped_query_attention(
    graph: &mut GraphBuilder,
    shared: &AttentionInputs,
    [query, key, value]: &[String; 3],
    model: &ModelConfig,
    layer: usize,
    shape: AttentionConfig,
) -> String {
    let [past_key, past_value, present_key, present_value] =
        kv_cache(graph, model.head_dim, layer, shape.kv_heads);
    let node = format!("/model/layers.{layer}/attn/GroupQueryAttention");
    let mixed = format!("{node}/output_0");
    let rotary = shared.rotary(model.layer_type(layer));
    let window = model.window(layer).map_or(-1, |window| window as i64);
    let inputs = [
        query.as_str(),
        key,
        value,
        &past_key,
        &past_value,
        &shared.last_position,
        &shared.total_len,
        &rotary.cos,
        &rotary.sin,
    ];
    let attributes = vec![
        integer("num_heads", shape.heads as i64),
        integer("kv_num_heads", shape.kv_heads as i64),
        float("scale", model.attention_scale() as f32),
        integer("do_rotary", 1),
        integer("rotary_interleaved", 0),
        integer("local_window_size", window),
    ];
    let outputs = [mixed.as_str(), &present_key, &present_value];
    let op = "GroupQueryAttention";
    graph.push(&node, MICROSOFT, op, &inputs, &outputs, attributes);
    mixed
}

/// Declares a layer's past key and value as inputs, its present key and value as outputs.
fn kv_cache(
    graph: &mut GraphBuilder,
    head_dim: usize,
    layer: usize,
    kv_heads: usize,
) -> [String; 4] {
    let shape = |tokens| [BATCH, Dim::Fixed(kv_heads), tokens, Dim::Fixed(head_dim)];
    let mut past = |part: &str| {
        let name = format!("past_key_values.{layer}.{part}");
        graph.input(&name, ElementType::Float, &shape(PAST))
    };
    let (past_key, past_value) = (past("key"), past("value"));
    let [present_key, present_value] =
        ["key", "value"].map(|part| format!("present.{layer}.{part}"));
    for output in [&present_key, &present_value] {
        graph.output(output, ElementType::Float, &shape(TOTAL));
    }
    [past_key, past_value, present_key, present_value]
}
