//! Quality: perplexity, and KL divergence from the teacher.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lathe_arch::SubnetConfig;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::{Cpu, forward};
use crate::network::{Engine, Network};
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
    /// Takes in one batch: last hidden states after the final norm, of the network and of its
    /// teacher.
    fn add(
        &mut self,
        network: &dyn Network,
        normed: &[f32],
        of_teacher: Option<&[f32]>,
        targets: &[u32],
    ) -> Result<(), SupernetError> {
        let Some(of_teacher) = of_teacher else {
            self.losses.extend(network.losses(normed, targets)?);
            return Ok(());
        };
        let scores = network.scores(normed, of_teacher, targets)?;
        let divergences = scores.iter().map(|score| f64::from(score.kl_divergence));
        *self.divergence.get_or_insert_default() += divergences.sum::<f64>();
        let losses = scores.iter().map(|score| score.negative_log_likelihood);
        self.losses.extend(losses);
        Ok(())
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
    engine: Arc<dyn Engine + 'a>,
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
    perplexity_on(&Cpu::new(subnet.supernet()), subnet, windows)
}

/// Perplexity and KL divergence from the full model, without anything kept for the next.
///
/// # Errors
/// As for [`perplexity`].
pub fn perplexity_and_kl(
    subnet: &Subnet<'_>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    perplexity_and_kl_on(&Cpu::new(subnet.supernet()), subnet, windows)
}

/// The same as [`perplexity`], on another engine.
///
/// # Errors
/// As for [`perplexity`]; also when the engine fails.
pub fn perplexity_on(
    engine: &dyn Engine,
    subnet: &Subnet<'_>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    score_once(engine, subnet, None, windows)
}

/// The same as [`perplexity_and_kl`], on another engine.
///
/// # Errors
/// As for [`perplexity_on`].
pub fn perplexity_and_kl_on(
    engine: &dyn Engine,
    subnet: &Subnet<'_>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    let teacher = subnet.supernet().teacher();
    let of_teacher = engine.teacher()?;
    score_once(engine, subnet, Some((&teacher, &*of_teacher)), windows)
}

fn score_once(
    engine: &dyn Engine,
    subnet: &Subnet<'_>,
    teacher: Option<(&Subnet<'_>, &dyn Network)>,
    windows: &TokenWindows,
) -> Result<Quality, SupernetError> {
    let seq_len = windows.window_len();
    check_tokens(subnet.supernet(), windows.tokens(), seq_len)?;
    let network = engine.network(subnet)?;
    let mut scores = Scores::default();
    for batch in windows.batches(BATCH_TOKENS) {
        let last_hidden = |subnet: &Subnet<'_>, network: &dyn Network| {
            let embedded = forward::embed(subnet, &batch.inputs);
            network.run_from(0, embedded, seq_len, None)
        };
        let normed = last_hidden(subnet, &*network)?;
        let of_teacher = teacher.map(|(subnet, network)| last_hidden(subnet, network));
        let of_teacher = of_teacher.transpose()?;
        scores.add(&*network, &normed, of_teacher.as_deref(), &batch.targets)?;
    }
    Ok(scores.finish())
}

impl<'a> Evaluator<'a> {
    /// Runs the full model over `windows`.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary or a window is longer than the context.
    pub fn new(supernet: &'a Supernet, windows: &TokenWindows) -> Result<Self, SupernetError> {
        Self::on(Arc::new(Cpu::new(supernet)), supernet, windows)
    }

    /// The same, on another engine for networks of `supernet`.
    ///
    /// # Errors
    /// As for [`Self::new`]; also when the engine fails.
    pub fn on(
        engine: Arc<dyn Engine + 'a>,
        supernet: &'a Supernet,
        windows: &TokenWindows,
    ) -> Result<Self, SupernetError> {
        check_tokens(supernet, windows.tokens(), windows.window_len())?;
        let full = supernet.teacher();
        let mut evaluator = Self {
            supernet,
            engine: engine.clone(),
            seq_len: windows.window_len(),
            batches: windows.batches(BATCH_TOKENS).collect(),
            teacher: Trail::new(full.config(), Vec::new()),
            teacher_normed: Vec::new(),
            recent: Mutex::default(),
            layers_run: AtomicU64::new(0),
        };
        let network = engine.teacher()?;
        for batch in &evaluator.batches {
            let embedded = Arc::new(forward::embed(&full, &batch.inputs));
            let (streams, normed) = evaluator.run_from(&*network, vec![embedded])?;
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
    ///
    /// # Errors
    /// When the engine fails, which this crate's own does not.
    pub fn perplexity(&self, subnet: &Subnet<'_>) -> Result<Quality, SupernetError> {
        self.score(subnet, false)
    }

    /// Perplexity and KL divergence from the full model.
    ///
    /// # Errors
    /// As for [`Self::perplexity`].
    pub fn perplexity_and_kl(&self, subnet: &Subnet<'_>) -> Result<Quality, SupernetError> {
        self.score(subnet, true)
    }

    fn score(&self, subnet: &Subnet<'_>, with_kl: bool) -> Result<Quality, SupernetError> {
        let network = self.engine.network(subnet)?;
        let mut scores = Scores::default();
        let outputs = self.run(subnet, &*network)?;
        let outputs = self.batches.iter().zip(&self.teacher_normed).zip(outputs);
        for ((batch, teacher_normed), normed) in outputs {
            let of_teacher = with_kl.then_some(&teacher_normed[..]);
            scores.add(&*network, &normed, of_teacher, &batch.targets)?;
        }
        Ok(scores.finish())
    }

    /// The sub-network's last hidden states after the final norm, for each batch
    /// `[tokens, hidden]`.
    fn run(
        &self,
        subnet: &Subnet<'_>,
        network: &dyn Network,
    ) -> Result<Vec<Vec<f32>>, SupernetError> {
        let config = subnet.config();
        let layers = config.layers.len();
        // Where the super-network was trained, none of its networks is the teacher.
        let of_teacher = match self.supernet.is_trained() {
            true => 0,
            false => self.teacher.common_layers(config),
        };
        if of_teacher == layers && !subnet.is_trained() {
            return Ok(self.teacher_normed.clone());
        }
        // Streams are known by the choices that gave them.
        let known = match subnet.is_only_cut() {
            true => self.known(config, of_teacher),
            false => vec![Vec::new(); self.batches.len()],
        };
        let batches = self.batches.iter().zip(known);
        let runs = batches.map(|(batch, mut known)| {
            if known.is_empty() {
                known.push(Arc::new(forward::embed(subnet, &batch.inputs)));
            }
            self.run_from(network, known)
        });
        let runs: Vec<_> = runs.collect::<Result<_, _>>()?;
        let (streams, outputs) = runs.into_iter().unzip();
        if subnet.is_only_cut() {
            self.recent().keep(Trail::new(config, streams));
        }
        Ok(outputs)
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

    /// Runs a network from the last of its known streams on. Returns the streams before all its
    /// layers, and its last hidden states after the final norm.
    fn run_from(
        &self,
        network: &dyn Network,
        mut streams: Vec<Stream>,
    ) -> Result<(Vec<Stream>, Vec<f32>), SupernetError> {
        let layers = self.supernet.model().num_hidden_layers;
        let first = streams.len() - 1;
        let x = streams[first].to_vec();
        let mut keep = |x| streams.push(Arc::new(x));
        let normed = network.run_from(first, x, self.seq_len, Some(&mut keep))?;
        let run = (layers - first) as u64;
        self.layers_run.fetch_add(run, Ordering::Relaxed);
        Ok((streams, normed))
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
