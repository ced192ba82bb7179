use serde::{Deserialize, Serialize};

use crate::{ArchError, LayerType, SlidingWindow};

/// Upper bound on any single dimension read from an untrusted file.
const MAX_DIMENSION: usize = 1 << 24;
/// Upper bound on the number of layers read from an untrusted file.
const MAX_LAYERS: usize = 1 << 12;

/// Architecture families: what formats call a model. How it computes stands in [`ModelConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// RMSNorm, rotary embedding, grouped-query attention, SwiGLU; no biases (2302.13971).
    Llama,
    /// Llama with biases on queries, keys and values: Qwen2 and Qwen2.5 (2407.10671).
    Qwen2,
    /// Llama with an RMSNorm of every query and key head (2505.09388).
    Qwen3,
    /// Norms of heads and of block outputs, sliding windows, GeGLU, a scaled embedding
    /// (2503.19786).
    Gemma3,
}

/// The function between an MLP's two products, named as config.json's `hidden_act`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`: SwiGLU (2002.05202).
    #[default]
    Silu,
    /// GELU's approximation by a hyperbolic tangent (1606.08415): GeGLU.
    GeluPytorchTanh,
}

/// How the rotary frequencies depart from `rope_theta^(-2i/head_dim)`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// They do not.
    #[default]
    None,
    /// Llama 3.1's piecewise scaling (transformers, `modeling_rope_utils.py`).
    Llama3 {
        /// Factor by which low frequencies are divided.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` stay as they are.
        high_freq_factor: f64,
        /// Context length of the pretraining.
        original_max_position_embeddings: usize,
    },
    /// All are divided by one factor, so that positions lie closer together (2306.15595).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Each frequency is divided by its factor (GGUF's `rope_freqs.weight`), `[head_dim / 2]`.
    FrequencyFactors(Vec<f32>),
}

