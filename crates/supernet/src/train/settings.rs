use serde::{Deserialize, Serialize};

use super::adapters::LoraSettings;
use crate::SupernetError;

/// How networks are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Steps in all; `None` until that is known ([`Trainer::set_steps`](super::Trainer::set_steps)).
    pub steps: Option<usize>,
    /// Steps over which the learning rate rises linearly, at most half of all.
    pub warmup_steps: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// AdamW's decay of matrices (1711.05101), times the learning rate a step.
    pub weight_decay: f64,
    /// Largest norm of the gradient of all weights; a larger one is scaled down to it.
    pub clip: f64,
    /// Windows of text a step.
    pub windows_per_step: usize,
    /// Share of the divergence from the full model in the loss; the rest is the next token's.
    pub distill_share: f32,
    /// What logits are divided by in the divergence, which is multiplied by its square (1503.02531).
    pub temperature: f32,
    /// Seed of the order of the text and of adapters.
    pub seed: u64,
    /// Adapters instead of all weights.
    pub lora: Option<LoraSettings>,
    /// Whether gains and biases are trained.
    pub vectors: bool,
    /// How the networks of a step are drawn, in words, where a super-network is trained.
    pub sampling: Option<String>,
    /// Whether each network of a step counts by the logarithm of its loss, so that none drowns the
    /// others (AmoebaLLM, 2411.10606, balances them likewise). Of one network alone it has no effect.
    pub balance: bool,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            steps: None,
            warmup_steps: 10,
            learning_rate: 3e-4,
            weight_decay: 0.0,
            clip: 1.0,
            windows_per_step: 2,
            distill_share: 1.0,
            temperature: 1.0,
            seed: 1,
            lora: None,
            vectors: true,
            sampling: None,
            balance: true,
        }
    }
}

impl TrainSettings {
    /// Whether every number is one that can be trained with.
    pub(crate) fn check(&self) -> Result<(), SupernetError> {
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        let wrong = |field, value: String| Err(SupernetError::Setting { field, value });
        if !is_positive(self.learning_rate) {
            return wrong("learning_rate", self.learning_rate.to_string());
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return wrong("weight_decay", self.weight_decay.to_string());
        }
        if !is_positive(self.clip) {
            return wrong("clip", self.clip.to_string());
        }
        if self.windows_per_step == 0 {
            return wrong("windows_per_step", self.windows_per_step.to_string());
        }
        if !(0.0..=1.0).contains(&self.distill_share) {
            return wrong("distill_share", self.distill_share.to_string());
        }
        if !is_positive(f64::from(self.temperature)) {
            return wrong("temperature", self.temperature.to_string());
        }
        match &self.lora {
            Some(lora) if lora.rank == 0 => wrong("rank", lora.rank.to_string()),
            Some(lora) if !is_positive(lora.alpha) => wrong("alpha", lora.alpha.to_string()),
            Some(_) | None => Ok(()),
        }
    }
}
