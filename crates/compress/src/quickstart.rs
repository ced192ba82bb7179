//! The whole job: profile, search, export, measure, validate, report.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{ModelConfig, SubnetConfig, Workload};
use lathe_export::export_onnx;
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::{
    AgentCommand, DeviceSpec, NetworkLatency, ProfilePlan, ProfileRequest, last_level_cache_bytes,
    measure_networks, profile,
};
use lathe_search::{
    Evaluation, NsgaII, NsgaOptions, Problem, Study, StudyHeader, pareto_front, run,
};
use lathe_supernet::{Evaluator, Split};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::artefact::{write_json, write_yaml};
use crate::{
    LatencyObjective, Prepared, Progress, StudyReport, SubnetProblem, UniformPruning, Validation,
    first_genomes, load_text, uniform_prunings, validate, write_front,
};

/// Seed of the search.
const SEED: u64 = 1;
/// The chosen sub-network's predicted time per output token over the full model's, at most.
const TARGET_TPOT_RATIO: f64 = 0.76;
/// Tries to find a uniform pruning that is measured no faster than the chosen sub-network.
const BASELINE_TRIES: usize = 4;

/// How much is measured and evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Prompt lengths profiled.
    pub prompts: Vec<usize>,
    /// Past lengths profiled.
    pub depths: Vec<usize>,
    /// Rounds over all blocks.
    pub profile_rounds: usize,
    /// Decode runs of a visit.
    pub profile_runs: u32,
    /// Tokens of the calibration.
    pub calibration_tokens: usize,
    /// Tokens of each evaluation in the search.
    pub search_tokens: usize,
    /// Evaluations of the search.
    pub evaluations: usize,
    /// Population of the search.
    pub population: usize,
    /// Tokens of the reported perplexities.
    pub test_tokens: usize,
    /// Rounds over the final networks.
    pub network_rounds: usize,
    /// Held-out sub-networks.
    pub validation_subnets: usize,
    /// Rounds over them.
    pub validation_rounds: usize,
}

impl Effort {
    /// About ten minutes on two processors.
    pub fn standard() -> Self {
        Self {
            prompts: vec![32, 128, 512],
            depths: vec![0, 256, 1024],
            profile_rounds: 4,
            profile_runs: 9,
            calibration_tokens: 8192,
            search_tokens: 2048,
            evaluations: 110,
            population: 24,
            test_tokens: 8192,
            network_rounds: 5,
            validation_subnets: 12,
            validation_rounds: 2,
        }
    }

    /// A few minutes on two processors: wider intervals, fewer evaluations.
    pub fn quick() -> Self {
        Self {
            prompts: vec![32, 128],
            profile_rounds: 2,
            profile_runs: 6,
            calibration_tokens: 4096,
            search_tokens: 1024,
            evaluations: 48,
            population: 16,
            test_tokens: 4096,
            network_rounds: 3,
            validation_subnets: 5,
            validation_rounds: 1,
            ..Self::standard()
        }
    }
}

/// What to do it with.
pub struct Quickstart<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// The device.
    pub device: &'a DeviceSpec,
    /// How to start the agent.
    pub agent: &'a AgentCommand,
    /// Where fetched things lie.
    pub cache: &'a Cache,
    /// Text to use instead of the fetched one.
    pub text: Option<&'a Path>,
    /// Where everything goes.
    pub folder: &'a Path,
    /// What the latencies are for.
    pub workload: Workload,
    /// How much is done.
    pub effort: Effort,
}

