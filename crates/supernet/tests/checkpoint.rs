//! Checkpoints of the same tiny model in three forms, against reference values made with
//! transformers and gguf (tests/fixtures/make.py), and damaged in many ways.

use std::fs;
use std::path::{Path, PathBuf};

use lathe_supernet::checkpoint::{Checkpoint, gguf::TensorType};
use lathe_supernet::{Supernet, greedy, logits};
use proptest::prelude::*;
use serde::Deserialize;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct TinyLogits {
    prompts: Vec<TinyPrompt>,
}

#[derive(Deserialize)]
struct TinyPrompt {
    text: String,
    token_ids: Vec<u32>,
    greedy: Vec<u32>,
    last_logits: Vec<f32>,
}

#[test]
fn all_forms_of_a_model_are_equal() {
    let folder = Checkpoint::load(&fixture("tiny-llama")).unwrap();
    let sharded = Checkpoint::load(&fixture("tiny-llama-sharded")).unwrap();
    let gguf = Checkpoint::load(&fixture("tiny-llama.gguf")).unwrap();
    for other in [&sharded, &gguf] {
        assert_eq!(folder.weights, other.weights);
        assert_eq!(
            folder.tokenizer.eos_token_id(),
            other.tokenizer.eos_token_id()
        );
        for text in [
            "the quick brown fox",
            "a model 42, again\n",
            "<|im_start|>jugs é",
        ] {
            assert_eq!(
                folder.tokenizer.encode(text).unwrap(),
                other.tokenizer.encode(text).unwrap()
            );
        }
    }
    assert_eq!(folder.config, sharded.config);
    // Single-precision metadata in GGUF rounds the epsilon.
    assert!((folder.config.rms_norm_eps - gguf.config.rms_norm_eps).abs() < 1e-12);
    let counted = lathe_arch::SubnetConfig::full(&folder.config).parameters(&folder.config);
    assert_eq!(folder.weights.parameters(), counted);
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    let checkpoint = Checkpoint::load(&fixture("tiny-llama")).unwrap();
    let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    for prompt in read::<TinyLogits>("tiny_logits.json").prompts {
        assert_eq!(
            checkpoint.tokenizer.encode(&prompt.text).unwrap(),
            prompt.token_ids
        );
        let all = logits(&supernet.full(), &prompt.token_ids).unwrap();
        let last = &all[all.len() - prompt.last_logits.len()..];
        for (got, want) in last.iter().zip(&prompt.last_logits) {
            assert!((got - want).abs() < 2e-4, "{got} {want}");
        }
        let count = prompt.greedy.len();
        assert_eq!(
            greedy(&supernet.full(), &prompt.token_ids, count).unwrap(),
            prompt.greedy
        );
    }
}

