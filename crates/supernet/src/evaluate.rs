//! Quality: perplexity, and KL divergence from the teacher.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lathe_arch::SubnetConfig;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::engine::head;
use crate::engine::rope::RopeTable;
use crate::prefix::{Recent, Stream, Trail};
use crate::supernet::Supernet;
use crate::text::{Batch, TokenWindows};

/// Tokens run together: bounds the memory of the activations.
const BATCH_TOKENS: usize = 1024;

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

/// Scores of the tokens so far.
#[derive(Default)]
struct Scores {
    losses: Vec<f32>,
    /// Sum over tokens, where there is a teacher.
    divergence: Option<f64>,
}

impl Scores {
    /// Takes in one batch: last hidden states after the final norm, of the sub-network and of its
    /// teacher.
    fn add(
        &mut self,
        subnet: &Subnet<'_>,
        normed: &[f32],
        teacher: Option<(&Subnet<'_>, &[f32])>,
        targets: &[u32],
    ) {
        let Some((teacher, of_teacher)) = teacher else {
            let losses = head::negative_log_likelihood(subnet, normed, targets);
            self.losses.extend(losses);
            return;
        };
        let scores = head::divergence_and_loss([teacher, subnet], [of_teacher, normed], targets);
        let divergences = scores.iter().map(|score| f64::from(score.kl_divergence));
        *self.divergence.get_or_insert_default() += divergences.sum::<f64>();
        let losses = scores.iter().map(|score| score.negative_log_likelihood);
        self.losses.extend(losses);
    }

    fn finish(&self) -> Quality {
        let tokens = self.losses.len();
        let losses = || self.losses.iter().map(|loss| f64::from(*loss));
        let mean = losses().sum::<f64>() / tokens as f64;
        let squares = losses().map(|loss| (loss - mean).powi(2));
        let variance = squares.sum::<f64>() / (tokens.max(2) - 1) as f64;
        Quality {
            tokens,
            negative_log_likelihood: mean,
            standard_error: (variance / tokens as f64).sqrt(),
            kl_divergence: self.divergence.map(|sum| sum / tokens as f64),
        }
    }
}

impl Quality {
    /// `exp` of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        self.negative_log_likelihood.exp()
    }
}

/// Scores sub-networks of one super-network on one text.
///
/// The residual stream before every layer is kept, of the full model and of the last sub-networks
/// that were scored. A sub-network is run only from the first layer on that differs from the one
/// that has most layers in common with it; one that is corrected for drift is run whole.
pub struct Evaluator<'a> {
    supernet: &'a Supernet,
    rope: RopeTable,
    seq_len: usize,
    batches: Vec<Batch>,
    teacher: Trail,
    /// The full model's last hidden states after the final norm, for each batch
    /// `[tokens, hidden]`.
    teacher_normed: Vec<Vec<f32>>,
    recent: Mutex<Recent>,
    layers_run: AtomicU64,
}

/// Perplexity of one sub-network, without anything kept for the next.
///
/// # Errors
/// When a token lies outside the vocabulary or a window is longer than the context.
pub fn perplexity(subnet: &Subnet<'_>, windows: &TokenWindows) -> Result<Quality, SupernetError> {
    score_once(subnet, None, windows)
}

/// Perplexity and KL divergence from the full model, without anything kept for the next.
///
/// # Errors
/// As for [`perplexity`].
pub fn perplexity_and_kl(
    subnet: &Subnet<'_>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    score_once(subnet, Some(&subnet.supernet().teacher()), windows)
}

fn score_once(
    subnet: &Subnet<'_>,
    teacher: Option<&Subnet<'_>>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    let (supernet, seq_len) = (subnet.supernet(), windows.window_len());
    check_tokens(supernet, windows.tokens(), seq_len)?;
    let rope = RopeTable::new(supernet.model(), seq_len);
    let last_hidden = |subnet: &Subnet<'_>, batch: &Batch| {
        let mut x = forward::embed(subnet, &batch.inputs);
        for layer in 0..supernet.model().num_hidden_layers {
            forward::layer(subnet, layer, &mut x, seq_len, &rope);
        }
        head::final_norm(subnet, &x)
    };
    let mut scores = Scores::default();
    for batch in windows.batches(BATCH_TOKENS) {
        let normed = last_hidden(subnet, &batch);
        let of_teacher = teacher.map(|teacher| (teacher, last_hidden(teacher, &batch)));
        let teacher = of_teacher.as_ref().map(|(net, normed)| (*net, &normed[..]));
        scores.add(subnet, &normed, teacher, &batch.targets);
    }
    Ok(scores.finish())
}

