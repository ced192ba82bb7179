//! What holds for each sub-network of two layers whose blocks are full, narrow or removed.

use std::collections::BTreeSet;

use lathe_arch::{AttentionConfig, LayerConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_onnx::proto::Graph;
use lathe_onnx::{LogitRows, Network, OnnxError, write_network_graph};

use crate::tiny;

fn model(tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig {
        num_hidden_layers: 2,
        tie_word_embeddings,
        ..tiny::model()
    }
}

fn every_subnet(model: &ModelConfig) -> Vec<SubnetConfig> {
    let attention = [
        Some(AttentionConfig::full(model)),
        Some(AttentionConfig::with_groups(model, 1)),
        None,
    ];
    let mlp = [
        Some(MlpConfig::full(model)),
        Some(MlpConfig::with_width(3)),
        None,
    ];
    let layers: Vec<LayerConfig> = attention
        .into_iter()
        .flat_map(|attention| mlp.map(|mlp| LayerConfig { attention, mlp }))
        .collect();
    let pairs = layers
        .iter()
        .flat_map(|first| layers.iter().map(move |second| [first, second]));
    pairs
        .map(|pair| SubnetConfig {
            layers: pair.map(Clone::clone).to_vec(),
            ..SubnetConfig::full(model)
        })
        .collect()
}

fn for_every_graph(check: impl Fn(&ModelConfig, &SubnetConfig, &Graph)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.onnx");
    for (is_tied, logit_rows) in [(true, LogitRows::Last), (false, LogitRows::All)] {
        let model = model(is_tied);
        for subnet in every_subnet(&model) {
            let weights = tiny::weights(&model, &subnet);
            let network = Network {
                model: &model,
                subnet: &subnet,
                weights: &weights,
                logit_rows,
            };
            write_network_graph(&path, &network, "weights.data").unwrap();
            check(&model, &subnet, tiny::graph(&tiny::read(&path)));
        }
    }
}

#[test]
fn every_value_is_made_once_and_before_it_is_read() {
    for_every_graph(|_, _, graph| {
        let inputs = graph.input.iter().map(|value| &value.name);
        let constants = graph.initializer.iter().map(|tensor| &tensor.name);
        let mut known = BTreeSet::new();
        for name in inputs.chain(constants) {
            assert!(known.insert(name), "{name}");
        }
        let mut nodes = BTreeSet::new();
        for node in &graph.node {
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                assert!(known.contains(input), "{} reads {input}", node.name);
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                assert!(known.insert(output), "{output}");
            }
            assert!(nodes.insert(&node.name), "{}", node.name);
        }
        for output in &graph.output {
            assert!(known.contains(&output.name), "{}", output.name);
        }
    });
}

/// Biases that meet in one norm are one tensor; all else is as [`SubnetConfig::parameters`]
/// counts it.
#[test]
fn parameters_are_those_of_the_subnet_but_for_biases_that_meet() {
    for_every_graph(|model, subnet, graph| {
        let (mut weights, mut stored_biases) = (0, 0);
        for (name, _, length) in tiny::external(graph) {
            match name.rsplit('.').next() {
                Some("bias") => stored_biases += 1,
                Some("weight") => weights += length / 4,
                _ => assert!(name == "cos_cache" || name == "sin_cache", "{name}"),
            }
        }
        let full = SubnetConfig::full(model);
        let blocks = subnet.layers.iter().zip(&full.layers);
        let biases: u64 = blocks
            .map(|(a, b)| u64::from(a.attention != b.attention) + u64::from(a.mlp != b.mlp))
            .sum();
        let hidden = model.hidden_size as u64;
        assert_eq!(weights + biases * hidden, subnet.parameters(model));
        assert_eq!(stored_biases > 0, biases > 0);
        assert!(stored_biases <= biases);
    });
}

#[test]
fn a_model_too_large_for_a_file_is_refused() {
    let model = ModelConfig {
        vocab_size: 1 << 24,
        hidden_size: 1 << 24,
        intermediate_size: 1 << 24,
        num_hidden_layers: 1 << 12,
        ..model(true)
    };
    let subnet = SubnetConfig::full(&model);
    let weights = tiny::weights(&model, &subnet);
    let network = Network {
        model: &model,
        subnet: &subnet,
        weights: &weights,
        logit_rows: LogitRows::Last,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.onnx");
    let error = write_network_graph(&path, &network, "weights.data").unwrap_err();
    assert!(matches!(error, OnnxError::TooLarge { .. }), "{error}");
}
