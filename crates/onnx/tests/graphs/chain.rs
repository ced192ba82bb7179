use std::collections::BTreeSet;

use lathe_arch::{AttentionConfig, BlockShape, MlpConfig, ModelConfig};
use lathe_onnx::{Chain, OnnxError, chain_data_bytes, write_chain, write_random_data};

use crate::tiny::{self, external, graph, op_counts, signatures};

fn chain(model: &ModelConfig, block: BlockShape, copies: usize) -> Chain<'_> {
    Chain {
        model,
        block,
        copies,
        positions: 8,
    }
}

fn blocks(model: &ModelConfig) -> [BlockShape; 4] {
    [
        BlockShape::Attention(AttentionConfig::full(model)),
        BlockShape::Attention(AttentionConfig::with_groups(model, 1)),
        BlockShape::Mlp(MlpConfig::full(model)),
        BlockShape::Mlp(MlpConfig::with_width(7)),
    ]
}

#[test]
fn copies_have_memory_of_their_own_and_stay_inside_the_data_file() {
    let model = tiny::model();
    let folder = tempfile::tempdir().unwrap();
    for block in blocks(&model) {
        let chain = chain(&model, block, 3);
        let path = folder.path().join("chain.onnx");
        let bytes = write_chain(&path, &chain, "weights.data").unwrap();
        assert_eq!(bytes, chain_data_bytes(&chain).unwrap());
        let written = tiny::read(&path);
        let tensors = external(graph(&written));
        for pair in tensors.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{pair:?}");
        }
        let (_, offset, length) = tensors.last().unwrap();
        assert_eq!(offset + length, bytes);
        let names: BTreeSet<_> = tensors.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), tensors.len());
        let weights: u64 = tensors.iter().map(|(_, _, length)| length / 4).sum();
        let hidden = model.hidden_size as u64;
        let is_pruned = block == blocks(&model)[1] || block == blocks(&model)[3];
        let biases = if is_pruned { 2 } else { 0 };
        let copy = block.matrix_weights(&model) + hidden;
        assert_eq!(weights, 3 * copy + biases * hidden);
    }
}

#[test]
fn a_copy_more_adds_one_block_and_nothing_else() {
    let model = tiny::model();
    let folder = tempfile::tempdir().unwrap();
    for block in blocks(&model) {
        let counts = [1, 2, 3].map(|copies| {
            let path = folder.path().join(format!("{copies}.onnx"));
            write_chain(&path, &chain(&model, block, copies), "weights.data").unwrap();
            let written = tiny::read(&path);
            let counts = op_counts(graph(&written)).into_iter();
            counts.map(|(op, n)| (op.to_owned(), n)).collect::<Vec<_>>()
        });
        for ((one, two), three) in counts[0].iter().zip(&counts[1]).zip(&counts[2]) {
            assert_eq!(three.1 - two.1, two.1 - one.1, "{}", one.0);
        }
        let count = |op: &str| counts[2].iter().find(|(o, _)| o == op).map(|(_, n)| *n);
        assert_eq!(count("SkipSimplifiedLayerNormalization"), Some(3));
        assert_eq!(count("Identity"), None);
    }
}

#[test]
fn the_residual_stream_and_the_caches_go_in_and_out() {
    let model = tiny::model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.onnx");
    write_chain(&path, &chain(&model, blocks(&model)[1], 2), "weights.data").unwrap();
    let written = tiny::read(&path);
    let stream = "batch_size x sequence_length x 12";
    let past = "batch_size x 1 x past_sequence_length x 4";
    assert_eq!(
        signatures(&graph(&written).input),
        [
            format!("root {stream}"),
            format!("skip {stream}"),
            "attention_mask batch_size x total_sequence_length".to_owned(),
            format!("past_key_values.0.key {past}"),
            format!("past_key_values.0.value {past}"),
            format!("past_key_values.1.key {past}"),
            format!("past_key_values.1.value {past}"),
        ]
    );
    let outputs = signatures(&graph(&written).output);
    assert_eq!(outputs[0], format!("root_out {stream}"));
    assert_eq!(outputs[1], format!("skip_out {stream}"));
    assert!(outputs[5].starts_with("present.1.value"), "{outputs:?}");
}

#[test]
fn a_chain_without_blocks_is_refused() {
    let model = tiny::model();
    for (block, copies) in [
        (BlockShape::EmbeddingAndHead(Default::default()), 2),
        (blocks(&model)[0], 0),
    ] {
        let error = chain_data_bytes(&chain(&model, block, copies)).unwrap_err();
        assert!(matches!(error, OnnxError::EmptyChain { .. }), "{error}");
    }
}

#[test]
fn tables_that_no_file_can_hold_are_refused() {
    let model = tiny::model();
    let mut chain = chain(&model, blocks(&model)[0], 1);
    chain.positions = usize::MAX;
    let error = chain_data_bytes(&chain).unwrap_err();
    assert!(matches!(error, OnnxError::TooLarge { .. }), "{error}");
}

#[test]
fn random_data_repeats_by_seed_and_has_the_asked_size() {
    let folder = tempfile::tempdir().unwrap();
    let data = |name: &str, seed| {
        let path = folder.path().join(name);
        write_random_data(&path, 5000, seed).unwrap();
        std::fs::read(path).unwrap()
    };
    assert_eq!(data("a", 1).len(), 5000);
    assert_eq!(data("a", 1), data("b", 1));
    assert_ne!(data("a", 1), data("b", 2));
}
