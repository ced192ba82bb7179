//! Healing one sub-network: its own weights learn to answer as the full model does.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lathe_arch::{Precision, SubnetConfig};
use lathe_supernet::{
    Evaluator, Parameters, Split, StepReport, SupernetError, TokenWindows, TrainSettings, Trainer,
};
use serde::{Deserialize, Serialize};

use crate::Prepared;
use crate::artefact::{WEIGHTS, write_text, write_trained};

/// What the next step depends on, while a training is unfinished.
const STATE: &str = "state.safetensors";
/// One line a step, and one a validation.
const METRICS: &str = "metrics.jsonl";
/// Steps after which it is known how long one takes.
const TIMED_STEPS: usize = 4;
/// Tokens of text that are trained on at most, before they are read again.
const MOST_TOKENS: usize = 4 << 20;

/// How long is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainingLength {
    /// Steps.
    Steps(usize),
    /// As many steps as are expected to take so long, by the first of them.
    Time(Duration),
}

/// What to heal, and how.
pub struct Healing<'a> {
    /// The model, as [`Prepared::unpruned`] makes it: with its units in another order the full model
    /// rounds otherwise, and what is resumed would not be what was begun.
    pub prepared: &'a Prepared,
    /// The sub-network.
    pub config: &'a SubnetConfig,
    /// Its weights to begin with, in f32; those of an unfinished training are in the folder.
    pub weights: Option<Parameters>,
    /// How it is trained; the number of steps follows from `length`.
    pub settings: TrainSettings,
    /// How long it is trained.
    pub length: TrainingLength,
    /// Tokens of a window of text.
    pub window_tokens: usize,
    /// Steps between two states on the disk.
    pub save_every: usize,
    /// Steps between two validations.
    pub validate_every: usize,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// Where everything goes.
    pub folder: &'a Path,
    /// Goes on with an unfinished training.
    pub resume: bool,
    /// Whether the user wants it to stop.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

/// What is being done.
#[derive(Debug, Clone, Copy)]
pub enum HealingEvent<'a> {
    /// A step of the preparation: its name, how much is done, and how much there is in all.
    Preparing(&'a str, usize, usize),
    /// A step of the training.
    Trained {
        /// What it did.
        report: StepReport,
        /// Steps in all, where that is known.
        steps: Option<usize>,
        /// How fast it was.
        tokens_per_second: f64,
        /// The last validation's divergence from the full model, in nats per token.
        validation_kl: f64,
    },
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Healed {
    /// Steps made.
    pub steps: usize,
    /// Whether there are more to make: the user stopped it.
    pub is_interrupted: bool,
    /// Tokens trained on, those read again counted again.
    pub trained_tokens: usize,
    /// Parameters of the sub-network.
    pub parameters: u64,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// Divergence from the full model before and after, in nats per token.
    pub validation_kl: [f64; 2],
    /// Perplexity before and after.
    pub validation_perplexity: [f64; 2],
}

/// A line of the metrics.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum Metric {
    Step {
        step: usize,
        loss: f64,
        next_token_loss: f64,
        learning_rate: f64,
        grad_norm: f64,
        tokens_per_second: f64,
    },
    Validation {
        step: usize,
        validation_kl: f64,
        validation_perplexity: f64,
    },
}

impl Metric {
    fn step(&self) -> usize {
        match self {
            Metric::Step { step, .. } | Metric::Validation { step, .. } => *step,
        }
    }

    fn validation(&self) -> Option<[f64; 2]> {
        match *self {
            Metric::Step { .. } => None,
            Metric::Validation {
                validation_kl,
                validation_perplexity,
                ..
            } => Some([validation_kl, validation_perplexity]),
        }
    }
}

