//! Whole networks, measured side by side.

use std::path::PathBuf;

use lathe_agent::{MeasureJob, Pass, SessionConfig};
use lathe_arch::Workload;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::placement::most_common;
use crate::profile::network_phases;
use crate::statistics::{median, median_ci95};
use crate::visit::{PassRecord, disturbance};
use crate::{AgentCommand, ProfilerError};

/// Microseconds of turns for each phase of a round.
const PASS_US: u64 = 1_500_000;
/// Turns of a pass.
const TURNS: std::ops::RangeInclusive<u32> = 4..=200;
/// Rounds that are made again at most because other work ran meanwhile.
const REPEATED_ROUNDS: usize = 3;

/// Measured latency of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkLatency {
    /// Time to first token.
    pub ttft: PhaseLatency,
    /// Time per output token at the middle of the generation.
    pub tpot: PhaseLatency,
}

/// A latency over turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseLatency {
    /// Median over all turns, in microseconds.
    pub median_us: f64,
    /// 95 % confidence interval of that median, in microseconds.
    pub ci95_us: [f64; 2],
}

/// Times a few model files at `workload`, all loaded at once and run in turns, so that whatever
/// the machine does meets all of them alike. In each of `rounds` rounds they are loaded anew. Only
/// turns in the most common placement of the processors count.
///
/// `on_progress` is told rounds done and rounds in all.
///
/// # Errors
/// When the agent fails.
pub fn measure_networks(
    command: &AgentCommand,
    models: &[PathBuf],
    workload: &Workload,
    threads: usize,
    vocab_size: usize,
    rounds: usize,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Vec<NetworkLatency>, ProfilerError> {
    let mut agent = Agent::start(command)?;
    let phases = network_phases(workload);
    let session = SessionConfig { threads };
    let mut taken: Vec<PassRecord> = Vec::new();
    let (mut round, mut repeated) = (0, 0);
    while round < rounds {
        on_progress(round, rounds);
        let passes = phases.iter().map(|phase| Pass {
            models: (0..models.len()).collect(),
            batch: phase.batch(),
            new_tokens: phase.new_tokens(),
            past_tokens: phase.past_tokens(),
            min_turns: *TURNS.start(),
            max_turns: *TURNS.end(),
            budget_us: PASS_US,
        });
        let (answers, _) = agent.measure(MeasureJob {
            models: models.to_vec(),
            keep: Vec::new(),
            session,
            passes: passes.collect(),
            vocab_size,
            seed: round as u64,
        })?;
        let answers = answers.into_iter().zip(phases);
        let passes: Vec<PassRecord> = answers
            .map(|(samples, phase)| PassRecord {
                phase,
                durations_ns: samples.durations_ns,
                round_trips_ns: samples.round_trips_ns,
                environment: samples.environment,
            })
            .collect();
        if disturbance(&passes, session).is_some() && repeated < REPEATED_ROUNDS {
            repeated += 1;
            continue;
        }
        taken.extend(passes);
        round += 1;
    }
    let trips = taken.iter().flat_map(|pass| &pass.round_trips_ns);
    let placement = most_common(trips.copied());
    let mut samples = vec![[Vec::new(), Vec::new()]; models.len()];
    for pass in &taken {
        let phase = usize::from(pass.phase == phases[1]);
        for turn in pass.turns_us(placement.as_ref()) {
            for (network, latency_us) in samples.iter_mut().zip(turn) {
                network[phase].push(latency_us);
            }
        }
    }
    let latency = |samples: &Vec<f64>| PhaseLatency {
        median_us: median(samples),
        ci95_us: median_ci95(samples),
    };
    let networks = samples.iter().map(|[ttft, tpot]| NetworkLatency {
        ttft: latency(ttft),
        tpot: latency(tpot),
    });
    Ok(networks.collect())
}
