//! Quality: perplexity, and KL divergence from the teacher.

use lathe_arch::{Precision, SubnetConfig};
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::engine::head;
use crate::engine::rope::RopeTable;
use crate::supernet::Supernet;
use crate::text::{Batch, TokenWindows};

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 2048;

/// How well a sub-network predicts a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Tokens scored.
    pub tokens: usize,
    /// Mean negative log-likelihood per token, in nats.
    pub negative_log_likelihood: f64,
    /// Standard error of that mean over tokens.
    pub standard_error: f64,
    /// `KL(teacher || sub-network)` per token in nats, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_divergence: Option<f64>,
}

impl Quality {
    fn of(losses: &[f32], kl_divergence: Option<f64>) -> Self {
        let tokens = losses.len();
        let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / tokens as f64;
        let squares = losses.iter().map(|l| (f64::from(*l) - mean).powi(2));
        let variance = squares.sum::<f64>() / (tokens.max(2) - 1) as f64;
        Self {
            tokens,
            negative_log_likelihood: mean,
            standard_error: (variance / tokens as f64).sqrt(),
            kl_divergence,
        }
    }

    /// `exp` of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        self.negative_log_likelihood.exp()
    }
}

/// Scores sub-networks of one super-network on one text.
///
/// The full model's residual stream is kept before every layer, so a sub-network is run only
/// from its first pruned layer on.
pub struct Evaluator<'a> {
    supernet: &'a Supernet,
    rope: RopeTable,
    seq_len: usize,
    batches: Vec<TeacherBatch>,
}

/// One batch with what the full model made of it.
struct TeacherBatch {
    text: Batch,
    /// The residual stream before each layer, `[layers][tokens, hidden]`.
    before_layer: Vec<Vec<f32>>,
    /// After the last layer and the final norm, `[tokens, hidden]`.
    normed: Vec<f32>,
}

/// Perplexity of one sub-network, without anything kept for the next.
///
/// # Errors
/// When a token lies outside the vocabulary or a window is longer than the context.
pub fn perplexity(subnet: &Subnet<'_>, windows: &TokenWindows) -> Result<Quality, SupernetError> {
    let (supernet, seq_len) = (subnet.supernet(), windows.window_len());
    check_tokens(supernet, windows.tokens(), seq_len)?;
    let rope = RopeTable::new(supernet.model(), seq_len);
    let mut losses = Vec::new();
    for batch in windows.batches(BATCH_TOKENS) {
        let mut x = forward::embed(subnet, &batch.inputs);
        for layer in 0..supernet.model().num_hidden_layers {
            forward::layer(subnet, layer, &mut x, seq_len, &rope);
        }
        let normed = head::final_norm(subnet, &x);
        let targets = &batch.targets;
        losses.extend(head::negative_log_likelihood(subnet, &normed, targets));
    }
    Ok(Quality::of(&losses, None))
}

impl<'a> Evaluator<'a> {
    /// Runs the full model over `windows`.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or a window is longer than the context.
    pub fn new(supernet: &'a Supernet, windows: &TokenWindows) -> Result<Self, SupernetError> {
        check_tokens(supernet, windows.tokens(), windows.window_len())?;
        let mut evaluator = Self {
            supernet,
            rope: RopeTable::new(supernet.model(), windows.window_len()),
            seq_len: windows.window_len(),
            batches: Vec::new(),
        };
        let teacher = supernet.full();
        for text in windows.batches(BATCH_TOKENS) {
            let batch = evaluator.run_teacher(&teacher, text);
            evaluator.batches.push(batch);
        }
        Ok(evaluator)
    }

    fn run_teacher(&self, teacher: &Subnet<'_>, text: Batch) -> TeacherBatch {
        let mut x = forward::embed(teacher, &text.inputs);
        let mut before_layer = Vec::new();
        for layer in 0..self.supernet.model().num_hidden_layers {
            before_layer.push(x.clone());
            forward::layer(teacher, layer, &mut x, self.seq_len, &self.rope);
        }
        TeacherBatch {
            normed: head::final_norm(teacher, &x),
            text,
            before_layer,
        }
    }

    /// The super-network whose sub-networks it scores.
    pub fn supernet(&self) -> &'a Supernet {
        self.supernet
    }

    /// Tokens that are scored.
    pub fn token_count(&self) -> usize {
        self.batches
            .iter()
            .map(|batch| batch.text.targets.len())
            .sum()
    }

    /// Perplexity alone.
    pub fn perplexity(&self, subnet: &Subnet<'_>) -> Quality {
        self.score(subnet, false)
    }

    /// Perplexity and KL divergence from the full model.
    pub fn perplexity_and_kl(&self, subnet: &Subnet<'_>) -> Quality {
        self.score(subnet, true)
    }

    fn score(&self, subnet: &Subnet<'_>, with_kl: bool) -> Quality {
        let mut losses = Vec::new();
        let mut divergence = 0.0;
        for batch in &self.batches {
            let normed = self.run(subnet, batch);
            let targets = &batch.text.targets;
            losses.extend(head::negative_log_likelihood(subnet, &normed, targets));
            if with_kl {
                let teacher = self.supernet.full();
                let each = head::kl_divergence(&teacher, subnet, &batch.normed, &normed);
                divergence += each.iter().map(|d| f64::from(*d)).sum::<f64>();
            }
        }
        let divergence = with_kl.then(|| divergence / losses.len() as f64);
        Quality::of(&losses, divergence)
    }

    /// The first layer that differs from the full model's.
    fn first_changed_layer(&self, subnet: &Subnet<'_>) -> Option<usize> {
        let full = SubnetConfig::full(self.supernet.model());
        let layers = subnet.config().layers.iter().zip(&full.layers);
        layers.into_iter().position(|(layer, full)| layer != full)
    }

    /// The sub-network's last hidden states after the final norm, `[tokens, hidden]`.
    fn run(&self, subnet: &Subnet<'_>, batch: &TeacherBatch) -> Vec<f32> {
        let layers = self.supernet.model().num_hidden_layers;
        let (first, mut x) = if subnet.config().head_precision == Precision::F32 {
            let Some(first) = self.first_changed_layer(subnet) else {
                return batch.normed.clone();
            };
            (first, batch.before_layer[first].clone())
        } else {
            (0, forward::embed(subnet, &batch.text.inputs))
        };
        for layer in first..layers {
            forward::layer(subnet, layer, &mut x, self.seq_len, &self.rope);
        }
        head::final_norm(subnet, &x)
    }
}

pub(crate) fn check_tokens(
    supernet: &Supernet,
    tokens: &[u32],
    seq_len: usize,
) -> Result<(), SupernetError> {
    let model = supernet.model();
    let (vocab_size, context) = (model.vocab_size, model.max_position_embeddings);
    if seq_len > context {
        return Err(SupernetError::TooLong {
            tokens: seq_len,
            context,
        });
    }
    let outside = |token: &u32| *token as usize >= vocab_size;
    match tokens.iter().position(outside) {
        Some(position) => Err(SupernetError::Token {
            token: tokens[position],
            position,
            vocab_size,
        }),
        None => Ok(()),
    }
}
