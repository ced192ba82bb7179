//! A tiny model, an uneven sub-network of it, and the reading of written graphs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_onnx::proto::{DimensionValue, Graph, Model, Tensor, ValueInfo};
use lathe_onnx::{LogitRows, MODEL_FILE, Network, RandomWeights, WeightSource, write_network};
use prost::Message;

pub fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 19,
        hidden_size: 12,
        intermediate_size: 10,
        num_hidden_layers: 4,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 4,
        max_position_embeddings: 8,
        tie_word_embeddings: false,
        ..ModelConfig::smollm2_135m()
    }
}

/// Layer 0 without attention, layer 1 narrow, layer 2 empty, layer 3 without MLP.
pub fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model).named("tiny");
    subnet.layers[0].attention = None;
    subnet.layers[1].attention = Some(AttentionConfig {
        heads: 2,
        kv_heads: 2,
        ..AttentionConfig::full(model)
    });
    subnet.layers[1].mlp = Some(MlpConfig::with_width(7));
    subnet.layers[2].attention = None;
    subnet.layers[2].mlp = None;
    subnet.layers[3].mlp = None;
    subnet
}

pub fn weights<'a>(model: &'a ModelConfig, subnet: &'a SubnetConfig) -> RandomWeights<'a> {
    RandomWeights {
        model,
        subnet,
        seed: 5,
    }
}

/// Writes the sub-network and reads its graph.
pub fn written(
    folder: &Path,
    model: &ModelConfig,
    subnet: &SubnetConfig,
    weights: &dyn WeightSource,
    logit_rows: LogitRows,
) -> Model {
    let network = Network {
        model,
        subnet,
        weights,
        logit_rows,
    };
    write_network(folder, &network).unwrap();
    read(&folder.join(MODEL_FILE))
}

pub fn read(path: &Path) -> Model {
    Model::decode(fs::read(path).unwrap().as_slice()).unwrap()
}

pub fn graph(model: &Model) -> &Graph {
    model.graph.as_ref().unwrap()
}

/// Names and shapes as text, such as `logits batch_size x 1 x 19`.
pub fn signatures(values: &[ValueInfo]) -> Vec<String> {
    values
        .iter()
        .map(|value| format!("{} {}", value.name, shape(value)))
        .collect()
}

fn shape(value: &ValueInfo) -> String {
    let tensor = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
    let dims = &tensor.shape.as_ref().unwrap().dim;
    let dims: Vec<String> = dims
        .iter()
        .map(|dim| match dim.value.as_ref().unwrap() {
            DimensionValue::Fixed(size) => size.to_string(),
            DimensionValue::Symbol(symbol) => symbol.clone(),
        })
        .collect();
    dims.join(" x ")
}

/// How often each operator occurs.
pub fn op_counts(graph: &Graph) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.node {
        *counts.entry(node.op_type.as_str()).or_default() += 1;
    }
    counts
}

/// Name, first byte and bytes of every tensor in the data file, by position.
pub fn external(graph: &Graph) -> Vec<(String, u64, u64)> {
    let field = |tensor: &Tensor, key: &str| -> u64 {
        let entries = tensor.external_data.iter();
        let entry = entries.clone().find(|entry| entry.key == key).unwrap();
        entry.value.parse().unwrap()
    };
    let mut tensors: Vec<_> = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_location == 1)
        .map(|tensor| {
            let (offset, length) = (field(tensor, "offset"), field(tensor, "length"));
            assert_eq!(length, 4 * tensor.dims.iter().product::<i64>() as u64);
            (tensor.name.clone(), offset, length)
        })
        .collect();
    tensors.sort_by_key(|(_, offset, _)| *offset);
    tensors
}

/// A tensor's values in the data file.
pub fn values(graph: &Graph, data: &[u8], name: &str) -> Vec<f32> {
    let tensors = external(graph);
    let (_, offset, length) = tensors.iter().find(|(n, ..)| n == name).unwrap();
    data[*offset as usize..(*offset + *length) as usize]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}
