//! The search against structural pruning, at equal predicted latency and on the same text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{SubnetConfig, Workload};
use lathe_export::export_onnx;
use lathe_fetch::Cache;
use lathe_latency::LatencyTable;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::{AgentCommand, NetworkLatency, measure_networks};
use lathe_search::{Evaluation, pareto_front};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{
    Accuracy, Evaluator, Question, QuestionSet, Recovery, Split, Supernet, TokenWindows,
    perplexity, standardized_fluctuations,
};
use serde::{Deserialize, Serialize};

use crate::artefact::{cached, write_json};
use crate::baseline::{
    Baseline, Flap, Greedy, Limit, by_influence, dropped, uniform_shapes, without,
};
use crate::search::SeededSearch;
use crate::{
    BlockScores, LatencyObjective, MmluForm, Prepared, Progress, SubnetProblem, additive_genomes,
    mmlu,
};

/// Population of the search.
const POPULATION: usize = 24;
/// Layers that Minitron's shapes have lost, fewest block influence first.
const MINITRON_DEPTHS: [usize; 3] = [0, 3, 6];

/// What to compare, and with what effort.
pub struct Comparison<'a> {
    /// The model, its units ordered and recovered as the search is to have them.
    pub prepared: &'a Prepared,
    /// Where fetched things lie.
    pub cache: &'a Cache,
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
    /// Evaluations of each search.
    pub evaluations: usize,
    /// Tokens of each evaluation, and of every choice that a baseline makes.
    pub search_tokens: usize,
    /// Tokens of each block score.
    pub block_tokens: usize,
    /// Tokens of the reported perplexities.
    pub test_tokens: usize,
    /// MMLU questions that the winners answer.
    pub questions: usize,
    /// Rounds over the winners.
    pub network_rounds: usize,
    /// Seed of the search.
    pub seed: u64,
    /// Where everything goes; what is there already is not made again.
    pub folder: &'a Path,
}

/// One network at one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// Which latency it was pruned for.
    pub objective: LatencyObjective,
    /// Share of the full model's predicted latency.
    pub level: f64,
    /// The method; `None` for the search.
    pub baseline: Option<Baseline>,
    /// Whether the least-squares refit stands for what was removed.
    pub is_refitted: bool,
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
    /// Right answers, of the winners.
    pub accuracy: Option<Accuracy>,
    /// Measured latencies, of the winners.
    pub measured: Option<NetworkLatency>,
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
    /// Right answers of the full model.
    pub accuracy: Option<Accuracy>,
    /// Predicted time to first token and time per output token of the full model.
    pub predicted_us: [f64; 2],
    /// All networks, by objective, level and method.
    pub contenders: Vec<Contender>,
}

