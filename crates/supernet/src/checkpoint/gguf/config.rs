//! A model's dimensions from GGUF's metadata, as llama.cpp reads it (llama-model.cpp).

use std::path::Path;

use lathe_arch::{Activation, Family, LayerType, ModelConfig, RopeScaling, SlidingWindow};

use super::{Fields, Header, Tensors, Value};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::error::At;

/// Layers of which a Gemma model has one that sees all tokens, where the file does not say.
const GEMMA3_PATTERN: usize = 6;
/// Base of the rotary frequencies of Gemma's sliding layers, where the file does not say.
const GEMMA3_SLIDING_BASE: f64 = 10_000.0;
/// Layers of the one Gemma 3 model (27B) whose scores are scaled by `hidden_size / heads`.
const GEMMA3_27B_LAYERS: usize = 62;
/// Longest list of layer types that is read.
const MAX_LAYERS: usize = 1 << 12;

/// The fields of one architecture.
struct OfArchitecture<'a> {
    at: At<'a>,
    fields: Fields<'a>,
    architecture: &'a str,
}

pub(super) fn model_config(
    path: &Path,
    header: &Header,
    tensors: &mut Tensors<'_>,
) -> Result<ModelConfig, CheckpointError> {
    let at = At(path);
    let fields = Fields::new(path, header);
    let architecture = fields.text("general.architecture")?;
    let family = match architecture {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3" => Family::Gemma3,
        other => {
            let reason =
                format!("`{other}` is not supported; supported: llama, qwen2, qwen3, gemma3");
            return Err(at.field("general.architecture", reason));
        }
    };
    let of_architecture = OfArchitecture {
        at,
        fields,
        architecture,
    };
    let mut config = of_architecture.dimensions(family, tensors)?;
    of_architecture.add_peculiarities(&mut config)?;
    config.validate().map_err(|source| at.model(source))?;
    if !config.qkv_bias && tensors.by_name.contains_key("blk.0.attn_q.bias") {
        let reason = format!("biases are not supported in architecture `{architecture}`");
        return Err(at.tensor("blk.0.attn_q.bias", reason));
    }
    if tensors.by_name.contains_key("rope_freqs.weight") {
        let factors = tensors.values("rope_freqs.weight", 1, config.head_dim / 2)?;
        config.rope_scaling = RopeScaling::FrequencyFactors(factors);
        config.validate().map_err(|source| at.model(source))?;
    }
    Ok(config)
}

impl OfArchitecture<'_> {
    fn dimensions(
        &self,
        family: Family,
        tensors: &Tensors<'_>,
    ) -> Result<ModelConfig, CheckpointError> {
        let hidden_size = self.size("embedding_length")?;
        let heads = self.size("attention.head_count")?;
        let default_head_dim = hidden_size.checked_div(heads).unwrap_or(0);
        let head_dim = self.size_or("attention.key_length", default_head_dim)?;
        let rotary = self.size_or("rope.dimension_count", head_dim)?;
        if rotary != head_dim {
            let reason =
                format!("{rotary} of {head_dim} channels; partial rotation is not supported");
            return Err(self.at.field(&self.key("rope.dimension_count"), reason));
        }
        Ok(ModelConfig {
            family,
            vocab_size: tensors.embedding_rows()?,
            hidden_size,
            intermediate_size: self.size("feed_forward_length")?,
            num_hidden_layers: self.size("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: self.size_or("attention.head_count_kv", heads)?,
            head_dim,
            max_position_embeddings: self.size("context_length")?,
            rope_theta: self.float_or("rope.freq_base", 10_000.0)?,
            rope_scaling: self.rope_scaling()?,
            rms_norm_eps: self.float("attention.layer_norm_rms_epsilon")?,
            tie_word_embeddings: !tensors.by_name.contains_key("output.weight"),
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            hidden_act: Activation::Silu,
            embedding_scale: None,
            query_pre_attn_scalar: None,
            sliding_window: None,
        })
    }

    /// What llama.cpp has in an architecture's code and not in the file.
    fn add_peculiarities(&self, config: &mut ModelConfig) -> Result<(), CheckpointError> {
        match config.family {
            Family::Llama => {}
            Family::Qwen2 => config.qkv_bias = true,
            Family::Qwen3 => config.qk_norm = true,
            Family::Gemma3 => {
                for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
                    if self.float_or(field, 0.0)? != 0.0 {
                        let reason = "it is not supported";
                        return Err(self.at.field(&self.key(field), reason));
                    }
                }
                config.qk_norm = true;
                config.post_norms = true;
                config.hidden_act = Activation::GeluPytorchTanh;
                config.embedding_scale = Some((config.hidden_size as f64).sqrt());
                if config.num_hidden_layers == GEMMA3_27B_LAYERS {
                    let per_head = config.hidden_size / config.num_attention_heads.max(1);
                    config.query_pre_attn_scalar = Some(per_head as f64);
                }
                config.sliding_window = Some(SlidingWindow::new(
                    self.size("attention.sliding_window")?,
                    self.layer_types()?,
                    self.float_or("rope.freq_base_swa", GEMMA3_SLIDING_BASE)?,
                ));
            }
        }
        Ok(())
    }

    /// `sliding_window_pattern`: one of so many layers sees all tokens, or a truth value a layer.
    fn layer_types(&self) -> Result<Vec<LayerType>, CheckpointError> {
        let field = "attention.sliding_window_pattern";
        let wrong = || {
            let reason = format!("expected 1 to {MAX_LAYERS}, or as many truth values");
            self.at.field(&self.key(field), reason)
        };
        if let Some(Value::Numbers(is_sliding)) = self.fields.get(&self.key(field)) {
            if !(1..=MAX_LAYERS).contains(&is_sliding.len()) {
                return Err(wrong());
            }
            let layer_type = |is_sliding: &f64| match *is_sliding != 0.0 {
                true => LayerType::SlidingAttention,
                false => LayerType::FullAttention,
            };
            return Ok(is_sliding.iter().map(layer_type).collect());
        }
        let pattern = self.size_or(field, GEMMA3_PATTERN)?;
        if !(1..=MAX_LAYERS).contains(&pattern) {
            return Err(wrong());
        }
        let mut types = vec![LayerType::SlidingAttention; pattern - 1];
        types.push(LayerType::FullAttention);
        Ok(types)
    }

    fn rope_scaling(&self) -> Result<RopeScaling, CheckpointError> {
        let field = self.key("rope.scaling.type");
        if self.fields.get(&field).is_none() {
            return Ok(RopeScaling::None);
        }
        match self.fields.text(&field)? {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: self.float("rope.scaling.factor")?,
            }),
            other => {
                let reason = format!("`{other}` is not supported; supported: none, linear");
                Err(self.at.field(&field, reason))
            }
        }
    }

    fn key(&self, field: &str) -> String {
        format!("{}.{field}", self.architecture)
    }

    fn size(&self, field: &str) -> Result<usize, CheckpointError> {
        self.fields.size(&self.key(field))
    }

    fn size_or(&self, field: &str, default: usize) -> Result<usize, CheckpointError> {
        self.fields.size_or(&self.key(field), default)
    }

    fn float(&self, field: &str) -> Result<f64, CheckpointError> {
        self.fields.float(&self.key(field))
    }

    fn float_or(&self, field: &str, default: f64) -> Result<f64, CheckpointError> {
        let key = self.key(field);
        match self.fields.get(&key) {
            Some(_) => self.fields.float(&key),
            None => Ok(default),
        }
    }
}