/// One network of the summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummaryNetwork {
    /// What it is.
    pub label: String,
    /// Its blocks.
    pub subnet: SubnetConfig,
    /// Its parameters.
    pub parameters: u64,
    /// Predicted time per output token.
    pub predicted_tpot_us: f64,
    /// Measured latencies.
    pub measured: NetworkLatency,
    /// Perplexity on text that neither calibration nor search has seen.
    pub perplexity: f64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The model.
    pub model: String,
    /// The workload.
    pub workload: Workload,
    /// The full model.
    pub base: SummaryNetwork,
    /// The sub-network that was chosen.
    pub chosen: SummaryNetwork,
    /// The best uniform pruning that is measured no faster than the chosen sub-network.
    pub uniform: SummaryNetwork,
    /// Evaluations of the search.
    pub evaluations: usize,
    /// Members of the Pareto front.
    pub front: usize,
    /// How predictions held on held-out sub-networks.
    pub validation: Validation,
    /// The folder of the exported sub-network.
    pub exported: PathBuf,
    /// The latency table.
    pub table: PathBuf,
    /// The report.
    pub report: PathBuf,
}

/// Does the whole job, or what is left of it after an interruption.
///
/// # Errors
/// When a step fails; finished steps are kept and not repeated.
pub fn quickstart(job: &Quickstart<'_>, progress: Progress<'_>) -> anyhow::Result<Summary> {
    std::fs::create_dir_all(job.folder).with_context(|| job.folder.display().to_string())?;
    let text = load_text(job.cache, job.text)?;
    let tokens = job.effort.calibration_tokens;
    let prepared = Prepared::new(job.model, job.cache, text, tokens, job.folder, progress)?;
    let table = profile_step(job, &prepared, progress)?;
    let windows = prepared.windows(Split::Search, job.effort.search_tokens)?;
    progress("running the full model on the search text", 0, 1);
    let evaluator = Evaluator::new(&prepared.supernet, &windows)?;
    let mut problem = SubnetProblem::new(
        &evaluator,
        &prepared.space,
        &table,
        job.workload,
        LatencyObjective::Tpot,
    )?;
    let key = format!("{} {:?}", problem.fingerprint(), job.effort);
    let evaluations = search_step(job, &mut problem, progress)?;
    let front = pareto_front(&evaluations);
    write_front(job.folder, &problem, &front)?;
    let chosen = choose(&problem, &front)?;
    write_yaml(&job.folder.join("chosen.yaml"), &chosen)?;
    drop(evaluations);
    let final_step = FinalStep {
        job,
        prepared: &prepared,
        table: &table,
    };
    let [base, chosen, uniform] = cached(&job.folder.join("networks.json"), &key, || {
        final_step.compare(&chosen, progress)
    })?;
    let validation = cached(&job.folder.join("validation.json"), &key, || {
        let effort = &job.effort;
        validate(
            job.agent,
            &table,
            &prepared.space,
            &job.workload,
            effort.validation_subnets,
            effort.validation_rounds,
            SEED,
            &job.folder.join("validation.work"),
            progress,
        )
    })?;
    let summary = Summary {
        model: prepared.name.clone(),
        workload: job.workload,
        base,
        chosen,
        uniform,
        evaluations: job.effort.evaluations,
        front: front.len(),
        validation,
        exported: job.folder.join("chosen"),
        table: table_path(job),
        report: job.folder.join("report.html"),
    };
    write_json(&job.folder.join("summary.json"), &summary)?;
    progress("writing the report", 0, 1);
    let study = Study::open(&study_path(job))?;
    let report = StudyReport {
        table: &table,
        space: &prepared.space,
        study: &study,
        workload: job.workload,
        validation: Some(&summary.validation),
        summary: Some(&summary),
    };
    report.write(&summary.report)?;
    Ok(summary)
}

fn table_path(job: &Quickstart<'_>) -> PathBuf {
    job.folder.join("table.yaml")
}

fn study_path(job: &Quickstart<'_>) -> PathBuf {
    job.folder.join("study.db")
}

