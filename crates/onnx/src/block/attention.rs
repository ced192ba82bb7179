use lathe_arch::{AttentionConfig, ModelConfig};

use crate::graph::{BATCH, Dim, GraphBuilder, MICROSOFT, PAST, TOTAL, float, integer};
use crate::linear::Projections;
use crate::proto::ElementType;
use crate::rotary::{Rotary, RotaryTable};
use crate::weights::TensorRole;

use super::Residual;

/// What all attention blocks of a graph share.
pub(crate) struct AttentionInputs {
    last_position: String,
    total_len: String,
    cos: String,
    sin: String,
}

impl AttentionInputs {
    /// The attention mask's preamble; `place` puts a rotary table into the graph.
    pub fn new(
        graph: &mut GraphBuilder,
        rotary: &Rotary,
        place: fn(&mut GraphBuilder, &str, RotaryTable) -> String,
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
            cos: place(graph, "cos_cache", rotary.cos()),
            sin: place(graph, "sin_cache", rotary.sin()),
        }
    }
}

/// Adds layer `layer`'s attention block to the residual stream, with its KV cache as inputs and
/// outputs of the graph.
pub(crate) fn attention(
    graph: &mut GraphBuilder,
    residual: &mut Residual,
    shared: &AttentionInputs,
    model: &ModelConfig,
    layer: usize,
    shape: AttentionConfig,
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
    let qkv = projections.apply(graph, "qkv_proj", role, [hidden, width], &normed);
    let mixed = grouped_query_attention(graph, shared, &qkv, model, layer, shape);
    let role = TensorRole::OProj(layer);
    let outward = [shape.heads * head_dim, hidden];
    residual.skip = Some(projections.apply(graph, "o_proj", role, outward, &mixed));
}

/// Rotary embedding, KV cache and causal attention in one operator.
fn grouped_query_attention(
    graph: &mut GraphBuilder,
    shared: &AttentionInputs,
    qkv: &str,
    model: &ModelConfig,
    layer: usize,
    shape: AttentionConfig,
) -> String {
    let [past_key, past_value, present_key, present_value] =
        kv_cache(graph, model.head_dim, layer, shape.kv_heads);
    let node = format!("/model/layers.{layer}/attn/GroupQueryAttention");
    let mixed = format!("{node}/output_0");
    let inputs = [
        qkv,
        "",
        "",
        &past_key,
        &past_value,
        &shared.last_position,
        &shared.total_len,
        &shared.cos,
        &shared.sin,
    ];
    let attributes = vec![
        integer("num_heads", shape.heads as i64),
        integer("kv_num_heads", shape.kv_heads as i64),
        float("scale", 1.0 / (model.head_dim as f32).sqrt()),
        integer("do_rotary", 1),
        integer("rotary_interleaved", 0),
        integer("local_window_size", -1),
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
