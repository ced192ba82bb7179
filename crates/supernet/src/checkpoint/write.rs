//! Writing a checkpoint as a Hugging Face folder.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use lathe_arch::{Activation, Family, ModelConfig, RopeScaling};
use ndarray::Array2;
use serde_json::{Value as Json, json};

use super::huggingface::tensor_name;
use super::weights::Role;
use super::{Checkpoint, LayerWeights, ModelWeights};
use crate::SupernetError;
use crate::file::write_with;
use crate::numbers::Numbers;

/// transformers' prefix of a language model's tensors.
const PREFIX: &str = "model.";
/// A folder without it is no model.
const CONFIG: &str = "config.json";

impl Checkpoint {
    /// Writes a folder that [`Checkpoint::load`] and transformers read, weights in f32. The
    /// configuration comes last: a folder that is not whole is no model.
    ///
    /// # Errors
    /// When the disk does not take the files, or `config.json` has no words for the model: norms
    /// behind blocks (Gemma 3), rotary frequencies with a factor each (GGUF).
    pub fn save(&self, folder: &Path) -> Result<(), SupernetError> {
        let config = self.config_json().map_err(|what| SupernetError::Format {
            path: folder.join(CONFIG),
            message: format!("{what} are not written"),
        })?;
        let io = |source| SupernetError::Io {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(io)?;
        // Weights of this model must not stand beside the configuration of another.
        match fs::remove_file(folder.join(CONFIG)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        let tensors = named(&self.weights);
        write_with(&folder.join("model.safetensors"), |path| {
            safetensors::serialize_to_file(tensors, None, path).map_err(std::io::Error::other)
        })?;
        let tokenizer = self.tokenizer.config(self.config.max_position_embeddings);
        let text = |name: &str, text: &str| {
            write_with(&folder.join(name), |path| fs::write(path, text.as_bytes()))
        };
        text("tokenizer.json", self.tokenizer.json())?;
        text("tokenizer_config.json", &format!("{tokenizer:#}\n"))?;
        text(CONFIG, &format!("{config:#}\n"))
    }

    fn config_json(&self) -> Result<Json, &'static str> {
        let model = &self.config;
        let (model_type, class) = match model.family {
            Family::Llama => ("llama", "LlamaForCausalLM"),
            Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Family::Gemma3 => return Err("norms behind blocks"),
        };
        Ok(json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_hidden_layers": model.num_hidden_layers,
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": model.num_key_value_heads,
            "head_dim": model.head_dim,
            "max_position_embeddings": model.max_position_embeddings,
            "rope_theta": model.rope_theta,
            "rope_scaling": rope_scaling(model)?,
            "rms_norm_eps": model.rms_norm_eps,
            "tie_word_embeddings": model.tie_word_embeddings,
            "hidden_act": match model.hidden_act {
                Activation::Silu => "silu",
                Activation::GeluPytorchTanh => "gelu_pytorch_tanh",
            },
            "bos_token_id": self.tokenizer.bos_token_id(),
            "eos_token_id": self.tokenizer.eos_token_id(),
            "torch_dtype": "float32",
        }))
    }
}

fn rope_scaling(model: &ModelConfig) -> Result<Json, &'static str> {
    match &model.rope_scaling {
        RopeScaling::None => Ok(Json::Null),
        RopeScaling::Linear { factor } => Ok(json!({"rope_type": "linear", "factor": factor})),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        })),
        RopeScaling::FrequencyFactors(_) => Err("rotary frequencies with a factor each"),
    }
}

/// The tensors with transformers' names.
fn named(weights: &ModelWeights) -> Vec<(String, Numbers<'_>)> {
    let name = |role| tensor_name(PREFIX, role, false);
    let mut tensors = vec![
        (name(Role::Embedding), matrix(&weights.embed_tokens)),
        (name(Role::FinalNorm), Numbers::f32(values(&weights.norm))),
    ];
    if let Some(head) = &weights.lm_head {
        tensors.push((name(Role::LmHead), matrix(head)));
    }
    for (at, layer) in weights.layers.iter().enumerate() {
        let roles = of_layer(layer, at).into_iter();
        tensors.extend(roles.map(|(role, numbers)| (name(role), numbers)));
    }
    tensors
}

fn of_layer(layer: &LayerWeights, at: usize) -> Vec<(Role, Numbers<'_>)> {
    let mut tensors = vec![
        (
            Role::InputNorm(at),
            Numbers::f32(values(&layer.input_layernorm)),
        ),
        (Role::Query(at), matrix(&layer.q_proj)),
        (Role::Key(at), matrix(&layer.k_proj)),
        (Role::Value(at), matrix(&layer.v_proj)),
        (Role::Output(at), matrix(&layer.o_proj)),
        (
            Role::PostAttentionNorm(at),
            Numbers::f32(values(&layer.post_attention_layernorm)),
        ),
        (Role::Gate(at), matrix(&layer.gate_proj)),
        (Role::Up(at), matrix(&layer.up_proj)),
        (Role::Down(at), matrix(&layer.down_proj)),
    ];
    if let Some(bias) = &layer.qkv_bias {
        tensors.extend([
            (Role::QueryBias(at), Numbers::f32(&bias.q)),
            (Role::KeyBias(at), Numbers::f32(&bias.k)),
            (Role::ValueBias(at), Numbers::f32(&bias.v)),
        ]);
    }
    if let Some(gains) = &layer.qk_norm {
        tensors.extend([
            (Role::QueryNorm(at), Numbers::f32(&gains.q)),
            (Role::KeyNorm(at), Numbers::f32(&gains.k)),
        ]);
    }
    tensors
}

fn matrix(matrix: &Array2<f32>) -> Numbers<'_> {
    Numbers::Matrix(Cow::Borrowed(matrix))
}

fn values(gains: &ndarray::Array1<f32>) -> &[f32] {
    gains.as_slice().expect("gains lie one after another")
}
