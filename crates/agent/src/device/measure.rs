use std::time::Instant;

use anyhow::ensure;
use lathe_agent::{MAX_RUNS, MeasureJob, Measured, Pass, Samples};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::DynValue;

use super::environment::Reading;
use super::inputs::{self, Sizes};
use super::session;

/// Two runs in a row that agree this well end the warm-up.
const WARM_TOLERANCE: f64 = 0.05;

pub fn measure(
    runtime: &Environment,
    id: u64,
    job: &MeasureJob,
    on_samples: &mut dyn FnMut(Samples) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let before = Reading::now();
    let clock = Instant::now();
    let mut session = session::load(runtime, &job.model, &job.session)?;
    let load_ns = clock.elapsed().as_nanos() as u64;
    for (index, pass) in job.passes.iter().enumerate() {
        ensure!(
            (1..=MAX_RUNS).contains(&pass.runs) && pass.max_warmup_runs <= MAX_RUNS,
            "pass {index}: {} runs and {} warm-up runs, expected 1 to {MAX_RUNS}",
            pass.runs,
            pass.max_warmup_runs
        );
        let sizes = Sizes {
            batch: pass.batch,
            new_tokens: pass.new_tokens,
            past_tokens: pass.past_tokens,
        };
        let inputs = inputs::random(&session, sizes, job.vocab_size, job.seed)?;
        let warmup_runs = warm_up(&mut session, &inputs, pass)?;
        let durations = (0..pass.runs).map(|_| run(&mut session, &inputs));
        on_samples(Samples {
            id,
            pass: index,
            warmup_runs,
            durations_ns: durations.collect::<anyhow::Result<_>>()?,
        })?;
    }
    Ok(Measured {
        id,
        load_ns,
        environment: Reading::now().since(&before),
    })
}

/// Runs until two in a row agree; returns how many were discarded.
fn warm_up(
    session: &mut Session,
    inputs: &[(String, DynValue)],
    pass: &Pass,
) -> anyhow::Result<u32> {
    let mut previous = f64::INFINITY;
    for discarded in 0..pass.max_warmup_runs {
        let current = run(session, inputs)? as f64;
        if (current - previous).abs() <= WARM_TOLERANCE * previous && previous.is_finite() {
            return Ok(discarded + 1);
        }
        previous = current;
    }
    Ok(pass.max_warmup_runs)
}

/// One run in nanoseconds. Inputs exist before the clock starts, outputs are dropped after it
/// stops.
fn run(session: &mut Session, inputs: &[(String, DynValue)]) -> anyhow::Result<u64> {
    let borrowed: Vec<(&str, &DynValue)> = inputs
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let clock = Instant::now();
    let outputs = session.run(borrowed)?;
    let elapsed = clock.elapsed();
    drop(outputs);
    Ok(elapsed.as_nanos() as u64)
}
