//! The whole job: profile, search, export, measure, validate, report.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{ModelConfig, Precision, SubnetConfig, Workload};
use lathe_export::export_onnx;
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::{
    AgentCommand, NetworkLatency, ProfilePlan, ProfileRequest, measure_networks, profile,
};
use lathe_search::{Evaluation, Problem, Study, pareto_front};
use lathe_supernet::{
    Importance, Recovery, Split, Subnet, TokenWindows, perplexity, perplexity_and_kl,
};
use serde::{Deserialize, Serialize};

use crate::additive::shares_near;
use crate::artefact::{cached, write_json, write_yaml};
use crate::search::KeptSearch;
use crate::{
    BlockScores, LatencyObjective, Loss, Preparation, Prepared, Progress, StudyReport,
    SubnetProblem, UniformPruning, Validation, ValidationPlan, load_text, uniform_prunings,
};

/// Seconds that a profile may take over those for its blocks.
const LIMIT_SHARE: f64 = 2.5;
/// Seed of the search.
const SEED: u64 = 1;
/// Tries to find networks whose measured, not only predicted, latencies are what they should be.
const MEASURED_TRIES: usize = 4;
/// The measured ratio may be this much above the one asked for before another is chosen: two
/// measurements of the same pair differ by as much.
const RATIO_TOLERANCE: f64 = 1.025;
/// Folders of the final networks.
const BASE: &str = "base";
const CHOSEN: &str = "chosen";
const UNIFORM: &str = "uniform";

/// How much is measured and evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Seconds of measuring blocks.
    pub profile_s: u32,
    /// Whole networks that calibrate the table.
    pub networks: usize,
    /// Tokens of the calibration.
    pub calibration_tokens: usize,
    /// Tokens of each block score.
    pub block_tokens: usize,
    /// Tokens of each evaluation in the search.
    pub search_tokens: usize,
    /// Evaluations of the search.
    pub evaluations: usize,
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
    /// Ten to thirty minutes on two processors, by their speed.
    pub fn standard() -> Self {
        Self {
            profile_s: 75,
            networks: 8,
            calibration_tokens: 32768,
            block_tokens: 512,
            search_tokens: 2048,
            evaluations: 72,
            test_tokens: 8192,
            network_rounds: 3,
            validation_subnets: 8,
            validation_rounds: 2,
        }
    }

    /// Less than half of that: wider intervals, fewer evaluations.
    pub fn quick() -> Self {
        Self {
            profile_s: 20,
            networks: 5,
            calibration_tokens: 8192,
            block_tokens: 256,
            search_tokens: 1024,
            evaluations: 36,
            test_tokens: 4096,
            network_rounds: 2,
            validation_subnets: 5,
            validation_rounds: 1,
        }
    }
}