/// The dimensions of a decoder-only transformer, named as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Architecture family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of each MLP.
    pub intermediate_size: usize,
    /// Number of layers, each an attention block and an MLP block.
    pub num_hidden_layers: usize,
    /// Query heads of each attention block.
    pub num_attention_heads: usize,
    /// KV groups of each attention block; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest context in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    #[serde(default)]
    pub rope_scaling: RopeScaling,
    /// Epsilon inside every RMSNorm.
    pub rms_norm_eps: f64,
    /// True when the LM head shares the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// True when queries, keys and values have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// True when every query and key head passes an RMSNorm of its own before it is turned.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: bool,
    /// True when each block's output passes an RMSNorm before it is added to the residual stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub post_norms: bool,
    /// The MLP's activation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hidden_act: Activation,
    /// What the embedding's rows are multiplied by; nothing where absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedding_scale: Option<f64>,
    /// Attention scores are divided by the square root of this; of `head_dim` where absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub query_pre_attn_scalar: Option<f64>,
    /// The layers that see a window alone; none where absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sliding_window: Option<SlidingWindow>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ModelConfig {
    /// The dimensions of SmolLM2-135M, the default model.
    pub fn smollm2_135m() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rope_theta: 100_000.0,
            rope_scaling: RopeScaling::None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            hidden_act: Activation::Silu,
            embedding_scale: None,
            query_pre_attn_scalar: None,
            sliding_window: None,
        }
    }

    /// Checks that the dimensions make a model.
    ///
    /// # Errors
    /// [`ArchError::Model`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), ArchError> {
        let dimensions = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in dimensions {
            ensure(
                (1..=MAX_DIMENSION).contains(&value),
                field,
                value,
                "expected 1 to 16777216",
            )?;
        }
        ensure(
            (1..=MAX_LAYERS).contains(&self.num_hidden_layers),
            "num_hidden_layers",
            self.num_hidden_layers,
            "expected 1 to 4096",
        )?;
        ensure(
            self.num_attention_heads
                .is_multiple_of(self.num_key_value_heads),
            "num_key_value_heads",
            self.num_key_value_heads,
            "it must divide num_attention_heads",
        )?;
        ensure(
            self.head_dim.is_multiple_of(2),
            "head_dim",
            self.head_dim,
            "rotary embedding needs an even number",
        )?;
        ensure(
            self.num_attention_heads
                .checked_mul(self.head_dim)
                .is_some_and(|width| width <= MAX_DIMENSION),
            "head_dim",
            self.head_dim,
            "num_attention_heads x head_dim is above 16777216",
        )?;
        ensure(
            self.rope_theta.is_finite() && self.rope_theta > 0.0,
            "rope_theta",
            self.rope_theta,
            "expected a positive number",
        )?;
        ensure(
            self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0,
            "rms_norm_eps",
            self.rms_norm_eps,
            "expected a positive number",
        )?;
        for (field, value) in [
            ("embedding_scale", self.embedding_scale),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
        ] {
            let value = value.unwrap_or(1.0);
            ensure(
                value.is_finite() && value > 0.0,
                field,
                value,
                "expected a positive number",
            )?;
        }
        if let Some(sliding) = &self.sliding_window {
            sliding.validate()?;
        }
        self.validate_rope_scaling()
    }

    fn validate_rope_scaling(&self) -> Result<(), ArchError> {
        match &self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => ensure(
                *factor >= 1.0
                    && factor.is_finite()
                    && *low_freq_factor > 0.0
                    && *high_freq_factor > *low_freq_factor
                    && high_freq_factor.is_finite()
                    && *original_max_position_embeddings > 0,
                "rope_scaling",
                factor,
                "expected factor >= 1 and 0 < low_freq_factor < high_freq_factor",
            ),
            RopeScaling::Linear { factor } => ensure(
                factor.is_finite() && *factor >= 1.0,
                "rope_scaling",
                factor,
                "expected factor >= 1",
            ),
            RopeScaling::FrequencyFactors(factors) => {
                ensure(
                    factors.len() == self.head_dim / 2,
                    "rope_scaling",
                    factors.len(),
                    "expected head_dim / 2 factors",
                )?;
                match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                    Some(bad) => ensure(false, "rope_scaling", bad, "expected positive factors"),
                    None => Ok(()),
                }
            }
        }
    }

    /// Query heads that share one KV head.
    pub fn heads_per_group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// What attention scores are multiplied by.
    pub fn attention_scale(&self) -> f64 {
        let scalar = self.query_pre_attn_scalar;
        1.0 / scalar.unwrap_or(self.head_dim as f64).sqrt()
    }

    /// Which past tokens layer `layer` sees.
    pub fn layer_type(&self, layer: usize) -> LayerType {
        let sliding = self.sliding_window.as_ref();
        sliding.map_or(LayerType::FullAttention, |s| s.layer_type(layer))
    }

    /// Tokens that layer `layer` sees, the newest included; `None` where it sees all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.layer_type(layer) {
            LayerType::FullAttention => None,
            LayerType::SlidingAttention => Some(self.sliding_window.as_ref()?.window),
        }
    }

    /// Rotary frequencies in radians per position, `[head_dim / 2]`; of layers that see all tokens.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let plain = self.plain_frequencies(self.rope_theta).enumerate();
        plain.map(|(i, f)| self.scaled_frequency(i, f)).collect()
    }

    /// The same for layers that see a window; `None` where there are none.
    pub fn sliding_rope_frequencies(&self) -> Option<Vec<f64>> {
        let sliding = self.sliding_window.as_ref()?;
        Some(self.plain_frequencies(sliding.rope_theta).collect())
    }

    /// `theta^(-2i/head_dim)`
    fn plain_frequencies(&self, theta: f64) -> impl Iterator<Item = f64> {
        let head_dim = self.head_dim;
        (0..head_dim / 2).map(move |i| theta.powf(-(2.0 * i as f64 / head_dim as f64)))
    }

    fn scaled_frequency(&self, index: usize, frequency: f64) -> f64 {
        match &self.rope_scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::FrequencyFactors(factors) => frequency / f64::from(factors[index]),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = *original_max_position_embeddings as f64;
                let wavelength = std::f64::consts::TAU / frequency;
                let smooth = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

pub(crate) fn ensure(
    holds: bool,
    field: &'static str,
    value: impl ToString,
    reason: &'static str,
) -> Result<(), ArchError> {
    if holds {
        return Ok(());
    }
    Err(ArchError::Model {
        field,
        value: value.to_string(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_is_valid() {
        ModelConfig::smollm2_135m().validate().unwrap();
    }

    #[test]
    fn what_a_model_does_not_have_is_not_written() {
        let plain = serde_yaml::to_string(&ModelConfig::smollm2_135m()).unwrap();
        assert!(plain.ends_with("tie_word_embeddings: true\n"), "{plain}");
        let mut model = ModelConfig::smollm2_135m();
        model.qkv_bias = true;
        model.hidden_act = Activation::GeluPytorchTanh;
        model.embedding_scale = Some(24.0);
        model.sliding_window = Some(SlidingWindow {
            window: 512,
            layer_types: vec![LayerType::SlidingAttention, LayerType::FullAttention],
            rope_theta: 1e4,
        });
        let yaml = serde_yaml::to_string(&model).unwrap();
        assert_eq!(serde_yaml::from_str::<ModelConfig>(&yaml).unwrap(), model);
        assert_eq!((model.window(0), model.window(1)), (Some(512), None));
        let message = |change: fn(&mut ModelConfig)| {
            let mut model = model.clone();
            change(&mut model);
            model.validate().unwrap_err().to_string()
        };
        let found = message(|m| m.embedding_scale = Some(f64::NAN));
        assert!(found.contains("embedding_scale"), "{found}");
        let found = message(|m| m.query_pre_attn_scalar = Some(0.0));
        assert!(found.contains("query_pre_attn_scalar"), "{found}");
        let found = message(|m| m.sliding_window.as_mut().unwrap().window = 0);
        assert!(found.contains("sliding_window"), "{found}");
    }

    #[test]
    fn a_wrong_field_is_named() {
        let mut model = ModelConfig::smollm2_135m();
        model.num_key_value_heads = 2;
        let message = model.validate().unwrap_err().to_string();
        assert!(message.contains("num_key_value_heads"), "{message}");
        model = ModelConfig::smollm2_135m();
        model.rms_norm_eps = f64::NAN;
        let message = model.validate().unwrap_err().to_string();
        assert!(message.contains("rms_norm_eps"), "{message}");
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let mut model = ModelConfig::smollm2_135m();
        model.rope_theta = 500_000.0;
        let plain = model.rope_frequencies();
        model.rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        model.validate().unwrap();
        let scaled = model.rope_frequencies();
        assert_eq!(scaled[0], plain[0]);
        let last = plain.len() - 1;
        assert!((scaled[last] - plain[last] / 8.0).abs() < 1e-18);
    }
}
