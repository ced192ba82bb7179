use serde::{Deserialize, Serialize};

use crate::ArchError;

/// Upper bound on any single dimension read from an untrusted file.
const MAX_DIMENSION: usize = 1 << 24;
/// Upper bound on the number of layers read from an untrusted file.
const MAX_LAYERS: usize = 1 << 12;

/// Architecture families, named as Hugging Face names their `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// RMSNorm, rotary embedding, grouped-query attention, SwiGLU; no biases (2302.13971).
    Llama,
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

    /// Rotary frequencies in radians per position, `[head_dim / 2]`.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        (0..self.head_dim / 2)
            .map(|i| {
                let exponent = 2.0 * i as f64 / self.head_dim as f64;
                self.scaled_frequency(i, self.rope_theta.powf(-exponent))
            })
            .collect()
    }

    fn scaled_frequency(&self, index: usize, frequency: f64) -> f64 {
        match &self.rope_scaling {
            RopeScaling::None => frequency,
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

fn ensure(
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
