//! The search against structural pruning, at equal predicted latency and on the same text.

mod answers;
mod drift;
mod exam;
mod healed;
mod precision;
mod pruning;
mod search;
mod winners;

use std::path::Path;

use anyhow::Context;
use lathe_arch::{Precision, SubnetConfig, Workload};
use lathe_latency::LatencyTable;
use lathe_profiler::{AgentCommand, NetworkLatency};
use lathe_supernet::{Accuracy, TrainSettings};
use serde::{Deserialize, Serialize};

use crate::artefact::{cached, write_json};
use crate::baseline::{Baseline, Limit};
use crate::kept::digest;
use crate::{LatencyObjective, Prepared, Progress, SearchTask};
use exam::Exam;

pub use answers::Quiz;
pub use healed::HealedScore;

/// What to compare, and with what effort.
pub struct Comparison<'a> {
    /// The model, its units ordered and recovered as the search is to have them.
    pub prepared: &'a Prepared,
    /// What the latencies are predicted from.
    pub table: &'a LatencyTable,
    /// How to start the agent that measures the winners; `None` to leave them unmeasured.
    pub agent: Option<&'a AgentCommand>,
    /// What the latencies are for.
    pub workload: Workload,
    /// Which latencies are pruned for.
    pub objectives: Vec<LatencyObjective>,
    /// Shares of the full model's predicted latency.
    pub levels: Vec<f64>,
    /// Precisions that the second search chooses among; with fewer than two there is none.
    pub precisions: Vec<Precision>,
    /// Evaluations of each search.
    pub evaluations: usize,
    /// Tokens of each evaluation, and of every choice that a baseline makes.
    pub search_tokens: usize,
    /// Tokens of each block score.
    pub block_tokens: usize,
    /// Tokens of the reported perplexities.
    pub test_tokens: usize,
    /// What the searches are told to answer.
    pub search_task: Option<SearchTask>,
    /// What all networks are asked besides.
    pub quiz: Option<Quiz>,
    /// Steps for which the winners are healed, on the text that [`Prepared::train_on`] was given.
    pub heal_steps: usize,
    /// How they are healed.
    pub heal_settings: TrainSettings,
    /// Rounds over the winners.
    pub network_rounds: usize,
    /// Seed of the search.
    pub seed: u64,
    /// Where everything goes; what is there already is not made again.
    pub folder: &'a Path,
}

/// How a network was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The search over structure alone, every block in f32 as the baselines have it.
    Structure,
    /// The search over structure and precision.
    StructureAndPrecision,
    /// A structural pruning method.
    Baseline(Baseline),
    /// Nothing pruned, every block in this precision: what precision gives without structure.
    WholeModel(Precision),
}

/// One network at one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// Which latency it was pruned for.
    pub objective: LatencyObjective,
    /// Share of the full model's predicted latency.
    pub level: f64,
    /// The method.
    pub method: Method,
    /// Whether the least-squares refit stands for what was removed.
    pub is_refitted: bool,
    /// Whether drift is corrected on top of that.
    pub is_corrected: bool,
    /// The network.
    pub subnet: SubnetConfig,
    /// Predicted time to first token.
    pub ttft_us: f64,
    /// Predicted time per output token.
    pub tpot_us: f64,
    /// The predicted latency that it was pruned for.
    pub latency_us: f64,
    /// Perplexity on text that neither calibration nor search has seen.
    pub perplexity: f64,
    /// Its logarithm over the full model's.
    pub log_perplexity_increase: f64,
    /// Right answers, where questions were asked.
    pub accuracy: Option<Accuracy>,
    /// Networks of fewer layers that a search found besides: healing finds out which of all is the best.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shallower: Vec<SubnetConfig>,
    /// Measured latencies, of the winners.
    pub measured: Option<NetworkLatency>,
    /// What healing makes of the winners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<HealedScore>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The model.
    pub model: String,
    /// The workload.
    pub workload: Workload,
    /// Perplexity of the full model.
    pub perplexity: f64,
    /// What was asked.
    pub quiz: Option<String>,
    /// Right answers of the full model.
    pub accuracy: Option<Accuracy>,
    /// Predicted time to first token and time per output token of the full model.
    pub predicted_us: [f64; 2],
    /// All networks, by objective, level and method.
    pub contenders: Vec<Contender>,
}

