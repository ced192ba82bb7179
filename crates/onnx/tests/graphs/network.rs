use lathe_arch::{ModelConfig, Precision, SubnetConfig};
use lathe_onnx::{BlockKind, DATA_FILE, LogitRows, TensorRole, WeightSource};

use crate::tiny::{self, graph, op_counts, signatures, values};

#[test]
fn inputs_and_outputs_have_the_names_that_genai_expects() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let last = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    assert_eq!(
        signatures(&graph(&last).input),
        [
            "input_ids batch_size x sequence_length",
            "attention_mask batch_size x total_sequence_length",
            "past_key_values.1.key batch_size x 2 x past_sequence_length x 4",
            "past_key_values.1.value batch_size x 2 x past_sequence_length x 4",
            "past_key_values.3.key batch_size x 3 x past_sequence_length x 4",
            "past_key_values.3.value batch_size x 3 x past_sequence_length x 4",
        ]
    );
    assert_eq!(
        signatures(&graph(&last).output),
        [
            "logits batch_size x 1 x 19",
            "present.1.key batch_size x 2 x total_sequence_length x 4",
            "present.1.value batch_size x 2 x total_sequence_length x 4",
            "present.3.key batch_size x 3 x total_sequence_length x 4",
            "present.3.value batch_size x 3 x total_sequence_length x 4",
        ]
    );
    let all = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::All);
    assert_eq!(
        signatures(&graph(&all).output)[0],
        "logits batch_size x sequence_length x 19"
    );
}

#[test]
fn a_removed_block_leaves_no_operators() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let counts = op_counts(graph(&written));
    assert_eq!(counts["GroupQueryAttention"], 2);
    assert_eq!(counts["Sigmoid"], 2);
    // Two attention blocks with two products each, two MLPs with three, the head.
    assert_eq!(counts["MatMul"], 2 * 2 + 2 * 3 + 1);
    // The first norm has nothing to add; the other three blocks' and the final one have.
    assert_eq!(counts["SkipSimplifiedLayerNormalization"], 4);
}

#[test]
fn a_network_without_blocks_is_embedding_norm_and_head() {
    let model = tiny::model();
    let subnet = SubnetConfig::uniform(&model, None, None);
    let folder = tempfile::tempdir().unwrap();
    let weights = WithoutBiases(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::All);
    let ops: Vec<_> = graph(&written).node.iter().map(|n| &n.op_type).collect();
    let norm = ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"];
    let expected = [&["Gather"], &norm[..], &["MatMul"]].concat();
    assert_eq!(ops, expected);
    assert_eq!(signatures(&graph(&written).input).len(), 2);
}

#[test]
fn biases_since_the_last_norm_are_added_up() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let data = std::fs::read(folder.path().join(DATA_FILE)).unwrap();
    let stored = |name: &str| values(graph(&written), &data, &format!("model.layers.{name}.bias"));
    let sum = |blocks: &[(usize, BlockKind)]| {
        let biases = blocks
            .iter()
            .map(|(layer, block)| weights.output_bias(*layer, *block).unwrap());
        biases.reduce(|sum, new| sum.iter().zip(&new).map(|(a, b)| a + b).collect())
    };
    let (attention, mlp) = (BlockKind::Attention, BlockKind::Mlp);
    // Before the first block that runs.
    assert_eq!(
        Some(stored("0.post_attention_layernorm")),
        sum(&[(0, attention)])
    );
    assert_eq!(
        Some(stored("1.post_attention_layernorm")),
        sum(&[(1, attention)])
    );
    // Over an empty layer.
    assert_eq!(
        Some(stored("3.input_layernorm")),
        sum(&[(1, mlp), (2, attention), (2, mlp)])
    );
    // The last block.
    assert_eq!(Some(stored("4.final_norm_layernorm")), sum(&[(3, mlp)]));
}

#[test]
fn a_tied_matrix_is_stored_once() {
    let mut model = tiny::model();
    model.tie_word_embeddings = true;
    let subnet = SubnetConfig::full(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    for (rows, op) in [(LogitRows::Last, "Gemm"), (LogitRows::All, "Transpose")] {
        let written = tiny::written(folder.path(), &model, &subnet, &weights, rows);
        let matrices = graph(&written).initializer.iter();
        let vocab = matrices.filter(|t| t.dims.contains(&(model.vocab_size as i64)));
        assert_eq!(vocab.count(), 1);
        let reads = graph(&written).node.iter().filter(|node| {
            let name = "model.embed_tokens.weight";
            node.input.iter().any(|input| input == name)
        });
        let readers: Vec<_> = reads.map(|node| node.op_type.as_str()).collect();
        assert_eq!(readers, ["Gather", op]);
    }
}

#[test]
fn a_graph_says_what_it_is() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    assert_eq!(written.ir_version, 10);
    let opsets: Vec<_> = written
        .opset_import
        .iter()
        .map(|set| (set.domain.as_str(), set.version))
        .collect();
    assert_eq!(opsets, [("", 21), ("com.microsoft", 1)]);
    let property = |key: &str| {
        let mut entries = written.metadata_props.iter();
        &entries.find(|entry| entry.key == key).unwrap().value
    };
    assert_eq!(property("lathe.model"), "tiny");
    let read: SubnetConfig = serde_json::from_str(property("lathe.subnet")).unwrap();
    assert_eq!(read, subnet);
}

struct WithoutBiases<'a>(&'a ModelConfig, &'a SubnetConfig);

impl WeightSource for WithoutBiases<'_> {
    fn tensor(&self, role: TensorRole) -> Vec<f32> {
        tiny::weights(self.0, self.1).tensor(role)
    }

    fn output_bias(&self, _: usize, _: BlockKind) -> Option<Vec<f32>> {
        None
    }
}

/// Gate and up share their input's integers. The head, one row of which is taken, is in blocks.
#[test]
fn products_in_w8a8_share_the_integers_of_their_input() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model).with_precision(Precision::W8A8);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let counts = op_counts(graph(&written));
    // Two attention blocks with two products each, two MLPs with three.
    assert_eq!(counts["MatMulIntegerToFloat"], 2 * 2 + 2 * 3);
    assert_eq!(counts["QuantizeLinear"], 2 * 2 + 2 * 2);
    assert_eq!(counts["MatMulNBits"], 1);
    assert!(!counts.contains_key("MatMul"));
    let mut names: Vec<&str> = graph(&written)
        .initializer
        .iter()
        .map(|i| &*i.name)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
