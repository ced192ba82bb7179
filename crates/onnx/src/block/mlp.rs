use lathe_arch::{MlpConfig, ModelConfig};

use crate::graph::GraphBuilder;
use crate::linear::Linear;
use crate::weights::TensorRole;

use super::Residual;

/// Adds layer `layer`'s MLP block (SwiGLU, 2002.05202) to the residual stream.
pub(crate) fn mlp(
    graph: &mut GraphBuilder,
    residual: &mut Residual,
    model: &ModelConfig,
    layer: usize,
    shape: MlpConfig,
) {
    let name = |part: &str| format!("/model/layers.{layer}/{part}");
    let (hidden, width) = (model.hidden_size, shape.intermediate_size);
    let norm = name("post_attention_layernorm");
    let normed = residual.norm(graph, &norm, TensorRole::PostAttentionNorm(layer), model);
    let project = |graph: &mut GraphBuilder, part: &str, role, input: &str, size: [usize; 2]| {
        let linear = Linear {
            weight: format!("model.layers.{layer}.mlp.{part}.MatMul"),
            role,
            inputs: size[0],
            outputs: size[1],
            precision: shape.precision,
        };
        linear.apply(graph, &name(&format!("mlp/{part}/MatMul")), input)
    };
    let (role, inward) = (TensorRole::GateProj(layer), [hidden, width]);
    let gate = project(graph, "gate_proj", role, &normed, inward);
    let role = TensorRole::UpProj(layer);
    let up = project(graph, "up_proj", role, &normed, inward);
    let sigmoid = graph.node(&name("mlp/act_fn/Sigmoid"), "Sigmoid", &[&gate], vec![]);
    let silu = graph.node(&name("mlp/act_fn/Mul"), "Mul", &[&gate, &sigmoid], vec![]);
    let product = graph.node(&name("mlp/Mul"), "Mul", &[&silu, &up], vec![]);
    let role = TensorRole::DownProj(layer);
    residual.skip = Some(project(graph, "down_proj", role, &product, [width, hidden]));
}
