//! Reading a pretrained model: GGUF files and Hugging Face folders of Llama, Qwen2, Qwen3 and
//! the text models of Gemma 3.
//!
//! Checkpoints are untrusted input: lengths are checked against the file before anything is
//! allocated, and whatever is wrong is an error that names the file and the field or tensor.

use std::path::{Path, PathBuf};

use lathe_arch::ModelConfig;

mod config_json;
mod error;
pub mod gguf;
mod huggingface;
mod sentencepiece;
mod tokenizer;
mod weights;
mod write;

pub use error::CheckpointError;
pub use tokenizer::{TokenizeError, Tokenizer};
pub use weights::{LayerWeights, ModelWeights, PostNorms, QkNorm, QkvBias};

/// A model as it came out of pretraining.
pub struct Checkpoint {
    /// File or folder it was read from.
    pub path: PathBuf,
    /// Its dimensions.
    pub config: ModelConfig,
    /// Its weights in f32.
    pub weights: ModelWeights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Checkpoint {
    /// Reads a `.gguf` file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// When the file is damaged, of an unknown architecture, or lacks something.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            return huggingface::load(path);
        }
        gguf::load(path)
    }
}

/// The dimensions of the model at `path`, a GGUF file or a Hugging Face folder, without its
/// weights.
///
/// # Errors
/// When the file is damaged, of an unknown architecture, or lacks something.
pub fn read_config(path: &Path) -> Result<ModelConfig, CheckpointError> {
    if path.is_dir() {
        return config_json::read(&path.join("config.json"));
    }
    gguf::read_config(path)
}