impl<'a> Evaluator<'a> {
    /// Runs the full model over `windows`.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or a window is longer than the context.
    pub fn new(supernet: &'a Supernet, windows: &TokenWindows) -> Result<Self, SupernetError> {
        check_tokens(supernet, windows.tokens(), windows.window_len())?;
        let full = supernet.teacher();
        let mut evaluator = Self {
            supernet,
            rope: RopeTable::new(supernet.model(), windows.window_len()),
            seq_len: windows.window_len(),
            batches: windows.batches(BATCH_TOKENS).collect(),
            teacher: Trail::new(full.config(), Vec::new()),
            teacher_normed: Vec::new(),
            recent: Mutex::default(),
            layers_run: AtomicU64::new(0),
        };
        for batch in &evaluator.batches {
            let embedded = Arc::new(forward::embed(&full, &batch.inputs));
            let (streams, normed) = evaluator.run_from(&full, vec![embedded]);
            evaluator.teacher.streams.push(streams);
            evaluator.teacher_normed.push(normed);
        }
        Ok(evaluator)
    }

    /// The super-network whose sub-networks it scores.
    pub fn supernet(&self) -> &'a Supernet {
        self.supernet
    }

    /// Tokens that are scored.
    pub fn token_count(&self) -> usize {
        self.batches.iter().map(|batch| batch.targets.len()).sum()
    }

    /// Layers run so far over all tokens, the full model's included.
    pub fn layers_run(&self) -> u64 {
        self.layers_run.load(Ordering::Relaxed) / self.batches.len().max(1) as u64
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
        let teacher = self.supernet.teacher();
        let mut scores = Scores::default();
        let outputs = self.run(subnet);
        let outputs = self.batches.iter().zip(&self.teacher_normed).zip(outputs);
        for ((batch, teacher_normed), normed) in outputs {
            let teacher = with_kl.then_some((&teacher, &teacher_normed[..]));
            scores.add(subnet, &normed, teacher, &batch.targets);
        }
        scores.finish()
    }

    /// The sub-network's last hidden states after the final norm, for each batch
    /// `[tokens, hidden]`.
    fn run(&self, subnet: &Subnet<'_>) -> Vec<Vec<f32>> {
        let config = subnet.config();
        let layers = config.layers.len();
        // Where the super-network was trained, none of its networks is the teacher.
        let of_teacher = match self.supernet.is_trained() {
            true => 0,
            false => self.teacher.common_layers(config),
        };
        if of_teacher == layers && !subnet.is_trained() {
            return self.teacher_normed.clone();
        }
        // Streams are known by the choices that gave them.
        let known = match subnet.is_only_cut() {
            true => self.known(config, of_teacher),
            false => vec![Vec::new(); self.batches.len()],
        };
        let batches = self.batches.iter().zip(known);
        let (streams, outputs) = batches
            .map(|(batch, mut known)| {
                if known.is_empty() {
                    known.push(Arc::new(forward::embed(subnet, &batch.inputs)));
                }
                self.run_from(subnet, known)
            })
            .unzip();
        if subnet.is_only_cut() {
            self.recent().keep(Trail::new(config, streams));
        }
        outputs
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For each batch, the streams before the layers that have been run for another sub-network,
    /// and before the first that has not.
    fn known(&self, config: &SubnetConfig, of_teacher: usize) -> Vec<Vec<Stream>> {
        let recent = self.recent();
        let (common, trail) = match recent.longest(config) {
            Some((common, trail)) if common > of_teacher => (common, trail),
            _ => (of_teacher, &self.teacher),
        };
        if common == 0 {
            // The embedding may be another, and costs next to nothing.
            return vec![Vec::new(); self.batches.len()];
        }
        let streams = trail.streams.iter();
        let last = config.layers.len() - 1;
        streams
            .map(|streams| streams[..=common.min(last)].to_vec())
            .collect()
    }

    /// Runs a sub-network from the last of its known streams on. Returns the streams before all
    /// its layers, and its last hidden states after the final norm.
    fn run_from(&self, subnet: &Subnet<'_>, mut streams: Vec<Stream>) -> (Vec<Stream>, Vec<f32>) {
        let layers = self.supernet.model().num_hidden_layers;
        let first = streams.len() - 1;
        let mut x = streams[first].to_vec();
        for layer in first..layers {
            if layer > first {
                streams.push(Arc::new(x.clone()));
            }
            forward::layer(subnet, layer, &mut x, self.seq_len, &self.rope);
        }
        let run = (layers - first) as u64;
        self.layers_run.fetch_add(run, Ordering::Relaxed);
        let normed = head::final_norm(subnet, &x);
        (streams, normed)
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
