//! The loop that every training is: steps, validations, states on the disk, metrics.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lathe_supernet::{Quality, StepReport, SupernetError, Trainer};
use serde::{Deserialize, Serialize};

use crate::artefact::{remove_file, write_text};
use crate::learning_curves::write_figure;

/// What the next step depends on, while a training is unfinished.
pub(crate) const STATE: &str = "state.safetensors";
/// Folder of the networks of a race, in the race's.
pub(crate) const RACE: &str = "race";
/// One line a step, and one for every network of a validation.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// Steps after which it is known how long one takes.
const TIMED_STEPS: usize = 4;
/// Tokens of text that are trained on at most, before they are read again.
pub const MOST_TRAINING_TOKENS: usize = 4 << 20;

/// How long is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainingLength {
    /// Steps.
    Steps(usize),
    /// As many steps as are expected to take so long, by the first of them.
    Time(Duration),
}

impl TrainingLength {
    /// The steps, where they are known beforehand.
    pub(crate) fn steps(self) -> Option<usize> {
        match self {
            TrainingLength::Steps(steps) => Some(steps),
            TrainingLength::Time(_) => None,
        }
    }
}

/// What every training asks for.
#[derive(Clone, Copy)]
pub struct TrainingRun<'a> {
    /// How long it is trained.
    pub length: TrainingLength,
    /// Steps between two states on the disk.
    pub save_every: usize,
    /// Steps between two validations.
    pub validate_every: usize,
    /// Where everything goes.
    pub folder: &'a Path,
    /// Goes on with an unfinished training.
    pub resume: bool,
    /// Stops after this step as if the user wanted it, with the state kept, and validates.
    pub pause_at: Option<usize>,
    /// Whether the user wants it to stop.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

/// What is being done.
#[derive(Debug, Clone)]
pub enum TrainingEvent<'a> {
    /// A step of the preparation: its name, how much is done, and how much there is in all.
    Preparing(&'a str, usize, usize),
    /// A step of the training.
    Trained {
        /// What it did.
        report: StepReport,
        /// Steps in all, where that is known.
        steps: Option<usize>,
        /// How fast it was; a token counts once for each network that read it.
        tokens_per_second: f64,
        /// The last validation's divergences from the full model, in nats per token.
        validation_kl: &'a [f64],
    },
}

/// A network before and after a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validated {
    /// What it is called, where there are several.
    pub network: Option<String>,
    /// Divergence from the full model before and after, in nats per token.
    pub kl: [f64; 2],
    /// Perplexity before and after.
    pub perplexity: [f64; 2],
}

/// A line of the metrics.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Metric {
    Step {
        step: usize,
        loss: f64,
        next_token_loss: f64,
        learning_rate: f64,
        grad_norm: f64,
        tokens_per_second: f64,
        /// Of each network, where there are several.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        losses: Vec<f64>,
    },
    Validation {
        step: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
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
}