impl Healing<'_> {
    /// Trains, and writes `subnet.yaml` and the weights beside it into the folder.
    ///
    /// # Errors
    /// When there is too little text, the training goes wrong (its last state is kept), or something
    /// cannot be read or written.
    pub fn run(mut self, watch: &mut dyn FnMut(HealingEvent<'_>)) -> anyhow::Result<Healed> {
        self.check_folder()?;
        watch(HealingEvent::Preparing("reading the text", 0, 1));
        let text = self
            .prepared
            .training_windows(self.window_tokens, MOST_TOKENS)?;
        let held_out = self
            .prepared
            .windows(Split::Search, self.validation_tokens)?;
        let weights = self.weights.take();
        let mut trainer = self.trainer(weights, &text)?;
        watch(HealingEvent::Preparing("scoring the full model", 0, 1));
        let evaluator = Evaluator::new(&self.prepared.supernet, &held_out)?;
        let mut run = Run {
            healing: &self,
            evaluator,
            metrics: Metrics::open(&self.path(METRICS), trainer.steps_done())?,
        };
        let is_interrupted = run.train(&mut trainer, watch)?;
        if !is_interrupted {
            let supernet = &self.prepared.supernet;
            trainer.weights().save(&self.path(WEIGHTS), supernet)?;
            write_trained(self.folder, self.config)?;
            // Last: until the weights are there, the training can go on.
            match fs::remove_file(self.path(STATE)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(self.path(STATE).display().to_string());
                }
                Ok(()) | Err(_) => {}
            }
        }
        let [first, last] = run.metrics.validations()?;
        Ok(Healed {
            steps: trainer.steps_done(),
            is_interrupted,
            trained_tokens: trainer.steps_done() * trainer.tokens_per_step(),
            parameters: self.config.parameters(self.prepared.model()),
            validation_tokens: held_out.token_count(),
            validation_kl: [first[0], last[0]],
            validation_perplexity: [first[1], last[1]],
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Nothing that took long is overwritten.
    fn check_folder(&self) -> anyhow::Result<()> {
        let folder = self.folder.display();
        let (has_state, has_weights) = (self.path(STATE).exists(), self.path(WEIGHTS).exists());
        ensure!(
            self.resume || !has_state,
            "{folder} holds an unfinished training: go on with --resume, or name another folder"
        );
        ensure!(
            has_state || !has_weights,
            "{folder} holds a finished training: name another folder"
        );
        ensure!(
            has_state || !self.resume,
            "{folder} holds no unfinished training: leave --resume away to begin one"
        );
        fs::create_dir_all(self.folder).with_context(|| folder.to_string())
    }

    fn trainer(
        &self,
        weights: Option<Parameters>,
        text: &TokenWindows,
    ) -> anyhow::Result<Trainer<'_>> {
        let supernet = &self.prepared.supernet;
        // Rounded weights have no gradient: they are rounded again when they are used.
        let config = self.config.clone().with_precision(Precision::F32);
        let settings = TrainSettings {
            steps: match self.length {
                TrainingLength::Steps(steps) => Some(steps),
                TrainingLength::Time(_) => None,
            },
            ..self.settings.clone()
        };
        match weights.filter(|_| !self.resume) {
            Some(weights) => Ok(Trainer::new(supernet, &config, weights, text, settings)?),
            None => {
                let path = self.path(STATE);
                Ok(Trainer::resume(&path, supernet, &config, text, &settings)?)
            }
        }
    }
}

/// A training on its way.
struct Run<'a> {
    healing: &'a Healing<'a>,
    evaluator: Evaluator<'a>,
    metrics: Metrics,
}