impl Method {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Structure => "Lathe, structure",
            Self::StructureAndPrecision => "Lathe, structure and precision",
            Self::Baseline(baseline) => baseline.name(),
            Self::WholeModel(Precision::F32) => "full model, f32",
            Self::WholeModel(Precision::Int8) => "full model, int8",
            Self::WholeModel(Precision::W8A8) => "full model, w8a8",
            Self::WholeModel(Precision::Int4) => "full model, int4",
        }
    }

    /// Whether it is one of ours.
    pub fn is_search(self) -> bool {
        matches!(self, Self::Structure | Self::StructureAndPrecision)
    }

    /// Whether it is a structural pruning method.
    pub fn is_baseline(self) -> bool {
        matches!(self, Self::Baseline(_))
    }

    /// Its name in files.
    fn slug(self) -> String {
        let words = self
            .name()
            .split([',', ' '])
            .filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_lowercase()
    }
}

impl Contender {
    /// Contenders that agree in this are cut from one super-network.
    fn made_by(&self) -> (Method, bool) {
        (self.method, self.is_refitted)
    }

    /// What it is called in a table.
    pub fn name(&self) -> String {
        match (self.method, self.is_refitted) {
            (Method::Baseline(baseline), true) => {
                let drift = if self.is_corrected { ", drift" } else { "" };
                format!("{} + refit{drift}", baseline.name())
            }
            (method, _) => method.name().to_owned(),
        }
    }
}

/// What a method's networks, refitted or not, are called in files.
fn slug((method, is_refitted): (Method, bool)) -> String {
    let refitted = if is_refitted { "-refitted" } else { "" };
    format!("{}{refitted}", method.slug())
}

impl Compared {
    /// The contenders of one level.
    pub fn at(&self, objective: LatencyObjective, level: f64) -> Vec<&Contender> {
        let of = |c: &&Contender| c.objective == objective && c.level == level;
        self.contenders.iter().filter(of).collect()
    }

    /// The best baseline of a level, as published or refitted.
    pub fn best_baseline(
        &self,
        objective: LatencyObjective,
        level: f64,
        is_refitted: bool,
    ) -> Option<&Contender> {
        let all = self.at(objective, level).into_iter();
        all.filter(|c| c.method.is_baseline() && c.is_refitted == is_refitted)
            .min_by(|a, b| a.perplexity.total_cmp(&b.perplexity))
    }
}

