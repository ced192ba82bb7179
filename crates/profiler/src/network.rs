//! Whole networks, measured side by side.

use std::path::{Path, PathBuf};

use lathe_agent::{MeasureJob, SessionConfig};
use lathe_arch::{Phase, Workload};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::plan::pass;
use crate::statistics::{median, median_ci95};
use crate::{AgentCommand, ProfilerError};

/// Timed decode runs of one visit. Visits differ more than the runs of one, because each loads the
/// model anew, so rounds are what narrows the interval.
const RUNS: u32 = 5;

/// Measured latency of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkLatency {
    /// Time to first token.
    pub ttft: PhaseLatency,
    /// Time per output token at the middle of the generation.
    pub tpot: PhaseLatency,
}

/// A latency over rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseLatency {
    /// Median over rounds of the medians over runs, in microseconds.
    pub median_us: f64,
    /// 95 % confidence interval of that median, in microseconds.
    pub ci95_us: [f64; 2],
}

/// Times each model file at `workload`, in `rounds` rounds of random order.
///
/// `on_progress` is told visits done, visits in all, and the model that comes next.
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
    mut on_progress: impl FnMut(usize, usize, &Path),
) -> Result<Vec<NetworkLatency>, ProfilerError> {
    let mut agent = Agent::start(command)?;
    let batch = workload.batch;
    let phases = [
        Phase::Prefill {
            batch,
            seq_len: workload.prompt_tokens,
        },
        Phase::Decode {
            batch,
            past_len: workload.mean_past_len() as usize,
        },
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut samples = vec![[Vec::new(), Vec::new()]; models.len()];
    let total = rounds * models.len();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..models.len()).collect();
        order.shuffle(&mut rng);
        for (done, index) in order.into_iter().enumerate() {
            on_progress(round * models.len() + done, total, &models[index]);
            let (passes, _) = agent.measure(MeasureJob {
                model: models[index].clone(),
                session: SessionConfig { threads },
                passes: phases.iter().map(|phase| pass(phase, RUNS)).collect(),
                vocab_size,
                seed: round as u64,
            })?;
            for (samples, pass) in samples[index].iter_mut().zip(passes) {
                let runs = pass.durations_ns.iter().map(|ns| *ns as f64 / 1000.0);
                samples.push(median(&runs.collect::<Vec<_>>()));
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