impl Run<'_> {
    /// Trains to the end, or until the user wants it to stop: whether that is so.
    fn train(
        &mut self,
        trainer: &mut Trainer<'_>,
        watch: &mut dyn FnMut(HealingEvent<'_>),
    ) -> anyhow::Result<bool> {
        let healing = self.healing;
        let (begin, first) = (Instant::now(), trainer.steps_done());
        let mut validation_kl = f64::NAN;
        if first == 0 {
            watch(HealingEvent::Preparing("validating", 0, 1));
            validation_kl = self.validate(trainer)?;
        }
        let validation = begin.elapsed();
        let mut timed = Duration::ZERO;
        let mut unsaved = 0;
        while !trainer.is_done() {
            if (healing.is_interrupted)() {
                trainer.save(&healing.path(STATE))?;
                return Ok(true);
            }
            let clock = Instant::now();
            let report = trainer.step().map_err(|error| self.explained(error))?;
            let seconds = clock.elapsed().as_secs_f64();
            let tokens_per_second = report.tokens as f64 / seconds;
            self.metrics.add(&Metric::Step {
                step: report.step,
                loss: report.loss,
                next_token_loss: report.next_token_loss,
                learning_rate: report.learning_rate,
                grad_norm: report.gradient_norm,
                tokens_per_second,
            })?;
            // The first one also warms up.
            if report.step > first + 1 {
                timed += clock.elapsed();
            }
            if report.step == first + TIMED_STEPS
                && let (None, TrainingLength::Time(limit)) = (trainer.steps(), healing.length)
            {
                let step = timed / (TIMED_STEPS as u32 - 1);
                let each = step + validation / healing.validate_every.max(1) as u32;
                let left = limit.saturating_sub(begin.elapsed());
                let more = left.as_secs_f64() / each.as_secs_f64();
                trainer.set_steps(report.step + more as usize);
            }
            if report.step % healing.validate_every == 0 || trainer.is_done() {
                validation_kl = self.validate(trainer)?;
            }
            unsaved += 1;
            if unsaved >= healing.save_every && trainer.is_sound() && !trainer.is_done() {
                trainer.save(&healing.path(STATE))?;
                unsaved = 0;
            }
            watch(HealingEvent::Trained {
                report,
                steps: trainer.steps(),
                tokens_per_second,
                validation_kl,
            });
        }
        Ok(false)
    }

    /// The divergence from the full model on held-out text, in nats per token.
    fn validate(&mut self, trainer: &Trainer<'_>) -> anyhow::Result<f64> {
        let quality = self.evaluator.perplexity_and_kl(&trainer.subnet()?);
        let validation_kl = quality.kl_divergence.unwrap_or_default();
        self.metrics.add(&Metric::Validation {
            step: trainer.steps_done(),
            validation_kl,
            validation_perplexity: quality.perplexity(),
        })?;
        Ok(validation_kl)
    }

    /// What is left when a training goes wrong.
    fn explained(&self, error: SupernetError) -> anyhow::Error {
        let state = self.healing.path(STATE);
        let error = anyhow::Error::new(error);
        match state.exists() {
            true => error.context(format!(
                "the training went wrong; its last state is kept in {}",
                state.display()
            )),
            false => error.context("the training went wrong before its first state was saved"),
        }
    }
}

/// The file of metrics.
struct Metrics {
    path: PathBuf,
    file: fs::File,
}

impl Metrics {
    /// The metrics up to step `done`, to be gone on with.
    fn open(path: &Path, done: usize) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let kept: Vec<Metric> = match done {
            0 => Vec::new(),
            _ => read_metrics(path)?,
        };
        let kept = kept.iter().filter(|metric| metric.step() <= done);
        let lines: Result<Vec<String>, _> = kept.map(serde_json::to_string).collect();
        let lines = lines?.into_iter().map(|line| line + "\n");
        write_text(path, &lines.collect::<String>())?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(name)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn add(&mut self, metric: &Metric) -> anyhow::Result<()> {
        let line = serde_json::to_string(metric)? + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| self.path.display().to_string())
    }

    /// Divergence and perplexity of the first and the last validation.
    fn validations(&self) -> anyhow::Result<[[f64; 2]; 2]> {
        let metrics = read_metrics(&self.path)?;
        let mut found = metrics.iter().filter_map(Metric::validation);
        let first = found.next().unwrap_or([f64::NAN; 2]);
        Ok([first, found.next_back().unwrap_or(first)])
    }
}

fn read_metrics(path: &Path) -> anyhow::Result<Vec<Metric>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // The last line may have been cut off.
    let metrics = text.lines().map(serde_json::from_str);
    Ok(metrics.map_while(Result::ok).collect())
}