impl Contender {
    /// What it is called in a table.
    pub fn name(&self) -> String {
        match (self.baseline, self.is_refitted) {
            (None, _) => "Lathe".to_owned(),
            (Some(baseline), false) => baseline.name().to_owned(),
            (Some(baseline), true) => format!("{} + refit", baseline.name()),
        }
    }
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
        all.filter(|c| c.baseline.is_some() && c.is_refitted == is_refitted)
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
        let test = self.prepared.windows(Split::Test, self.test_tokens)?;
        let key = self.key(&test);
        progress("scoring the full model", 0, 1);
        let full = self.full();
        let supernet = &self.prepared.supernet;
        let base = perplexity(&supernet.cut(&full)?, &test)?.negative_log_likelihood;
        let prediction = self.table.predict(&full, &self.workload)?;
        let mut contenders = Vec::new();
        for &objective in &self.objectives {
            let path = self.folder.join(format!("lathe-{}.json", objective.name()));
            contenders.extend(cached(&path, &key, || {
                self.search(objective, base, &test, progress)
            })?);
        }
        for baseline in Baseline::ALL {
            let name = format!("baseline-{}.json", slug(baseline.name()));
            contenders.extend(cached(&self.folder.join(name), &key, || {
                self.baseline(baseline, base, &test, progress)
            })?);
        }
        let place = |c: &Contender| self.objectives.iter().position(|o| *o == c.objective);
        contenders.sort_by(|a, b| {
            let levels = b.level.total_cmp(&a.level);
            let scores = a.perplexity.total_cmp(&b.perplexity);
            place(a).cmp(&place(b)).then(levels).then(scores)
        });
        let mut compared = Compared {
            model: self.prepared.name.clone(),
            workload: self.workload,
            perplexity: base.exp(),
            accuracy: None,
            predicted_us: [prediction.ttft_us, prediction.tpot_us],
            contenders,
        };
        self.answer(&mut compared, &key, progress)?;
        self.measure(&mut compared, &key, progress)?;
        write_json(&self.folder.join("comparison.json"), &compared)?;
        Ok(compared)
    }

    /// What finished steps rest on: with anything else they are made anew.
    fn key(&self, test: &TokenWindows) -> String {
        format!(
            "{} {:016x} {:?} {} {:?} {:?} {} {} {} {} {} {} {:?}",
            self.prepared.name,
            self.prepared.supernet.digest(),
            test.first(16),
            self.workload,
            self.objectives,
            self.levels,
            self.evaluations,
            self.search_tokens,
            self.block_tokens,
            self.test_tokens,
            self.questions,
            self.seed,
            self.table.protocol,
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

    /// The search's best at every level of one objective.
    fn search(
        &self,
        objective: LatencyObjective,
        base: f64,
        test: &TokenWindows,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Contender>> {
        let supernet = &self.prepared.supernet;
        let windows = self.prepared.windows(Split::Search, self.block_tokens)?;
        let blocks = Evaluator::new(supernet, &windows)?;
        let windows = self.prepared.windows(Split::Search, self.search_tokens)?;
        let evaluator = Evaluator::new(supernet, &windows)?;
        let space = &self.prepared.space;
        let (table, workload) = (self.table, self.workload);
        // Losses of single blocks have nothing to do with latency: both objectives share them.
        let tpot = LatencyObjective::Tpot;
        let scored = SubnetProblem::new(&blocks, space, table, workload, tpot)?;
        let path = self.folder.join("blocks.db");
        let scores = BlockScores::measure(&scored, &blocks, &path, progress)?;
        let mut problem = SubnetProblem::new(&evaluator, space, table, workload, objective)?;
        let label = format!("searching for {}", objective.name());
        let search = SeededSearch {
            study: &self.folder.join(format!("search-{}.db", objective.name())),
            population: POPULATION,
            evaluations: self.evaluations,
            seed: self.seed,
        };
        let recommended = additive_genomes(&problem, &scores)?;
        let evaluations = search.run(&mut problem, &recommended, &label, progress)?;
        let front = pareto_front(&evaluations);
        let mut contenders = Vec::new();
        for &level in &self.levels {
            let limit = self.limit(objective, level)?;
            let fast = |e: &&Evaluation| e.objectives[0] <= limit.least_us;
            let best = front.iter().filter(fast);
            let best = best.min_by(|a, b| a.objectives[1].total_cmp(&b.objectives[1]));
            let best = best.with_context(|| {
                format!("the search found nothing at {level} of the full model's latency: give it more --evaluations")
            })?;
            let subnet = space.decode(&best.genome)?;
            let score = perplexity(&supernet.cut(&subnet)?, test)?.negative_log_likelihood;
            let method = (None, self.prepared.recovery() == Recovery::LeastSquares);
            contenders.push(self.contender(&limit, level, method, subnet, [base, score])?);
        }
        Ok(contenders)
    }

    /// One method at every level of every objective, as published and refitted.
    fn baseline(
        &self,
        baseline: Baseline,
        base: f64,
        test: &TokenWindows,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Contender>> {
        let windows = self.prepared.windows(Split::Search, self.search_tokens)?;
        let calibration_text = self
            .prepared
            .windows(Split::Calibration, self.block_tokens)?;
        let mut contenders = Vec::new();
        let mut removal = None;
        for recovery in [baseline.recovery(), Recovery::LeastSquares] {
            let is_refitted = recovery == Recovery::LeastSquares;
            let label = format!(
                "{}{}",
                baseline.name(),
                if is_refitted { " + refit" } else { "" }
            );
            let total = self.objectives.len() * self.levels.len();
            progress(&label, 0, total);
            let supernet = self.prepared.reordered(baseline.importance(), recovery)?;
            if removal.is_none() {
                removal = Some(self.removal(baseline, &supernet, &calibration_text, progress)?);
            }
            let structure = removal.as_ref().context("it was just made")?;
            let mut known = HashMap::new();
            for &objective in &self.objectives {
                for &level in &self.levels {
                    let limit = self.limit(objective, level)?;
                    let subnets = structure.candidates(&self.full(), &limit);
                    let Some(subnet) = best(&supernet, subnets, &windows)? else {
                        continue;
                    };
                    let score = match known.get(&subnet) {
                        Some(score) => *score,
                        None => perplexity(&supernet.cut(&subnet)?, test)?.negative_log_likelihood,
                    };
                    known.insert(subnet.clone(), score);
                    let method = (Some(baseline), is_refitted);
                    let scores = [base, score];
                    contenders.push(self.contender(&limit, level, method, subnet, scores)?);
                    progress(&label, known.len().min(total), total);
                }
            }
        }
        Ok(contenders)
    }

    /// What a method needs to know of the model before it meets a limit.
    fn removal(
        &self,
        baseline: Baseline,
        supernet: &Supernet,
        text: &TokenWindows,
        progress: Progress<'_>,
    ) -> anyhow::Result<Removal> {
        let order = || anyhow::Ok(by_influence(&self.prepared.calibration()?));
        Ok(match baseline {
            Baseline::UniformMagnitude | Baseline::UniformWanda | Baseline::UniformTaylor => {
                Removal::Uniform
            }
            Baseline::Minitron => Removal::Shapes(order()?),
            Baseline::ShortGpt => Removal::Layers(order()?),
            Baseline::Flap => {
                let checkpoint = Checkpoint::load(self.prepared.checkpoint())?;
                let (model, weights) = (&checkpoint.config, &checkpoint.weights);
                let calibration = self.prepared.calibration()?;
                Removal::Threshold(Flap(standardized_fluctuations(
                    model,
                    weights,
                    &calibration,
                )?))
            }
            Baseline::Sleb => {
                let lowest = self.levels.iter().copied().fold(1.0, f64::min);
                let full = self.full();
                let evaluator = Evaluator::new(supernet, text)?;
                let greedy = Greedy {
                    evaluator: &evaluator,
                    full: &full,
                };
                let limits = self.objectives.iter().map(|o| self.limit(*o, lowest));
                let limits: Vec<Limit<'_>> = limits.collect::<anyhow::Result<_>>()?;
                let removed = greedy.order(
                    |subnet| limits.iter().any(|limit| limit.is_met(subnet)),
                    |layers| progress("SLEB, layer by layer", layers, full.layers.len()),
                )?;
                Removal::Layers(removed)
            }
        })
    }

    /// `[base, score]` are the full model's and its own log-perplexity.
    fn contender(
        &self,
        limit: &Limit<'_>,
        level: f64,
        (baseline, is_refitted): (Option<Baseline>, bool),
        subnet: SubnetConfig,
        [base, score]: [f64; 2],
    ) -> anyhow::Result<Contender> {
        let prediction = self.table.predict(&subnet, &self.workload)?;
        Ok(Contender {
            objective: limit.objective,
            level,
            baseline,
            is_refitted,
            subnet,
            ttft_us: prediction.ttft_us,
            tpot_us: prediction.tpot_us,
            latency_us: limit.objective.of(&prediction),
            perplexity: score.exp(),
            log_perplexity_increase: score - base,
            accuracy: None,
            measured: None,
        })
    }

    /// The winners of a level: the search and the best baseline, as published and refitted.
    fn winners(compared: &Compared, objective: LatencyObjective, level: f64) -> Vec<usize> {
        let best = [false, true].map(|refit| compared.best_baseline(objective, level, refit));
        let is_winner = |c: &Contender| {
            c.objective == objective
                && c.level == level
                && (c.baseline.is_none() || best.contains(&Some(c)))
        };
        let all = compared.contenders.iter().enumerate();
        all.filter(|(_, c)| is_winner(c)).map(|(i, _)| i).collect()
    }

    /// The super-network of a contender.
    fn supernet_of(&self, contender: &Contender) -> anyhow::Result<Option<Supernet>> {
        let Some(baseline) = contender.baseline else {
            return Ok(None);
        };
        let recovery = match contender.is_refitted {
            true => Recovery::LeastSquares,
            false => baseline.recovery(),
        };
        Ok(Some(
            self.prepared.reordered(baseline.importance(), recovery)?,
        ))
    }

    /// Has the full model and the winners answer questions.
    fn answer(
        &self,
        compared: &mut Compared,
        key: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        if self.questions == 0 {
            return Ok(());
        }
        let sample = Question::sample(&mmlu(self.cache, MmluForm::Cloze)?, self.questions);
        let context = self.prepared.model().max_position_embeddings;
        let set = QuestionSet::new(&sample, &self.prepared.tokenizer, context)?;
        let levels = self.levels.len() * self.objectives.len();
        let path = |name: &str| self.folder.join(format!("answers-{name}.json"));
        let full = self.prepared.supernet.full();
        compared.accuracy = Some(cached(&path("full"), key, || {
            progress("answering questions", 0, levels + 1);
            Ok(set.score(&full, |_, _| {})?.all)
        })?);
        let mut done = 1;
        for &objective in &self.objectives {
            for &level in &self.levels {
                progress("answering questions", done, levels + 1);
                let winners = Self::winners(compared, objective, level);
                let name = format!("{}-{level}", objective.name());
                let accuracies: Vec<Accuracy> = cached(&path(&name), key, || {
                    let score = |index: &usize| -> anyhow::Result<Accuracy> {
                        let contender = &compared.contenders[*index];
                        let own = self.supernet_of(contender)?;
                        let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
                        let cut = supernet.cut(&contender.subnet)?;
                        Ok(set.score(&cut, |_, _| {})?.all)
                    };
                    winners.iter().map(score).collect()
                })?;
                for (winner, accuracy) in winners.into_iter().zip(accuracies) {
                    compared.contenders[winner].accuracy = Some(accuracy);
                }
                done += 1;
            }
        }
        Ok(())
    }

    /// Measures the winners of each level beside the full model.
    fn measure(
        &self,
        compared: &mut Compared,
        key: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        let Some(agent) = self.agent else {
            return Ok(());
        };
        let levels = self.levels.len() * self.objectives.len();
        let mut done = 0;
        for &objective in &self.objectives {
            for &level in &self.levels {
                progress("measuring the winners", done, levels);
                let winners = Self::winners(compared, objective, level);
                let path = format!("measured-{}-{level}.json", objective.name());
                let measured: Vec<NetworkLatency> = cached(&self.folder.join(path), key, || {
                    self.measure_level(agent, compared, &winners)
                })?;
                for (winner, latency) in winners.into_iter().zip(measured.into_iter().skip(1)) {
                    compared.contenders[winner].measured = Some(latency);
                }
                done += 1;
            }
        }
        Ok(())
    }

    /// Latencies of the full model and the winners, in one session.
    fn measure_level(
        &self,
        agent: &AgentCommand,
        compared: &Compared,
        winners: &[usize],
    ) -> anyhow::Result<Vec<NetworkLatency>> {
        let folder = tempfile::tempdir_in(self.folder)?;
        let export =
            |name: String, supernet: &Supernet, subnet: &SubnetConfig| -> anyhow::Result<PathBuf> {
                let path = folder.path().join(name);
                export_onnx(&path, &supernet.cut(subnet)?, None, LogitRows::Last)?;
                Ok(path.join(MODEL_FILE))
            };
        let supernet = &self.prepared.supernet;
        let mut models = vec![export("full".to_owned(), supernet, &self.full())?];
        for &winner in winners {
            let contender = &compared.contenders[winner];
            // Weights do not matter to the clock, biases do: each is exported as it is scored.
            let own = self.supernet_of(contender)?;
            let supernet = own.as_ref().unwrap_or(supernet);
            models.push(export(winner.to_string(), supernet, &contender.subnet)?);
        }
        Ok(measure_networks(
            agent,
            &models,
            &self.workload,
            self.table.runtime.threads,
            self.prepared.model().vocab_size,
            self.network_rounds,
            |_, _| {},
        )?)
    }
}

/// How a method comes to a structure.
enum Removal {
    /// The same width in every layer.
    Uniform,
    /// The same, also after some layers were removed in this order.
    Shapes(Vec<usize>),
    /// Whole layers in this order.
    Layers(Vec<usize>),
    /// A threshold for all layers.
    Threshold(Flap),
}

impl Removal {
    fn candidates(&self, full: &SubnetConfig, limit: &Limit<'_>) -> Vec<SubnetConfig> {
        match self {
            Removal::Uniform => uniform_shapes(std::slice::from_ref(full), limit),
            Removal::Shapes(order) => {
                let bases = MINITRON_DEPTHS
                    .iter()
                    .filter_map(|depth| Some(without(full, order.get(..*depth)?)));
                uniform_shapes(&bases.collect::<Vec<_>>(), limit)
            }
            Removal::Layers(order) => vec![dropped(full, order, limit)],
            Removal::Threshold(flap) => flap.subnet(full, limit).into_iter().collect(),
        }
    }
}

/// The candidate of lowest perplexity; it is not scored when there is but one.
fn best(
    supernet: &Supernet,
    mut candidates: Vec<SubnetConfig>,
    windows: &TokenWindows,
) -> anyhow::Result<Option<SubnetConfig>> {
    if candidates.len() < 2 {
        return Ok(candidates.pop());
    }
    let mut best: Option<(f64, SubnetConfig)> = None;
    for candidate in candidates {
        let score = perplexity(&supernet.cut(&candidate)?, windows)?.negative_log_likelihood;
        if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
            best = Some((score, candidate));
        }
    }
    Ok(best.map(|(_, subnet)| subnet))
}

fn slug(name: &str) -> String {
    let letters = name.chars().filter(|c| *c != ',');
    letters
        .map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}