impl Comparison<'_> {
    /// Runs it, or what is left of it after an interruption.
    ///
    /// # Errors
    /// When a step fails; finished steps are kept and not repeated.
    pub fn run(&self, progress: Progress<'_>) -> anyhow::Result<Compared> {
        std::fs::create_dir_all(self.folder).with_context(|| self.folder.display().to_string())?;
        progress("scoring the full model", 0, 1);
        let exam = Exam::new(self)?;
        let key = self.key(&exam);
        let prediction = self.table.predict(&self.full(), &self.workload)?;
        let mut contenders = Vec::new();
        for baseline in Baseline::ALL {
            let path = format!("{}.json", Method::Baseline(baseline).slug());
            contenders.extend(cached(&self.folder.join(path), &key, || {
                self.baseline(baseline, &exam, progress)
            })?);
        }
        let searches = [Method::Structure, Method::StructureAndPrecision];
        let searches = &searches[..self.precisions.len().clamp(1, 2)];
        for &method in searches {
            let key = self.search_key(method, &key);
            for &objective in &self.objectives {
                let path = format!("{}-{}.json", method.slug(), objective.name());
                contenders.extend(cached(&self.folder.join(path), &self.asked(&key), || {
                    self.search(method, objective, (&exam, &key), progress)
                })?);
            }
        }
        self.correct_best_baselines(&mut contenders, &exam, progress)?;
        contenders.extend(self.whole_models(&exam, progress)?);
        let place = |c: &Contender| self.objectives.iter().position(|o| *o == c.objective);
        contenders.sort_by(|a, b| {
            let levels = b.level.total_cmp(&a.level);
            let scores = a.perplexity.total_cmp(&b.perplexity);
            place(a).cmp(&place(b)).then(levels).then(scores)
        });
        let mut compared = Compared {
            model: self.prepared.name.clone(),
            workload: self.workload,
            perplexity: exam.base.exp(),
            quiz: self.quiz.as_ref().map(|quiz| quiz.name.clone()),
            accuracy: None,
            predicted_us: [prediction.ttft_us, prediction.tpot_us],
            contenders,
        };
        self.answer(&mut compared, &exam, progress)?;
        let key = self.search_key(Method::StructureAndPrecision, &key);
        self.measure(&mut compared, &key, progress)?;
        self.heal(&mut compared, &exam, progress)?;
        write_json(&self.folder.join("comparison.json"), &compared)?;
        Ok(compared)
    }

    /// What results rest on, besides `key`, that have answers in them: where drift is corrected.
    fn asked(&self, key: &str) -> String {
        match &self.quiz {
            Some(quiz) if self.prepared.has_text_for_drift() => format!("{} {key}", quiz.key()),
            _ => key.to_owned(),
        }
    }

    /// What the score of one network rests on.
    fn score_key(&self, exam: &Exam) -> String {
        format!(
            "{} {:016x} drift corrected on {} {:?} {}",
            self.prepared.name,
            self.prepared.supernet.digest(),
            self.prepared.calibration_tokens(),
            exam.test.first(16),
            self.test_tokens,
        )
    }

    /// What a baseline's results rest on: with anything else they are made anew.
    fn key(&self, exam: &Exam) -> String {
        format!(
            "{} {} {:?} {:?} {} {} {:?}",
            self.score_key(exam),
            self.workload,
            self.objectives,
            self.levels,
            self.search_tokens,
            self.block_tokens,
            self.table.protocol,
        )
    }

    /// What a search may make of a block besides its size.
    fn precisions_of(&self, method: Method) -> Vec<Precision> {
        match method {
            Method::StructureAndPrecision => self.precisions.clone(),
            Method::Structure | Method::Baseline(_) | Method::WholeModel(_) => {
                vec![Precision::F32]
            }
        }
    }

    /// What a search's results rest on; of the last, what everything after it does.
    fn search_key(&self, method: Method, key: &str) -> String {
        let to_heal = if self.heal_steps > 0 { "to heal " } else { "" };
        let told = self.search_task.as_ref();
        let told = told.map(|task| format!("told {:016x} ", digest(&format!("{task:?}"))));
        let told = told.unwrap_or_default();
        format!(
            "{told}{to_heal}{} {} {:?} {:?} {key}",
            self.evaluations,
            self.seed,
            self.precisions_of(method),
            self.prepared.choices(),
        )
    }

    fn full(&self) -> SubnetConfig {
        SubnetConfig::full(self.prepared.model()).named(&self.prepared.name)
    }

    fn limit<'a>(&'a self, objective: LatencyObjective, level: f64) -> anyhow::Result<Limit<'a>> {
        let mut limit = Limit {
            table: self.table,
            workload: &self.workload,
            objective,
            least_us: 0.0,
        };
        let full_us = limit.latency_us(&self.full());
        limit.least_us = level * full_us.context("the table does not cover the full model")?;
        Ok(limit)
    }

    /// `[base, score]` are the full model's and its own log-perplexity.
    fn contender(
        &self,
        limit: &Limit<'_>,
        level: f64,
        (method, is_refitted): (Method, bool),
        subnet: SubnetConfig,
        [base, score]: [f64; 2],
    ) -> anyhow::Result<Contender> {
        let prediction = self.table.predict(&subnet, &self.workload)?;
        Ok(Contender {
            objective: limit.objective,
            level,
            method,
            is_refitted,
            is_corrected: false,
            subnet,
            ttft_us: prediction.ttft_us,
            tpot_us: prediction.tpot_us,
            latency_us: limit.objective.of(&prediction),
            perplexity: score.exp(),
            log_perplexity_increase: score - base,
            accuracy: None,
            shallower: Vec::new(),
            measured: None,
            healed: None,
        })
    }
}