/// What to do it with.
pub struct Quickstart<'a> {
    /// The model.
    pub model: &'a ModelSpec,
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
    /// The chosen sub-network's measured time per output token over the full model's, at most.
    pub tpot_ratio: f64,
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
    /// KL divergence from the full model on the text of the search, in nats. Where drift is
    /// corrected, that of the search's own evaluations is higher.
    pub search_kl_divergence: f64,
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
    anyhow::ensure!(
        job.tpot_ratio > 0.0 && job.tpot_ratio <= 1.0,
        "--tpot-ratio is {}, expected more than 0 and at most 1",
        job.tpot_ratio
    );
    std::fs::create_dir_all(job.folder).with_context(|| job.folder.display().to_string())?;
    let text = load_text(job.cache, job.text)?;
    let preparation = Preparation {
        calibration_tokens: job.effort.calibration_tokens,
        importance: Importance::Reconstruction,
        recovery: Recovery::LeastSquares,
        adapter: None,
    };
    let prepared = Prepared::new(job.model, job.cache, text, &preparation, progress)?;
    let table = profile_step(job, &prepared, progress)?;
    let windows = prepared.windows(Split::Search, job.effort.search_tokens)?;
    progress("running the full model on the search text", 0, 1);
    let loss = Loss::new(&prepared, &windows, None)?;
    let mut problem = SubnetProblem::new(
        &loss,
        &prepared.space,
        &table,
        job.workload,
        LatencyObjective::Tpot,
    )?;
    let key = format!(
        "{} {:?} {}",
        problem.fingerprint(),
        job.effort,
        job.tpot_ratio
    );
    let scores = block_step(job, &prepared, &problem, progress)?;
    let search = KeptSearch {
        study: &study_path(job),
        wanted: shares_near(job.tpot_ratio, &prepared.space),
        evaluations: job.effort.evaluations,
        seed: SEED,
    };
    let evaluations = search.run(&mut problem, &scores, "searching", progress)?;
    let front = pareto_front(&evaluations);
    problem.front(&front)?.write(job.folder)?;
    let final_step = FinalStep {
        job,
        prepared: &prepared,
        table: &table,
        problem: &problem,
        front: &front,
        test: prepared.windows(Split::Test, job.effort.test_tokens)?,
        search: windows,
    };
    let [base, chosen, uniform] = cached(&job.folder.join("networks.json"), &key, || {
        final_step.compare(progress)
    })?;
    write_yaml(&job.folder.join("chosen.yaml"), &chosen.subnet)?;
    let validation = cached(&job.folder.join("validation.json"), &key, || {
        let validation = ValidationPlan {
            agent: job.agent,
            table: &table,
            workload: job.workload,
            precisions: vec![Precision::F32],
            subnets: job.effort.validation_subnets,
            rounds: job.effort.validation_rounds,
            seed: SEED,
            is_compared: false,
            work: &job.folder.join("held-out"),
        };
        validation.run(progress)
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
        trainings: &[],
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
    let mut prompts = vec![32, 128, job.workload.prompt_tokens];
    prompts.sort_unstable();
    prompts.dedup();
    let plan = ProfilePlan {
        prompts,
        depths: vec![0, 256, 1024],
        batches: vec![job.workload.batch],
        budget_s: f64::from(job.effort.profile_s),
        limit_s: LIMIT_SHARE * f64::from(job.effort.profile_s),
        networks: job.effort.networks,
        workload: job.workload,
        ..ProfilePlan::quick(prepared.space.shapes())
    };
    let plan = plan.within(prepared.model());
    let request = ProfileRequest {
        agent: job.agent,
        model_name: &prepared.name,
        model: prepared.model(),
        conditions: &[],
        plan: &plan,
        out: &table_path(job),
        resume: true,
    };
    // With a complete journal this only reads it.
    Ok(profile(&request, |share, _| {
        progress("profiling", (1000.0 * share) as usize, 1000)
    })?)
}

/// What every block loses alone.
fn block_step(
    job: &Quickstart<'_>,
    prepared: &Prepared,
    problem: &SubnetProblem<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<BlockScores> {
    let windows = prepared.windows(Split::Search, job.effort.block_tokens)?;
    let loss = Loss::new(prepared, &windows, None)?;
    let study = job.folder.join("blocks.db");
    BlockScores::measure(problem, &loss, &study, progress)
}

/// The front's best sub-network that is predicted to be fast enough.
fn choose(
    problem: &SubnetProblem<'_>,
    front: &[Evaluation],
    tpot_ratio: f64,
) -> anyhow::Result<SubnetConfig> {
    let [_, full_tpot_us] = problem.ttft_and_tpot_us(&problem.search_space().full_genome());
    let limit = tpot_ratio * full_tpot_us;
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
    problem: &'a SubnetProblem<'a>,
    front: &'a [Evaluation],
    test: TokenWindows,
    search: TokenWindows,
}

/// A network in its folder, and what it is worth.
struct Finished {
    label: String,
    subnet: SubnetConfig,
    perplexity: f64,
    search_kl_divergence: f64,
}

impl FinalStep<'_> {
    fn model(&self) -> &ModelConfig {
        self.prepared.model()
    }

    fn compare(&self, progress: Progress<'_>) -> anyhow::Result<[SummaryNetwork; 3]> {
        let full = SubnetConfig::full(self.model()).named(&self.prepared.name);
        let base = self.finish(BASE, "full model".to_owned(), &full, progress)?;
        let mut predicted_ratio = self.job.tpot_ratio;
        let mut last = None;
        for _ in 0..MEASURED_TRIES {
            let Some(chosen) = self.fast_enough(predicted_ratio, progress)? else {
                break;
            };
            let compared = self.against_uniform(&base, &chosen, progress)?;
            let [base_us, chosen_us, _] = compared.each_ref().map(|n| n.measured.tpot.median_us);
            let measured = chosen_us / base_us;
            last = Some(compared);
            if measured <= RATIO_TOLERANCE * self.job.tpot_ratio {
                break;
            }
            // The final measurement disagrees with the one before it: take a faster one.
            predicted_ratio *= self.job.tpot_ratio / measured;
        }
        last.with_context(|| {
            let ratio = self.job.tpot_ratio;
            format!("the search found no sub-network predicted below {ratio} of the full model's time per token: give it more --evaluations")
        })
    }

    /// The best of the front that is not only predicted but measured to be fast enough. Where
    /// prediction and measurement differ, faster ones are tried; `None` when no sub-network of the
    /// front is predicted to be fast enough.
    fn fast_enough(
        &self,
        predicted_ratio: f64,
        progress: Progress<'_>,
    ) -> anyhow::Result<Option<SubnetConfig>> {
        let mut ratio = predicted_ratio;
        let mut tried = None;
        for _ in 0..MEASURED_TRIES {
            // With nothing faster left, the fastest there was has to do.
            let Ok(chosen) = choose(self.problem, self.front, ratio) else {
                break;
            };
            progress("exporting", 0, 1);
            // The clock does not tell weights from corrected ones.
            self.export(CHOSEN, &self.prepared.supernet.cut(&chosen)?)?;
            let measured = self.measure_folders(&[BASE, CHOSEN], progress)?;
            let measured = measured[1].tpot.median_us / measured[0].tpot.median_us;
            if measured <= self.job.tpot_ratio {
                return Ok(Some(chosen));
            }
            ratio *= 0.995 * self.job.tpot_ratio / measured;
            tried = Some(chosen);
        }
        Ok(tried)
    }

    /// The final measurement: full model, chosen sub-network and the best uniform pruning, in the
    /// same rounds. It is repeated with a wider uniform pruning when that was measured faster
    /// than the chosen sub-network; the last measurement counts, whatever it says.
    fn against_uniform(
        &self,
        base: &Finished,
        chosen: &SubnetConfig,
        progress: Progress<'_>,
    ) -> anyhow::Result<[SummaryNetwork; 3]> {
        let mut limit_us = self.table.predict(chosen, &self.job.workload)?.tpot_us;
        let chosen = self.finish(CHOSEN, "chosen sub-network".to_owned(), chosen, progress)?;
        let best = self.best_uniform(limit_us, progress)?;
        let kv_heads = best.kv_heads;
        let mut uniform = self.finish_uniform(&best, progress)?;
        let mut measured = self.measure_folders(&[BASE, CHOSEN, UNIFORM], progress)?;
        for _ in 1..MEASURED_TRIES {
            let tpot_us = |index: usize| measured[index].tpot.median_us;
            let (chosen_us, uniform_us) = (tpot_us(1), tpot_us(2));
            if uniform_us >= chosen_us {
                break;
            }
            limit_us *= 1.01 * chosen_us / uniform_us;
            let mut candidates = self.uniform_candidates(limit_us).into_iter();
            let same = candidates.find(|other| other.kv_heads == kv_heads);
            let Some(wider) = same else { break };
            uniform = self.finish_uniform(&wider, progress)?;
            measured = self.measure_folders(&[BASE, CHOSEN, UNIFORM], progress)?;
        }
        self.summarise([base, &chosen, &uniform], measured)
    }

    fn uniform_candidates(&self, limit_us: f64) -> Vec<UniformPruning> {
        uniform_prunings(self.model(), self.table, &self.job.workload, limit_us)
    }

    fn measure_folders(
        &self,
        folders: &[&str],
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<NetworkLatency>> {
        let model = |folder: &&str| self.job.folder.join(folder).join(MODEL_FILE);
        let models: Vec<PathBuf> = folders.iter().map(model).collect();
        Ok(measure_networks(
            self.job.agent,
            &models,
            &self.job.workload,
            self.table.runtime.threads,
            self.model().vocab_size,
            self.job.effort.network_rounds,
            |done, total| progress("measuring the final networks", done, total),
        )?)
    }

    /// The uniform pruning of lowest perplexity among those predicted at least as slow.
    fn best_uniform(
        &self,
        limit_us: f64,
        progress: Progress<'_>,
    ) -> anyhow::Result<UniformPruning> {
        progress("scoring uniform prunings", 0, 1);
        let mut best: Option<(f64, UniformPruning)> = None;
        for candidate in self.uniform_candidates(limit_us) {
            let cut = self.prepared.supernet.cut(&candidate.subnet)?;
            let score = perplexity(&cut, &self.test)?.perplexity();
            if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
                best = Some((score, candidate));
            }
        }
        let (_, best) = best.with_context(|| {
            format!("no uniform pruning is as slow as {limit_us:.0} us per token")
        })?;
        Ok(best)
    }

    fn finish_uniform(
        &self,
        uniform: &UniformPruning,
        progress: Progress<'_>,
    ) -> anyhow::Result<Finished> {
        let label = format!(
            "uniform pruning, {} KV heads, width {}",
            uniform.kv_heads, uniform.intermediate_size
        );
        self.finish(UNIFORM, label, &uniform.subnet, progress)
    }

    /// Corrects a network, exports and scores it.
    fn finish(
        &self,
        folder: &str,
        label: String,
        subnet: &SubnetConfig,
        progress: Progress<'_>,
    ) -> anyhow::Result<Finished> {
        let cut = self.prepared.cut(subnet, progress)?;
        progress("exporting", 0, 1);
        self.export(folder, &cut)?;
        progress("scoring on the test text", 0, 1);
        let divergence = perplexity_and_kl(&cut, &self.search)?.kl_divergence;
        Ok(Finished {
            label,
            subnet: subnet.clone(),
            perplexity: perplexity(&cut, &self.test)?.perplexity(),
            search_kl_divergence: divergence.context("it was asked for")?,
        })
    }

    fn export(&self, folder: &str, subnet: &Subnet<'_>) -> anyhow::Result<()> {
        let folder = self.job.folder.join(folder);
        let tokenizer = Some(&self.prepared.tokenizer);
        export_onnx(&folder, subnet, tokenizer, LogitRows::Last)?;
        Ok(())
    }

    fn summarise(
        &self,
        networks: [&Finished; 3],
        measured: Vec<NetworkLatency>,
    ) -> anyhow::Result<[SummaryNetwork; 3]> {
        let mut summaries = Vec::new();
        for (network, measured) in networks.into_iter().zip(measured) {
            let prediction = self.table.predict(&network.subnet, &self.job.workload)?;
            summaries.push(SummaryNetwork {
                label: network.label.clone(),
                subnet: network.subnet.clone(),
                parameters: network.subnet.parameters(self.model()),
                predicted_tpot_us: prediction.tpot_us,
                measured,
                perplexity: network.perplexity,
                search_kl_divergence: network.search_kl_divergence,
            });
        }
        let summaries: Result<[SummaryNetwork; 3], _> = summaries.try_into();
        summaries.map_err(|_| anyhow::anyhow!("three networks were measured"))
    }
}
