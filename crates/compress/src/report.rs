//! From a study and what lies beside it to a page.

use std::path::Path;

use lathe_arch::{BlockShape, Phase, SearchSpace, SubnetConfig, Workload};
use lathe_latency::{Entry, LatencyTable};
use lathe_report::{
    AttentionShape, Better, CoverageEntry, Fact, LayerShape, MlpShape, Point, Report, SummaryRow,
    Training, Unit, ValidationPoint, ValidationStatistics,
};
use lathe_search::{Evaluation, Study, pareto_front};

use crate::problem::LATENCY;
use crate::quickstart::SummaryNetwork;
use crate::{Objective, PhaseValidation, PrecisionValidation, Summary, Validation};

/// Sub-networks further than this from the full model, in nats, are left out of the picture, where
/// they would only squeeze the rest.
const FURTHEST_SHOWN: f64 = 3.0;

/// What a page is made of.
pub struct StudyReport<'a> {
    /// The prices.
    pub table: &'a LatencyTable,
    /// The choices behind the study's genomes.
    pub space: &'a SearchSpace,
    /// The evaluations.
    pub study: &'a Study,
    /// What the latencies are for.
    pub workload: Workload,
    /// Held-out sub-networks, where they were measured.
    pub validation: Option<&'a Validation>,
    /// The final comparison, where there was one.
    pub summary: Option<&'a Summary>,
    /// Trainings, as [`learning_curves`](crate::learning_curves) reads them.
    pub trainings: &'a [Training],
}

impl StudyReport<'_> {
    /// Writes the page.
    ///
    /// # Errors
    /// When the study does not belong to the space, or the disk does not take the file.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        lathe_report::write(&self.page()?, path)?;
        Ok(())
    }

    fn page(&self) -> anyhow::Result<Report> {
        let objectives = &self.study.header().objectives;
        let shown = [LATENCY, Objective::Kl.field()].map(str::to_owned);
        anyhow::ensure!(
            objectives.starts_with(&shown),
            "the study minimises {}, a report shows {}: search again with another --study",
            objectives.join(" and "),
            shown.join(" and "),
        );
        let model = &self.table.model.dimensions;
        let mut all = self.study.evaluations()?;
        // The page is of two objectives.
        all.iter_mut().for_each(|e| e.objectives.truncate(2));
        let shown: Vec<&Evaluation> = all
            .iter()
            .filter(|e| e.objectives[1] <= FURTHEST_SHOWN)
            .collect();
        let front = pareto_front(&all);
        let is_on_front = |e: &&Evaluation| front.iter().any(|member| member == *e);
        let points = shown
            .iter()
            .enumerate()
            .map(|(index, e)| self.evaluation(index, e));
        let named = |pick: fn(&Summary) -> &SummaryNetwork| self.summary.map(|s| network(pick(s)));
        let device = &self.table.device;
        let runtime = &self.table.runtime;
        Ok(Report {
            title: format!("{} on {}", self.table.model.name, device.name),
            model: self.table.model.name.clone(),
            device: facts(&[
                ("Processor", device.cpu_model.clone()),
                ("Processors", device.cores.to_string()),
                (
                    "Memory",
                    format!(
                        "{:.1} GiB",
                        device.memory_bytes as f64 / (1u64 << 30) as f64
                    ),
                ),
                ("System", format!("{}, kernel {}", device.os, device.kernel)),
            ]),
            runtime: facts(&[
                ("ONNX Runtime", runtime.build.clone()),
                ("Execution provider", runtime.execution_provider.clone()),
                ("Threads", runtime.threads.to_string()),
            ]),
            workload: lathe_report::Workload {
                batch: self.workload.batch as u64,
                prompt_tokens: self.workload.prompt_tokens as u64,
                generated_tokens: self.workload.generated_tokens as u64,
            },
            full_layers: layers(&SubnetConfig::full(model)),
            base: named(|s| &s.base),
            chosen: named(|s| &s.chosen),
            uniform: named(|s| &s.uniform).into_iter().collect(),
            front: (0..shown.len())
                .filter(|i| is_on_front(&shown[*i]))
                .collect(),
            evaluations: points.collect::<anyhow::Result<_>>()?,
            summary: self.summary.map_or_else(Vec::new, summary_rows),
            training: self.trainings.to_vec(),
            validation_notes: self.validation.map_or_else(Vec::new, |v| {
                let elsewhere = |at: &PrecisionValidation| {
                    let elsewhere = at.elsewhere?;
                    Some(format!("Warning: for {}, {elsewhere}.", at.precision))
                };
                v.precisions.iter().filter_map(elsewhere).collect()
            }),
            validation: self.validation.map_or_else(Vec::new, validation_points),
            validation_statistics: self.validation.map_or_else(Vec::new, |v| {
                let both = v.precisions.iter().flat_map(|at| {
                    [
                        statistics(lathe_report::Phase::Prefill, &at.prefill),
                        statistics(lathe_report::Phase::Decode, &at.decode),
                    ]
                });
                both.collect()
            }),
            coverage: self.table.entries.iter().map(coverage).collect(),
        })
    }

    fn evaluation(&self, index: usize, evaluation: &Evaluation) -> anyhow::Result<Point> {
        let subnet = self.space.decode(&evaluation.genome)?;
        Ok(Point {
            label: format!("evaluation {}", index + 1),
            latency_us: evaluation.objectives[0],
            measured_latency_us: None,
            kl_divergence: evaluation.objectives[1],
            parameters: subnet.parameters(&self.table.model.dimensions),
            layers: layers(&subnet),
        })
    }
}