fn profile_step(
    job: &Quickstart<'_>,
    prepared: &Prepared,
    progress: Progress<'_>,
) -> anyhow::Result<LatencyTable> {
    let plan = ProfilePlan {
        shapes: prepared.space.shapes(),
        prompts: job.effort.prompts.clone(),
        depths: job.effort.depths.clone(),
        batch: job.workload.batch,
        rounds: job.effort.profile_rounds,
        runs: job.effort.profile_runs,
        seed: SEED,
        last_level_cache_bytes: last_level_cache_bytes(),
    };
    let request = ProfileRequest {
        agent: job.agent,
        device: job.device,
        model_name: &prepared.name,
        model: prepared.model(),
        plan: &plan,
        out: &table_path(job),
        resume: true,
    };
    // With a complete journal this only reads it.
    Ok(profile(&request, |done, total, _| {
        progress("profiling blocks", done, total)
    })?)
}

fn search_step(
    job: &Quickstart<'_>,
    problem: &mut SubnetProblem<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Evaluation>> {
    let calibration = Prepared::calibration(job.folder)?;
    let options = NsgaOptions {
        population: job.effort.population,
        first: first_genomes(problem.search_space(), &calibration),
        ..NsgaOptions::default()
    };
    let mut searcher = NsgaII::new(problem.space(), options, SEED)?;
    let header = StudyHeader::of(problem, &searcher, SEED);
    let mut study = Study::open_or_create(&study_path(job), &header, true)?;
    let budget = job.effort.evaluations;
    progress("searching", 0, budget);
    let on_evaluation = |p: lathe_search::Progress<'_>| progress("searching", p.index + 1, budget);
    Ok(run(
        problem,
        &mut searcher,
        &mut study,
        budget,
        on_evaluation,
    )?)
}

/// The front's best sub-network that is predicted to be fast enough.
fn choose(problem: &SubnetProblem<'_>, front: &[Evaluation]) -> anyhow::Result<SubnetConfig> {
    let [_, full_tpot_us] = problem.ttft_and_tpot_us(&problem.search_space().full_genome());
    let limit = TARGET_TPOT_RATIO * full_tpot_us;
    let fast = front
        .iter()
        .filter(|e| problem.ttft_and_tpot_us(&e.genome)[1] <= limit);
    let best = fast.min_by(|a, b| a.objectives[1].total_cmp(&b.objectives[1]));
    let best = best.with_context(|| {
        format!("the search found no sub-network faster than {limit:.0} us per token: give it more evaluations")
    })?;
    Ok(problem.search_space().decode(&best.genome)?)
}

/// The last comparison: full model, chosen sub-network and uniform pruning, side by side.
struct FinalStep<'a> {
    job: &'a Quickstart<'a>,
    prepared: &'a Prepared,
    table: &'a LatencyTable,
}

