//! Checkpoints and calibrations.

use std::fs;
use std::path::{Path, PathBuf};

use lathe_supernet::Calibration;
use lathe_supernet::checkpoint::{Checkpoint, read_config};

use super::{file, written};

/// A text with digits, spaces, accents and a special token.
const TEXT: &str = "The 12 quick foxes, naïve \u{1f98a}\n\n  <|endoftext|>";

/// A GGUF file.
pub fn gguf(input: &[u8]) {
    let path = written("model.gguf", input);
    if let Ok(config) = read_config(&path) {
        config.validate().expect("what was read is a model");
    }
    if let Ok(checkpoint) = Checkpoint::load(&path) {
        use_it(&checkpoint);
    }
}

/// `model.safetensors` of a folder; a calibration is such a file too.
pub fn safetensors(input: &[u8]) {
    let folder = folder("weights", "model.safetensors");
    let path = folder.join("model.safetensors");
    fs::write(&path, input).expect("a file can be written");
    if let Ok(checkpoint) = Checkpoint::load(&folder) {
        use_it(&checkpoint);
    }
    if let Ok(Some(calibration)) = Calibration::load(&path, "seed") {
        for layer in &calibration.layers {
            for channels in [&layer.attention, &layer.mlp] {
                let (rows, columns) = channels.second_moment.dim();
                if let Ok(matrix) = channels.second_moment.load() {
                    assert_eq!(matrix.dim(), (rows, columns));
                }
                for following in &channels.following {
                    let _maybe_wrong = following.load().map(|matrix| matrix.dim());
                }
            }
        }
    }
}

/// `config.json` of a folder.
pub fn config(input: &[u8]) {
    let folder = folder("config", "config.json");
    fs::write(folder.join("config.json"), input).expect("a file can be written");
    if let Ok(config) = read_config(&folder) {
        config.validate().expect("what was read is a model");
        let layers = config.num_hidden_layers;
        let _types: Vec<_> = [0, layers / 2, layers - 1]
            .map(|layer| config.layer_type(layer))
            .into();
        let _scale = config.attention_scale();
    }
    if let Ok(checkpoint) = Checkpoint::load(&folder) {
        use_it(&checkpoint);
    }
}

/// `tokenizer.json` of a folder.
pub fn tokenizer(input: &[u8]) {
    let folder = folder("tokenizer", "tokenizer.json");
    fs::write(folder.join("tokenizer.json"), input).expect("a file can be written");
    if let Ok(checkpoint) = Checkpoint::load(&folder) {
        use_it(&checkpoint);
    }
}

/// What is done with every checkpoint first.
fn use_it(checkpoint: &Checkpoint) {
    let config = &checkpoint.config;
    config.validate().expect("what was read is a model");
    assert_eq!(checkpoint.weights.layers.len(), config.num_hidden_layers);
    let shape = checkpoint.weights.embed_tokens.dim();
    assert_eq!(shape, (config.vocab_size, config.hidden_size));
    if let Ok(ids) = checkpoint.tokenizer.encode(TEXT) {
        assert!(ids.iter().all(|id| (*id as usize) < config.vocab_size));
        let _text = checkpoint.tokenizer.decode(&ids);
    }
    let _config = checkpoint.tokenizer.config(config.max_position_embeddings);
}

/// A folder with the smallest model but for one file.
fn folder(name: &str, without: &str) -> PathBuf {
    let folder = file(name);
    if folder.is_dir() {
        return folder;
    }
    fs::create_dir(&folder).expect("a folder can be made");
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (kind, name) in [
        ("config", "config.json"),
        ("safetensors", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
    ] {
        if name != without {
            let seed = seeds.join(kind).join("llama");
            fs::copy(&seed, folder.join(name)).expect("a seed can be copied");
        }
    }
    folder
}
