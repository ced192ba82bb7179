//! Predictions against measurements of whole sub-networks that the table has not seen.

use std::path::Path;

use lathe_arch::{SearchSpace, SubnetConfig, Workload};
use lathe_latency::LatencyTable;
use lathe_profiler::{
    AgentCommand, Agreement, Comparison, agreement, draw_subnets, measure_networks,
    write_random_networks,
};
use serde::{Deserialize, Serialize};

use crate::Progress;

/// How predictions held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The workload.
    pub workload: Workload,
    /// Time to first token.
    pub prefill: PhaseValidation,
    /// Time per output token.
    pub decode: PhaseValidation,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseValidation {
    /// The summary.
    pub agreement: Agreement,
    /// Network by network.
    pub comparisons: Vec<Comparison>,
    /// 95 % confidence intervals of the measurements, in microseconds.
    pub measured_ci95_us: Vec<[f64; 2]>,
}

/// Draws `count` sub-networks, measures them whole in interleaved rounds and compares.
///
/// # Errors
/// When the agent fails or the disk does not take the graphs.
#[allow(clippy::too_many_arguments)]
pub fn validate(
    agent: &AgentCommand,
    table: &LatencyTable,
    space: &SearchSpace,
    workload: &Workload,
    count: usize,
    rounds: usize,
    seed: u64,
    folder: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<Validation> {
    let model = &table.model.dimensions;
    let subnets = draw_subnets(space, count, seed)?;
    progress("writing sub-networks", 0, 1);
    let graphs = write_random_networks(folder, model, &subnets)?;
    let measured = measure_networks(
        agent,
        &graphs,
        workload,
        table.runtime.threads,
        model.vocab_size,
        rounds,
        |done, total, _| progress("measuring sub-networks", done, total),
    )?;
    // The graphs are of no further use; what cannot be deleted does no harm.
    let _left = std::fs::remove_dir_all(folder);
    let predicted = subnets
        .iter()
        .map(|subnet: &SubnetConfig| table.predict(subnet, workload));
    let predicted = predicted.collect::<Result<Vec<_>, _>>()?;
    let pairs = || predicted.iter().zip(&measured);
    Ok(Validation {
        workload: *workload,
        prefill: phase(pairs().map(|(p, m)| (p.ttft_us, &m.ttft))),
        decode: phase(pairs().map(|(p, m)| (p.tpot_us, &m.tpot))),
    })
}

fn phase<'a>(
    pairs: impl Iterator<Item = (f64, &'a lathe_profiler::PhaseLatency)>,
) -> PhaseValidation {
    let (comparisons, measured_ci95_us): (Vec<Comparison>, Vec<[f64; 2]>) = pairs
        .map(|(predicted_us, measured)| {
            let comparison = Comparison {
                predicted_us,
                measured_us: measured.median_us,
            };
            (comparison, measured.ci95_us)
        })
        .unzip();
    PhaseValidation {
        agreement: agreement(&comparisons),
        comparisons,
        measured_ci95_us,
    }
}