impl FinalStep<'_> {
    fn model(&self) -> &ModelConfig {
        self.prepared.model()
    }

    fn compare(
        &self,
        chosen: &SubnetConfig,
        progress: Progress<'_>,
    ) -> anyhow::Result<[SummaryNetwork; 3]> {
        let windows = self
            .prepared
            .windows(Split::Test, self.job.effort.test_tokens)?;
        progress("running the full model on the test text", 0, 1);
        let evaluator = Evaluator::new(&self.prepared.supernet, &windows)?;
        let base = SubnetConfig::full(self.model()).named(&self.prepared.name);
        let perplexity = |subnet: &SubnetConfig| -> anyhow::Result<f64> {
            Ok(evaluator
                .perplexity(&self.prepared.supernet.cut(subnet)?)
                .perplexity())
        };
        for (label, subnet) in [("base", &base), ("chosen", chosen)] {
            progress("exporting", 0, 1);
            self.export(label, subnet)?;
        }
        let mut limit_us = self.table.predict(chosen, &self.job.workload)?.tpot_us;
        for _ in 1..BASELINE_TRIES {
            let uniform = self.best_uniform(limit_us, &perplexity, progress)?;
            let compared = self.measure(&base, chosen, &uniform, &perplexity, progress)?;
            let [_, chosen_us, uniform_us] = compared
                .each_ref()
                .map(|network| network.measured.tpot.median_us);
            if uniform_us >= chosen_us {
                return Ok(compared);
            }
            // The baseline was measured faster: give it as much more as it was short.
            limit_us *= 1.002 * chosen_us / uniform_us;
        }
        let uniform = self.best_uniform(limit_us, &perplexity, progress)?;
        self.measure(&base, chosen, &uniform, &perplexity, progress)
    }

    /// The uniform pruning of lowest perplexity among those predicted at least as slow.
    fn best_uniform(
        &self,
        limit_us: f64,
        perplexity: &dyn Fn(&SubnetConfig) -> anyhow::Result<f64>,
        progress: Progress<'_>,
    ) -> anyhow::Result<UniformPruning> {
        progress("scoring uniform prunings", 0, 1);
        let candidates = uniform_prunings(self.model(), self.table, &self.job.workload, limit_us)?;
        let mut best: Option<(f64, UniformPruning)> = None;
        for candidate in candidates {
            let score = perplexity(&candidate.subnet)?;
            if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
                best = Some((score, candidate));
            }
        }
        let (_, best) = best.context("there is no uniform pruning to compare with")?;
        self.export("uniform", &best.subnet)?;
        Ok(best)
    }

    fn export(&self, label: &str, subnet: &SubnetConfig) -> anyhow::Result<()> {
        let subnet = self.prepared.supernet.cut(subnet)?;
        let folder = self.job.folder.join(label);
        let tokenizer = Some(&self.prepared.tokenizer);
        export_onnx(&folder, &subnet, tokenizer, LogitRows::Last)?;
        Ok(())
    }

    fn measure(
        &self,
        base: &SubnetConfig,
        chosen: &SubnetConfig,
        uniform: &UniformPruning,
        perplexity: &dyn Fn(&SubnetConfig) -> anyhow::Result<f64>,
        progress: Progress<'_>,
    ) -> anyhow::Result<[SummaryNetwork; 3]> {
        let uniform_label = format!(
            "uniform pruning, {} KV heads, width {}",
            uniform.kv_heads, uniform.intermediate_size
        );
        let networks = [
            ("base", "full model".to_owned(), base),
            ("chosen", "chosen sub-network".to_owned(), chosen),
            ("uniform", uniform_label, &uniform.subnet),
        ];
        let models = networks
            .each_ref()
            .map(|(folder, _, _)| self.job.folder.join(folder).join(MODEL_FILE));
        let measured = measure_networks(
            self.job.agent,
            &models,
            &self.job.workload,
            self.table.runtime.threads,
            self.model().vocab_size,
            self.job.effort.network_rounds,
            |done, total, _| progress("measuring the final networks", done, total),
        )?;
        let mut summaries = Vec::new();
        for ((_, label, subnet), measured) in networks.into_iter().zip(measured) {
            progress("scoring on the test text", summaries.len(), 3);
            summaries.push(SummaryNetwork {
                label,
                subnet: subnet.clone(),
                parameters: subnet.parameters(self.model()),
                predicted_tpot_us: self.table.predict(subnet, &self.job.workload)?.tpot_us,
                measured,
                perplexity: perplexity(subnet)?,
            });
        }
        let summaries: Result<[SummaryNetwork; 3], _> = summaries.try_into();
        summaries.map_err(|_| anyhow::anyhow!("three networks were measured"))
    }
}

/// What an earlier run with the same settings left at `path`, or what `make` makes.
fn cached<T: Serialize + DeserializeOwned>(
    path: &Path,
    key: &str,
    make: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    #[derive(Serialize, Deserialize)]
    struct Kept<T> {
        settings: String,
        value: T,
    }
    let kept = std::fs::read(path).ok();
    let kept: Option<Kept<T>> = kept.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.settings == key) {
        return Ok(kept.value);
    }
    let kept = Kept {
        settings: key.to_owned(),
        value: make()?,
    };
    write_json(path, &kept)?;
    Ok(kept.value)
}