/// A network that is validated, and how well it does.
pub(crate) type Validation = (Option<&'static str>, Quality);

/// What kind of training it is.
pub(crate) trait Task<'a> {
    /// Makes a step.
    fn step(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<StepReport>;
    /// Scores networks on text that is not trained on.
    fn validate(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<Vec<Validation>>;
}

impl TrainingRun<'_> {
    /// The file of an unfinished training.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    /// Nothing that took long is overwritten: neither an unfinished training nor one that left `made`.
    pub(crate) fn check_folder(&self, made: &str) -> anyhow::Result<()> {
        let folder = self.folder.display();
        let (has_state, is_made) = (self.state().exists(), self.folder.join(made).exists());
        ensure!(
            self.resume || !has_state,
            "{folder} holds an unfinished training: go on with --resume, or name another folder"
        );
        ensure!(
            has_state || is_made || !self.folder.join(RACE).exists(),
            "{folder} holds an unfinished race: name its networks and --resume, or another folder"
        );
        ensure!(
            has_state || !is_made,
            "{folder} holds a finished training: name another folder"
        );
        ensure!(
            has_state || !self.resume,
            "{folder} holds no unfinished training: leave --resume away to begin one"
        );
        fs::create_dir_all(self.folder).with_context(|| folder.to_string())
    }

    /// Trains to the end, or until the user wants it to stop: whether that is so. Then the state is
    /// kept; at the end [`Self::finish`] removes it, when what was trained is written.
    pub(crate) fn train<'a>(
        &self,
        trainer: &mut Trainer<'a>,
        task: &mut dyn Task<'a>,
        watch: &mut dyn FnMut(TrainingEvent<'_>),
    ) -> anyhow::Result<(bool, Vec<Validated>)> {
        let mut metrics = Metrics::open(&self.folder.join(METRICS), trainer.steps_done())?;
        let is_interrupted = self.steps(trainer, task, &mut metrics, watch)?;
        Ok((is_interrupted, metrics.validated()?))
    }

    fn steps<'a>(
        &self,
        trainer: &mut Trainer<'a>,
        task: &mut dyn Task<'a>,
        metrics: &mut Metrics,
        watch: &mut dyn FnMut(TrainingEvent<'_>),
    ) -> anyhow::Result<bool> {
        let (begin, first) = (Instant::now(), trainer.steps_done());
        let mut validation_kl = Vec::new();
        if first == 0 {
            watch(TrainingEvent::Preparing("validating", 0, 1));
            validation_kl = metrics.validate(trainer, task)?;
        }
        let validation = begin.elapsed();
        let mut timed = Duration::ZERO;
        let (mut unsaved, mut validated) = (0, None);
        while !trainer.is_done() {
            let is_pause = self.pause_at.is_some_and(|at| trainer.steps_done() >= at);
            if is_pause || (self.is_interrupted)() {
                trainer.save(&self.state())?;
                // After the state: what is on record never runs ahead of it.
                if is_pause && validated != Some(trainer.steps_done()) {
                    metrics.validate(trainer, task)?;
                }
                return Ok(true);
            }
            let clock = Instant::now();
            let report = task.step(trainer).map_err(|error| self.explained(error))?;
            let tokens_per_second = report.tokens as f64 / clock.elapsed().as_secs_f64();
            metrics.add_step(&report, tokens_per_second)?;
            // The first one also warms up.
            if report.step > first + 1 {
                timed += clock.elapsed();
            }
            if report.step == first + TIMED_STEPS
                && let (None, TrainingLength::Time(limit)) = (trainer.steps(), self.length)
            {
                let step = timed / (TIMED_STEPS as u32 - 1);
                let each = step + validation / self.validate_every.max(1) as u32;
                let left = limit.saturating_sub(begin.elapsed());
                let more = left.as_secs_f64() / each.as_secs_f64();
                trainer.set_steps(report.step + more as usize);
            }
            if report.step.is_multiple_of(self.validate_every) || trainer.is_done() {
                validation_kl = metrics.validate(trainer, task)?;
                validated = Some(report.step);
            }
            unsaved += 1;
            if unsaved >= self.save_every && trainer.is_sound() && !trainer.is_done() {
                trainer.save(&self.state())?;
                unsaved = 0;
            }
            watch(TrainingEvent::Trained {
                report,
                steps: trainer.steps(),
                tokens_per_second,
                validation_kl: &validation_kl,
            });
        }
        Ok(false)
    }

    /// Removes the state, and draws how the training went. Last: until what was trained is written, the
    /// training can go on.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        remove_file(&self.state())?;
        write_figure(self.folder)
    }

    /// What is left when a training goes wrong.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        if !error.is::<SupernetError>() {
            return error;
        }
        let state = self.state();
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

    fn add_step(&mut self, report: &StepReport, tokens_per_second: f64) -> anyhow::Result<()> {
        let is_one = report.losses.len() == 1;
        self.add(&Metric::Step {
            step: report.step,
            loss: report.loss,
            next_token_loss: report.next_token_loss,
            learning_rate: report.learning_rate,
            grad_norm: report.gradient_norm,
            tokens_per_second,
            losses: match is_one {
                true => Vec::new(),
                false => report.losses.clone(),
            },
        })
    }

    /// The divergences from the full model on held-out text, in nats per token.
    fn validate<'a>(
        &mut self,
        trainer: &mut Trainer<'a>,
        task: &mut dyn Task<'a>,
    ) -> anyhow::Result<Vec<f64>> {
        let mut divergences = Vec::new();
        for (network, quality) in task.validate(trainer)? {
            let validation_kl = quality.kl_divergence.unwrap_or_default();
            self.add(&Metric::Validation {
                step: trainer.steps_done(),
                network: network.map(str::to_owned),
                validation_kl,
                validation_perplexity: quality.perplexity(),
            })?;
            divergences.push(validation_kl);
        }
        Ok(divergences)
    }

    /// The first and the last validation of each network.
    fn validated(&self) -> anyhow::Result<Vec<Validated>> {
        let mut all: Vec<Validated> = Vec::new();
        for metric in read_metrics(&self.path)? {
            let Metric::Validation {
                network,
                validation_kl,
                validation_perplexity,
                ..
            } = metric
            else {
                continue;
            };
            match all.iter_mut().find(|known| known.network == network) {
                Some(known) => {
                    known.kl[1] = validation_kl;
                    known.perplexity[1] = validation_perplexity;
                }
                None => all.push(Validated {
                    network,
                    kl: [validation_kl; 2],
                    perplexity: [validation_perplexity; 2],
                }),
            }
        }
        Ok(all)
    }
}

/// Divergence and perplexity of the network of a training after `step` steps, where it was validated then.
pub(crate) fn validation_at(folder: &Path, step: usize) -> anyhow::Result<Option<[f64; 2]>> {
    let path = folder.join(METRICS);
    if !path.exists() {
        return Ok(None);
    }
    let metrics = read_metrics(&path)?.into_iter();
    let mut found = metrics.filter_map(|metric| match metric {
        Metric::Validation {
            step: at,
            validation_kl,
            validation_perplexity,
            ..
        } => (at == step).then_some([validation_kl, validation_perplexity]),
        Metric::Step { .. } => None,
    });
    Ok(found.next())
}

/// Losses of some steps of a training, those that are on record.
pub(crate) fn losses(folder: &Path, steps: RangeInclusive<usize>) -> anyhow::Result<Vec<f64>> {
    let metrics = read_metrics(&folder.join(METRICS))?.into_iter();
    let losses = metrics.filter_map(|metric| match metric {
        Metric::Step { step, loss, .. } => steps.contains(&step).then_some(loss),
        Metric::Validation { .. } => None,
    });
    Ok(losses.collect())
}

/// All lines of a file of metrics that are whole.
pub(crate) fn read_metrics(path: &Path) -> anyhow::Result<Vec<Metric>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // The last line may have been cut off.
    let metrics = text.lines().map(serde_json::from_str);
    Ok(metrics.map_while(Result::ok).collect())
}
