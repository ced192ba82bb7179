//! `config.json` as transformers writes it: fields of its versions 4 and 5.

use std::path::Path;

use lathe_arch::{Activation, Family, LayerType, ModelConfig, RopeScaling, SlidingWindow};
use serde::Deserialize;
use serde_json::Value as Json;

use super::CheckpointError;
use super::error::At;
use super::huggingface::read_json;

/// Layers of which a Gemma model has one that sees all tokens, where the file does not say.
const GEMMA3_PATTERN: usize = 6;
/// Longest pattern that is read.
const MAX_PATTERN: usize = 1 << 12;

/// The fields that matter; transformers writes many more.
#[derive(Deserialize)]
struct RawConfig {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRopes>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    use_bidirectional_attention: Option<bool>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    query_pre_attn_scalar: Option<f64>,
    sliding_window: Option<usize>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
}

/// `rope_parameters`: one entry a layer type where layers differ.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawRopes {
    ByLayerType {
        full_attention: RawRope,
        sliding_attention: Option<RawRope>,
    },
    Alike(RawRope),
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

/// The dimensions that the `config.json` at `path` gives.
pub(super) fn read(path: &Path) -> Result<ModelConfig, CheckpointError> {
    let at = At(path);
    let mut json: Json = read_json(path)?;
    let model_type = json["model_type"].as_str().unwrap_or_default().to_owned();
    let family = match model_type.as_str() {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3" | "gemma3_text" => Family::Gemma3,
        _ => {
            let supported = "llama, qwen2, qwen3, gemma3_text, gemma3 (its text model)";
            return Err(unsupported(at, "model_type", &model_type, supported));
        }
    };
    if model_type == "gemma3" {
        json = json["text_config"].take();
        if json.is_null() {
            return Err(missing(at, "text_config"));
        }
    }
    let raw = serde_json::from_value(json);
    let mut raw: RawConfig = raw.map_err(|error| at.damaged(error.to_string()))?;
    if family == Family::Gemma3 {
        raw.fill_in_gemma3();
    }
    raw.refuse_unsupported(at)?;
    raw.model(at, family)
}

fn unsupported(at: At<'_>, field: &str, found: &str, supported: &str) -> CheckpointError {
    let reason = format!("`{found}` is not supported; supported: {supported}");
    at.field(field, reason)
}

impl RawConfig {
    /// What configuration_gemma3.py takes where a file is silent, as published files are.
    fn fill_in_gemma3(&mut self) {
        self.vocab_size.get_or_insert(262_208);
        self.num_attention_heads.get_or_insert(8);
        self.num_key_value_heads.get_or_insert(4);
        self.head_dim.get_or_insert(256);
        self.max_position_embeddings.get_or_insert(131_072);
        self.rms_norm_eps.get_or_insert(1e-6);
        self.query_pre_attn_scalar.get_or_insert(256.0);
        self.sliding_window.get_or_insert(4096);
        self.tie_word_embeddings.get_or_insert(true);
        if self.hidden_act.is_none() && self.hidden_activation.is_none() {
            self.hidden_activation = Some("gelu_pytorch_tanh".to_owned());
        }
    }

