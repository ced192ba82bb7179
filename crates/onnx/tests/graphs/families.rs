//! What other families than Llama add to a graph.

use lathe_arch::{
    Activation, AttentionConfig, LayerType, MlpConfig, ModelConfig, SlidingWindow, SubnetConfig,
};
use lathe_onnx::{LogitRows, Network, write_network};

use crate::tiny::{self, graph, op_counts};

/// A model with all that any family has.
fn model() -> ModelConfig {
    ModelConfig {
        qkv_bias: true,
        qk_norm: true,
        post_norms: true,
        hidden_act: Activation::GeluPytorchTanh,
        embedding_scale: Some(3.5),
        query_pre_attn_scalar: Some(9.0),
        sliding_window: Some(SlidingWindow {
            window: 3,
            layer_types: vec![LayerType::SlidingAttention, LayerType::FullAttention],
            rope_theta: 1e4,
        }),
        ..tiny::model()
    }
}

#[test]
fn everything_that_is_counted_is_written() {
    let model = model();
    let mut narrow = SubnetConfig::full(&model);
    for layer in &mut narrow.layers {
        layer.attention = Some(AttentionConfig::with_groups(&model, 1));
        layer.mlp = Some(MlpConfig::with_width(3));
    }
    let mut removed = SubnetConfig::full(&model);
    removed.layers[2].attention = None;
    removed.layers[3].mlp = None;
    for subnet in [SubnetConfig::full(&model), narrow, removed] {
        let folder = tempfile::tempdir().unwrap();
        let network = Network {
            model: &model,
            subnet: &subnet,
            weights: &tiny::weights(&model, &subnet),
            logit_rows: LogitRows::Last,
        };
        let written = write_network(folder.path(), &network).unwrap();
        assert_eq!(written.parameters, subnet.parameters(&model));
    }
}

#[test]
fn layers_turn_and_see_by_their_type() {
    let model = model();
    let subnet = SubnetConfig::full(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let attention = graph(&written).node.iter();
    let attention = attention.filter(|node| node.op_type == "GroupQueryAttention");
    let found: Vec<(&str, i64)> = attention
        .map(|node| {
            let attributes = &mut node.attribute.iter();
            let window = attributes.find(|a| a.name == "local_window_size").unwrap();
            (node.input[7].as_str(), window.i)
        })
        .collect();
    let (sliding, full) = (("cos_cache_local", 3), ("cos_cache", -1));
    assert_eq!(found, [sliding, full, sliding, full]);
    let counts = op_counts(graph(&written));
    assert_eq!(counts["FastGelu"], 4);
    // Query and key norms, norms behind both blocks, and the first norm of all.
    assert_eq!(counts["ReduceMean"], 4 * 2 + 4 * 2 + 1);
    // Without a layer that sees a window, its tables are left out.
    let mut subnet = SubnetConfig::full(&model);
    (subnet.layers[0].attention, subnet.layers[2].attention) = (None, None);
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let names = graph(&written)
        .initializer
        .iter()
        .map(|tensor| &tensor.name);
    assert!(names.filter(|name| name.contains("cache_local")).count() == 0);
}