#[test]
fn every_block_format_dequantizes_as_gguf_does() {
    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        id: u32,
        bytes: String,
        values: Vec<f32>,
    }
    let cases = read::<Cases>("dequantize.json").cases;
    assert_eq!(cases.len(), 8);
    for case in cases {
        let kind = TensorType::from_id(case.id).unwrap();
        let got = kind.dequantize(&base64(&case.bytes));
        assert_eq!(got.len(), case.values.len(), "{kind:?}");
        for (got, want) in got.iter().zip(&case.values) {
            // Random bits may make NaN in the half-precision types.
            assert!(
                got == want
                    || (got.is_nan() && want.is_nan())
                    || (got - want).abs() <= 1e-5 * want.abs(),
                "{kind:?}"
            );
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = ALPHABET.iter().position(|known| *known == letter).unwrap() as u32;
        bits = bits << 6 | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A copy of the tiny folder with one file changed.
fn damaged(file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        if entry.file_name() == file {
            bytes = change(bytes);
        }
        fs::write(folder.path().join(entry.file_name()), bytes).unwrap();
    }
    folder
}

fn failure(path: &Path) -> String {
    Checkpoint::load(path).err().unwrap().to_string()
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn wrong_configurations_are_named_by_file_and_field() {
    for (from, to, word) in [
        (
            "\"model_type\": \"llama\"",
            "\"model_type\": \"mamba\"",
            "mamba",
        ),
        (
            "\"hidden_act\": \"silu\"",
            "\"hidden_act\": \"gelu\"",
            "hidden_act",
        ),
        (
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            "num_key_value_heads",
        ),
        (
            "\"hidden_size\": 64",
            "\"hidden_size\": 99999999999",
            "hidden_size",
        ),
        ("\"hidden_size\": 64", "\"hidden_size\": 65", "shape"),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 4",
            "model.layers.3",
        ),
        (
            "\"vocab_size\": 320",
            "\"vocab_size\": \"many\"",
            "config.json",
        ),
        (
            "\"attention_bias\": false",
            "\"attention_bias\": true",
            "attention_bias",
        ),
    ] {
        let folder = damaged("config.json", |bytes| replaced(&bytes, from, to));
        let message = failure(folder.path());
        assert!(message.contains(word), "{to}: {message}");
    }
}

#[test]
fn damaged_safetensors_are_refused_by_name() {
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let changes: [(Change, &str); 5] = [
        (
            |bytes| bytes[..bytes.len() / 2].to_vec(),
            "model.safetensors",
        ),
        (|bytes| bytes[..4].to_vec(), "model.safetensors"),
        (
            |bytes| [&[255u8; 8][..], &bytes[8..]].concat(),
            "model.safetensors",
        ),
        (
            |bytes| replaced(&bytes, "model.norm.weight", "model.nurm.weight"),
            "model.norm.weight",
        ),
        (
            |mut bytes| {
                let end = bytes.len();
                bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                bytes
            },
            "NaN",
        ),
    ];
    for (change, word) in changes {
        let message = failure(damaged("model.safetensors", change).path());
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn shards_outside_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("tiny-llama-sharded"))
        .unwrap()
        .flatten()
    {
        let bytes = fs::read(entry.path()).unwrap();
        fs::write(folder.path().join(entry.file_name()), bytes).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read(&index).unwrap();
    fs::write(&index, replaced(&text, "model-00001-of", "../odel-0001-of")).unwrap();
    let message = failure(folder.path());
    assert!(message.contains("not a file of this folder"), "{message}");
    fs::remove_file(&index).unwrap();
    assert!(failure(folder.path()).contains("index.json"));
}

fn gguf_with(change: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, change(fs::read(fixture("tiny-llama.gguf")).unwrap())).unwrap();
    let message = failure(&path);
    assert!(message.contains("model.gguf"), "{message}");
    message
}

#[test]
fn damaged_gguf_is_refused_by_name() {
    assert!(
        gguf_with(|_| b"GGML".to_vec()).contains("magic")
            || gguf_with(|_| b"GGML".to_vec()).contains("GGUF")
    );
    let message = gguf_with(|bytes| bytes[..bytes.len() - 100].to_vec());
    assert!(message.contains("cut short"), "{message}");
    let message = gguf_with(|bytes| replaced(&bytes, "blk.1.ffn_up", "blk.1.ffn_xp"));
    assert!(
        message.contains("blk.1.ffn_up.weight") && message.contains("missing"),
        "{message}"
    );
    let message = gguf_with(|bytes| replaced(&bytes, "smollm", "smallm"));
    assert!(message.contains("tokenizer.ggml.pre"), "{message}");
    let message = gguf_with(|bytes| {
        replaced(
            &bytes,
            "\u{5}\0\0\0\0\0\0\0llama",
            "\u{5}\0\0\0\0\0\0\0mamba",
        )
    });
    assert!(
        message.contains("general.architecture") && message.contains("mamba"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_damage_to_a_gguf_panics(at in 0usize..14_000, byte: u8, keep in 0usize..460_000) {
        let mut bytes = fs::read(fixture("tiny-llama.gguf")).unwrap();
        bytes[at] = byte;
        if keep % 2 == 0 {
            bytes.truncate(keep);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, bytes).unwrap();
        let _outcome = Checkpoint::load(&path);
    }
}