    fn refuse_unsupported(&self, at: At<'_>) -> Result<(), CheckpointError> {
        for (field, is_set) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
            ("use_sliding_window", self.use_sliding_window),
            (
                "use_bidirectional_attention",
                self.use_bidirectional_attention == Some(true),
            ),
        ] {
            if is_set {
                return Err(unsupported(at, field, "true", "false"));
            }
        }
        for (field, cap) in [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            if let Some(cap) = cap {
                return Err(unsupported(at, field, &cap.to_string(), "null"));
            }
        }
        Ok(())
    }

    fn model(&self, at: At<'_>, family: Family) -> Result<ModelConfig, CheckpointError> {
        let size = |field, value: Option<usize>| value.ok_or_else(|| missing(at, field));
        let hidden_size = size("hidden_size", self.hidden_size)?;
        let heads = size("num_attention_heads", self.num_attention_heads)?;
        let default_head_dim = hidden_size.checked_div(heads).unwrap_or(0);
        let mut config = ModelConfig {
            family,
            vocab_size: size("vocab_size", self.vocab_size)?,
            hidden_size,
            intermediate_size: size("intermediate_size", self.intermediate_size)?,
            num_hidden_layers: size("num_hidden_layers", self.num_hidden_layers)?,
            num_attention_heads: heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(default_head_dim),
            max_position_embeddings: size("max_position_embeddings", self.max_position_embeddings)?,
            rope_theta: self.rope_theta(family),
            rope_scaling: rope_scaling(at, self.full_rope())?,
            rms_norm_eps: self
                .rms_norm_eps
                .ok_or_else(|| missing(at, "rms_norm_eps"))?,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            hidden_act: self.activation(at)?,
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            embedding_scale: None,
            query_pre_attn_scalar: None,
            sliding_window: None,
        };
        // What transformers has in a family's code and not in its configuration.
        match family {
            Family::Llama => {}
            Family::Qwen2 => config.qkv_bias = true,
            Family::Qwen3 => config.qk_norm = true,
            Family::Gemma3 => {
                config.qk_norm = true;
                config.post_norms = true;
                config.embedding_scale = Some((hidden_size as f64).sqrt());
                config.query_pre_attn_scalar = self.query_pre_attn_scalar;
                config.sliding_window = self.sliding(at)?;
            }
        }
        config.validate().map_err(|source| at.model(source))?;
        self.check_layer_types(at, &config)?;
        Ok(config)
    }

    fn activation(&self, at: At<'_>) -> Result<Activation, CheckpointError> {
        let (field, found) = match (&self.hidden_activation, &self.hidden_act) {
            (Some(found), _) => ("hidden_activation", found.as_str()),
            (None, Some(found)) => ("hidden_act", found.as_str()),
            (None, None) => return Ok(Activation::Silu),
        };
        match found {
            "silu" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluPytorchTanh),
            other => Err(unsupported(at, field, other, "silu, gelu_pytorch_tanh")),
        }
    }

    /// The rotary parameters of layers that see all tokens.
    fn full_rope(&self) -> Option<&RawRope> {
        match &self.rope_parameters {
            Some(RawRopes::ByLayerType { full_attention, .. }) => Some(full_attention),
            Some(RawRopes::Alike(rope)) => Some(rope),
            None => self.rope_scaling.as_ref(),
        }
    }

    fn rope_theta(&self, family: Family) -> f64 {
        let default = match family {
            Family::Llama | Family::Qwen2 | Family::Qwen3 => 10_000.0,
            Family::Gemma3 => 1_000_000.0,
        };
        let of_rope = self.full_rope().and_then(|rope| rope.rope_theta);
        self.rope_theta.or(of_rope).unwrap_or(default)
    }

    fn sliding(&self, at: At<'_>) -> Result<Option<SlidingWindow>, CheckpointError> {
        let sliding_rope = match &self.rope_parameters {
            Some(RawRopes::ByLayerType {
                sliding_attention, ..
            }) => sliding_attention.as_ref(),
            Some(RawRopes::Alike(_)) | None => None,
        };
        let kind = sliding_rope.and_then(|rope| rope.rope_type.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            let field = "rope_parameters.sliding_attention.rope_type";
            return Err(unsupported(at, field, kind, "default"));
        }
        let theta = sliding_rope.and_then(|rope| rope.rope_theta);
        let window = self.sliding_window.unwrap_or(0);
        let theta = theta.or(self.rope_local_base_freq).unwrap_or(10_000.0);
        let layer_types = self.layer_types(at)?;
        Ok(Some(SlidingWindow::new(window, layer_types, theta)))
    }

    /// `layer_types`, or those of `sliding_window_pattern`.
    fn layer_types(&self, at: At<'_>) -> Result<Vec<LayerType>, CheckpointError> {
        if let Some(words) = &self.layer_types {
            let types = words.iter().map(|word| match word.as_str() {
                "full_attention" => Ok(LayerType::FullAttention),
                "sliding_attention" => Ok(LayerType::SlidingAttention),
                other => {
                    let supported = "full_attention, sliding_attention";
                    Err(unsupported(at, "layer_types", other, supported))
                }
            });
            return types.collect();
        }
        let pattern = self.sliding_window_pattern.unwrap_or(GEMMA3_PATTERN);
        if !(1..=MAX_PATTERN).contains(&pattern) {
            let reason = format!("{pattern}, expected 1 to {MAX_PATTERN}");
            return Err(at.field("sliding_window_pattern", reason));
        }
        let mut types = vec![LayerType::SlidingAttention; pattern - 1];
        types.push(LayerType::FullAttention);
        Ok(types)
    }

    /// `layer_types` has to say what the model does, one word a layer.
    fn check_layer_types(&self, at: At<'_>, config: &ModelConfig) -> Result<(), CheckpointError> {
        let Some(words) = &self.layer_types else {
            return Ok(());
        };
        if words.len() != config.num_hidden_layers {
            let (found, layers) = (words.len(), config.num_hidden_layers);
            let reason = format!("{found} entries, the model has {layers} layers");
            return Err(at.field("layer_types", reason));
        }
        let all_full = words.iter().find(|word| *word != "full_attention");
        match all_full.filter(|_| config.sliding_window.is_none()) {
            Some(word) => Err(unsupported(at, "layer_types", word, "full_attention")),
            None => Ok(()),
        }
    }
}

fn missing(at: At<'_>, field: &str) -> CheckpointError {
    at.field(field, "it is missing")
}

fn rope_scaling(at: At<'_>, rope: Option<&RawRope>) -> Result<RopeScaling, CheckpointError> {
    let kind = rope.and_then(|rope| rope.rope_type.as_deref());
    let (Some(rope), Some(kind)) = (rope, kind) else {
        return Ok(RopeScaling::None);
    };
    let number = |field: &'static str, value: Option<f64>| value.ok_or_else(|| missing(at, field));
    let factor = || number("rope_scaling.factor", rope.factor);
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: number("rope_scaling.low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: number("rope_scaling.high_freq_factor", rope.high_freq_factor)?,
            original_max_position_embeddings: rope
                .original_max_position_embeddings
                .ok_or_else(|| missing(at, "rope_scaling.original_max_position_embeddings"))?,
        }),
        other => {
            let field = "rope_scaling.rope_type";
            Err(unsupported(at, field, other, "default, linear, llama3"))
        }
    }
}
