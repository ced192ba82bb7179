use lathe_arch::{Activation, MlpConfig, ModelConfig};

use crate::graph::{GraphBuilder, MICROSOFT};
use crate::linear::Projections;
use crate::weights::TensorRole;

use super::Residual;

/// Adds layer `layer`'s MLP block (a gated one, 2002.05202) to the residual stream. `bias` stands
/// for what was cut away.
pub(crate) fn mlp(
    graph: &mut GraphBuilder,
    residual: &mut Residual,
    model: &ModelConfig,
    layer: usize,
    shape: MlpConfig,
    bias: Option<Vec<f32>>,
) {
    let name = |part: &str| format!("/model/layers.{layer}/{part}");
    let (hidden, width) = (model.hidden_size, shape.intermediate_size);
    // Named as transformers has it.
    let norm = name(match model.post_norms {
        true => "pre_feedforward_layernorm",
        false => "post_attention_layernorm",
    });
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
    let active = activation(graph, model.hidden_act, &name("mlp/act_fn"), &gate);
    let product = graph.node(&name("mlp/Mul"), "Mul", &[&active, &up], vec![]);
    let role = TensorRole::DownProj(layer);
    let output = projections.apply(graph, "down_proj", role, [width, hidden], &product);
    let post_norm = name("post_feedforward_layernorm");
    let gain = TensorRole::MlpPostNorm(layer);
    residual.add_output(graph, &post_norm, output, bias, gain, model);
}

fn activation(graph: &mut GraphBuilder, kind: Activation, name: &str, gate: &str) -> String {
    match kind {
        Activation::Silu => {
            let sigmoid = graph.node(&format!("{name}/Sigmoid"), "Sigmoid", &[gate], vec![]);
            graph.node(&format!("{name}/Mul"), "Mul", &[gate, &sigmoid], vec![])
        }
        Activation::GeluPytorchTanh => {
            let node = format!("{name}/FastGelu");
            let output = format!("{node}/output_0");
            graph.push(&node, MICROSOFT, "FastGelu", &[gate], &[&output], vec![]);
            output
        }
    }
}
