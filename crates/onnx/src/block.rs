//! The two blocks of a layer and the residual stream between them, node by node as
//! onnxruntime-genai's model builder writes them.

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig};

use crate::graph::{BATCH, Dim, GraphBuilder, MICROSOFT, PAST, TOTAL, float, integer};
use crate::proto::ElementType;
use crate::weights::TensorRole;

/// The residual stream: what has been summed, and what the next norm has yet to add.
///
/// The addition belongs to the next norm, because ONNX Runtime does both in one operator.
pub(crate) struct Residual {
    pub root: String,
    pub skip: Option<String>,
    /// Constants that pruned blocks left since the last norm, added up.
    pub bias: Option<Vec<f32>>,
}

impl Residual {
    /// Adds a constant that the next norm will take in.
    pub fn add_bias(&mut self, bias: Option<Vec<f32>>) {
        let Some(new) = bias else { return };
        match &mut self.bias {
            Some(pending) => pending
                .iter_mut()
                .zip(new)
                .for_each(|(sum, new)| *sum += new),
            None => self.bias = Some(new),
        }
    }

    /// Adds what is pending and normalises; returns the normalised stream.
    pub fn norm(
        &mut self,
        graph: &mut GraphBuilder,
        name: &str,
        gain: TensorRole,
        model: &ModelConfig,
    ) -> String {
        let gain = graph.weight(format!("{name}.weight"), gain, &[model.hidden_size]);
        let epsilon = float("epsilon", model.rms_norm_eps as f32);
        let bias = self.bias.take();
        let bias = bias.map(|values| graph.vector(format!("{name}.bias"), values));
        let Some(skip) = self.skip.take() else {
            if let Some(bias) = bias {
                self.root = graph.node(&format!("{name}/Add"), "Add", &[&self.root, &bias], vec![]);
            }
            let attributes = vec![integer("axis", -1), integer("stash_type", 1), epsilon];
            let inputs = [self.root.as_str(), gain.as_str()];
            return graph.node(name, "SimplifiedLayerNormalization", &inputs, attributes);
        };
        let (normed, sum) = (format!("{name}/output_0"), format!("{name}/output_3"));
        let mut inputs = vec![self.root.as_str(), &skip, &gain];
        inputs.extend(bias.as_deref());
        let outputs = [normed.as_str(), "", "", &sum];
        let op = "SkipSimplifiedLayerNormalization";
        graph.push(name, MICROSOFT, op, &inputs, &outputs, vec![epsilon]);
        self.root = sum;
        normed
    }
}

/// What all attention blocks of a graph share.
pub(crate) struct AttentionInputs {
    last_position: String,
    total_len: String,
    cos: String,
    sin: String,
}

impl AttentionInputs {
    /// The attention mask's preamble, and rotary tables for `positions` positions.
    pub fn new(graph: &mut GraphBuilder, model: &ModelConfig, positions: usize) -> Self {
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
        let frequencies = model.rope_frequencies();
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let angles = (0..positions)
                .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
            angles.map(|angle| f(angle) as f32).collect()
        };
        let shape = [positions, frequencies.len()];
        Self {
            last_position,
            total_len,
            cos: graph.table("cos_cache", &shape, &table(f64::cos)),
            sin: graph.table("sin_cache", &shape, &table(f64::sin)),
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
    let weight = |part: &str| format!("model.layers.{layer}.{part}.weight");
    let (hidden, head_dim) = (model.hidden_size, model.head_dim);
    let normed = residual.norm(
        graph,
        &name("input_layernorm"),
        TensorRole::InputNorm(layer),
        model,
    );
    let width = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let role = TensorRole::QkvProj(layer);
    let qkv = graph.weight(weight("attn.qkv_proj.MatMul"), role, &[hidden, width]);
    let qkv = graph.node(
        &name("attn/qkv_proj/MatMul"),
        "MatMul",
        &[&normed, &qkv],
        vec![],
    );
    let cache = |length: Dim| {
        [
            BATCH,
            Dim::Fixed(shape.kv_heads),
            length,
            Dim::Fixed(head_dim),
        ]
    };
    let mut past = |part: &str| {
        let name = format!("past_key_values.{layer}.{part}");
        graph.input(&name, ElementType::Float, &cache(PAST))
    };
    let (past_key, past_value) = (past("key"), past("value"));
    let present = ["key", "value"].map(|part| format!("present.{layer}.{part}"));
    for output in &present {
        graph.output(output, ElementType::Float, &cache(TOTAL));
    }
    let op = name("attn/GroupQueryAttention");
    let mixed = format!("{op}/output_0");
    let inputs = [
        &qkv,
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
        float("scale", 1.0 / (head_dim as f32).sqrt()),
        integer("do_rotary", 1),
        integer("rotary_interleaved", 0),
        integer("local_window_size", -1),
    ];
    let outputs = [mixed.as_str(), &present[0], &present[1]];
    graph.push(
        &op,
        MICROSOFT,
        "GroupQueryAttention",
        &inputs,
        &outputs,
        attributes,
    );
    let role = TensorRole::OProj(layer);
    let o = graph.weight(
        weight("attn.o_proj.MatMul"),
        role,
        &[shape.heads * head_dim, hidden],
    );
    let out = graph.node(&name("attn/o_proj/MatMul"), "MatMul", &[&mixed, &o], vec![]);
    residual.skip = Some(out);
}

/// Adds layer `layer`'s MLP block to the residual stream.
pub(crate) fn mlp(
    graph: &mut GraphBuilder,
    residual: &mut Residual,
    model: &ModelConfig,
    layer: usize,
    shape: MlpConfig,
) {
    let name = |part: &str| format!("/model/layers.{layer}/{part}");
    let weight = |part: &str| format!("model.layers.{layer}.mlp.{part}.MatMul.weight");
    let (hidden, width) = (model.hidden_size, shape.intermediate_size);
    let norm = name("post_attention_layernorm");
    let normed = residual.norm(graph, &norm, TensorRole::PostAttentionNorm(layer), model);
    let mut project = |part: &str, role, input: &str, shape: [usize; 2]| {
        let matrix = graph.weight(weight(part), role, &shape);
        let node = name(&format!("mlp/{part}/MatMul"));
        graph.node(&node, "MatMul", &[input, &matrix], vec![])
    };
    let gate = project(
        "gate_proj",
        TensorRole::GateProj(layer),
        &normed,
        [hidden, width],
    );
    let up = project(
        "up_proj",
        TensorRole::UpProj(layer),
        &normed,
        [hidden, width],
    );
    let sigmoid = graph.node(&name("mlp/act_fn/Sigmoid"), "Sigmoid", &[&gate], vec![]);
    let silu = graph.node(&name("mlp/act_fn/Mul"), "Mul", &[&gate, &sigmoid], vec![]);
    let product = graph.node(&name("mlp/Mul"), "Mul", &[&silu, &up], vec![]);
    let down = graph.weight(
        weight("down_proj"),
        TensorRole::DownProj(layer),
        &[width, hidden],
    );
    let out = name("mlp/down_proj/MatMul");
    residual.skip = Some(graph.node(&out, "MatMul", &[&product, &down], vec![]));
}
