use lathe_arch::{MlpConfig, ModelConfig};

use crate::graph::GraphBuilder;
use crate::linear::Projections;
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
    let projections = Projections {
        layer,
        block: "mlp",
        precision: shape.precision,
    };
    let (role, inward) = (TensorRole::GateProj(layer), [hidden, width]);
    let gate = projections.apply(graph, "gate_proj", role, inward, &normed);
    let role = TensorRole::UpProj(layer);
    let up = projections.apply(graph, "up_proj", role, inward, &normed);
    let sigmoid = graph.node(&name("mlp/act_fn/Sigmoid"), "Sigmoid", &[&gate], vec![]);
    let silu = graph.node(&name("mlp/act_fn/Mul"), "Mul", &[&gate, &sigmoid], vec![]);
    let product = graph.node(&name("mlp/Mul"), "Mul", &[&silu, &up], vec![]);
    let role = TensorRole::DownProj(layer);
    residual.skip = Some(projections.apply(graph, "down_proj", role, [width, hidden], &product));
}