fn facts(pairs: &[(&str, String)]) -> Vec<Fact> {
    let fact = |(name, value): &(&str, String)| Fact {
        name: (*name).to_owned(),
        value: value.clone(),
    };
    pairs.iter().map(fact).collect()
}

fn layers(subnet: &SubnetConfig) -> Vec<LayerShape> {
    let layers = subnet.layers.iter().map(|layer| LayerShape {
        attention: layer.attention.map(|attention| AttentionShape {
            heads: attention.heads,
            kv_heads: attention.kv_heads,
        }),
        mlp: layer.mlp.map(|mlp| MlpShape {
            intermediate_size: mlp.intermediate_size,
        }),
    });
    layers.collect()
}

fn network(network: &SummaryNetwork) -> Point {
    Point {
        label: network.label.clone(),
        latency_us: network.predicted_tpot_us,
        measured_latency_us: Some(network.measured.tpot.median_us),
        // In one picture with the evaluations, so on their text.
        kl_divergence: network.search_kl_divergence,
        parameters: network.parameters,
        layers: layers(&network.subnet),
    }
}

fn summary_rows(summary: &Summary) -> Vec<SummaryRow> {
    let row = |name: &str, unit, value: fn(&SummaryNetwork) -> f64| SummaryRow {
        name: name.to_owned(),
        base: value(&summary.base),
        chosen: value(&summary.chosen),
        unit,
        better: Better::Lower,
    };
    vec![
        row("Time to first token, measured", Unit::Microseconds, |n| {
            n.measured.ttft.median_us
        }),
        row("Time per output token, measured", Unit::Microseconds, |n| {
            n.measured.tpot.median_us
        }),
        row(
            "Time per output token, predicted",
            Unit::Microseconds,
            |n| n.predicted_tpot_us,
        ),
        row("Perplexity on held-out text", Unit::Plain, |n| n.perplexity),
        row("KL divergence on the search's text", Unit::Plain, |n| {
            n.search_kl_divergence
        }),
        row("Parameters", Unit::Count, |n| n.parameters as f64),
    ]
}

fn validation_points(validation: &Validation) -> Vec<ValidationPoint> {
    let phases = validation.precisions.iter().flat_map(|at| {
        [
            (at.precision, lathe_report::Phase::Prefill, &at.prefill),
            (at.precision, lathe_report::Phase::Decode, &at.decode),
        ]
    });
    let points = phases.flat_map(|(precision, phase, values)| {
        let pairs = values
            .comparisons
            .iter()
            .zip(&values.measured_ci95_us)
            .enumerate();
        pairs.map(move |(index, (comparison, ci))| ValidationPoint {
            label: format!("held-out {precision} sub-network {}", index + 1),
            phase,
            predicted_us: comparison.predicted_us,
            measured_us: comparison.measured_us,
            measured_ci95_us: (ci[1] - ci[0]) / 2.0,
        })
    });
    points.collect()
}

fn statistics(phase: lathe_report::Phase, values: &PhaseValidation) -> ValidationStatistics {
    let agreement = &values.agreement;
    ValidationStatistics {
        phase,
        n: agreement.networks,
        mape_percent: 100.0 * agreement.mape,
        bias_percent: 100.0 * agreement.bias,
        share_within_5_percent: agreement.within_5_percent,
        share_within_10_percent: agreement.within_10_percent,
        kendall_tau: Some(agreement.kendall_tau),
        spearman: Some(agreement.spearman),
    }
}

fn coverage(entry: &Entry) -> CoverageEntry {
    let phase = match entry.phase {
        Phase::Prefill { .. } => lathe_report::Phase::Prefill,
        Phase::Decode { .. } => lathe_report::Phase::Decode,
    };
    // Only attention depends on the past, so only there is the depth worth a word.
    let at = match (entry.block, entry.phase) {
        (BlockShape::Attention(_), _) | (_, Phase::Prefill { .. }) => format!(", {}", entry.phase),
        _ => String::new(),
    };
    CoverageEntry {
        block: format!("{}{at}", entry.block),
        phase,
        median_us: entry.latency.median_us,
        ci95_us: entry.latency.half_width_us(),
        samples: entry.latency.samples as u64,
        footprint_bytes: entry.footprint_bytes,
        flags: entry.flags.clone(),
    }
}
