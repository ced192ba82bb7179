use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use lathe_agent::{MAX_MODELS, MAX_TURNS, MeasureJob, Measured, Pass, Samples};
use ort::session::IoBinding;
use ort::session::Session;

use super::Runtime;
use super::environment::Reading;
use super::inputs::{self, Sizes};
use super::round_trip::RoundTrip;
use super::session;

/// Sessions that stay loaded between jobs, by file.
pub type Kept = BTreeMap<PathBuf, Session>;

/// Loads all models of a job, then takes the turns of each pass.
pub fn measure(
    runtime: &Runtime,
    kept: &mut Kept,
    id: u64,
    job: &MeasureJob,
    on_samples: &mut dyn FnMut(Samples) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    ensure!(
        (1..=MAX_MODELS).contains(&job.models.len()),
        "{} models, expected 1 to {MAX_MODELS}",
        job.models.len()
    );
    let mut sessions = Vec::new();
    let mut load_ns = Vec::new();
    for model in &job.models {
        let clock = Instant::now();
        let session = match kept.remove(model) {
            Some(session) => session,
            None => session::load(runtime, model, &job.session)?,
        };
        sessions.push(session);
        load_ns.push(clock.elapsed().as_nanos() as u64);
    }
    let round_trip = RoundTrip::between(&runtime.processors, job.session.threads);
    for (index, pass) in job.passes.iter().enumerate() {
        ensure!(
            (1..=MAX_TURNS).contains(&pass.min_turns)
                && (pass.min_turns..=MAX_TURNS).contains(&pass.max_turns),
            "pass {index}: {} to {} turns, expected 1 to {MAX_TURNS}",
            pass.min_turns,
            pass.max_turns
        );
        let sizes = Sizes {
            batch: pass.batch,
            new_tokens: pass.new_tokens,
            past_tokens: pass.past_tokens,
        };
        let mut bindings = Vec::new();
        for &model in &pass.models {
            let session = sessions.get_mut(model);
            let session = session.with_context(|| format!("pass {index}: no model {model}"))?;
            let binding = inputs::bind(session, sizes, job.vocab_size, job.seed)?;
            run(session, &binding)?;
            bindings.push(binding);
        }
        let before = Reading::now();
        let turns = take_turns(&mut sessions, &bindings, pass, &round_trip)?;
        on_samples(Samples {
            id,
            pass: index,
            durations_ns: turns.durations_ns,
            round_trips_ns: turns.round_trips_ns,
            environment: Reading::now().since(&before, job.session.threads),
        })?;
    }
    for (index, (path, session)) in job.models.iter().zip(sessions).enumerate() {
        if job.keep.contains(&index) && kept.len() < MAX_MODELS {
            kept.insert(path.clone(), session);
        }
    }
    Ok(Measured { id, load_ns })
}

struct Turns {
    durations_ns: Vec<Vec<u64>>,
    round_trips_ns: Vec<u64>,
}

/// All models in the same order in every turn: whatever runs between two runs of one model is the
/// same each time.
fn take_turns(
    sessions: &mut [Session],
    bindings: &[IoBinding],
    pass: &Pass,
    round_trip: &RoundTrip,
) -> anyhow::Result<Turns> {
    let clock = Instant::now();
    let mut turns = Turns {
        durations_ns: Vec::new(),
        round_trips_ns: Vec::new(),
    };
    turns.round_trips_ns.extend(round_trip.measure_ns());
    while turns.durations_ns.len() < pass.max_turns as usize {
        let count = turns.durations_ns.len();
        let is_over = clock.elapsed().as_micros() >= u128::from(pass.budget_us);
        if is_over && count >= pass.min_turns as usize {
            break;
        }
        let mut turn = vec![0; bindings.len()];
        for (step, binding) in bindings.iter().enumerate() {
            turn[step] = run(&mut sessions[pass.models[step]], binding)?;
        }
        turns.durations_ns.push(turn);
        turns.round_trips_ns.extend(round_trip.measure_ns());
    }
    // Where a way was not measured once, it cannot be said which turns it belongs to.
    if turns.round_trips_ns.len() != turns.durations_ns.len() + 1 {
        turns.round_trips_ns.clear();
    }
    Ok(turns)
}

/// One run in nanoseconds. Inputs exist before the clock starts, outputs are dropped after it
/// stops.
fn run(session: &mut Session, binding: &IoBinding) -> anyhow::Result<u64> {
    let clock = Instant::now();
    let outputs = session.run_binding(binding)?;
    let elapsed = clock.elapsed();
    drop(outputs);
    Ok(elapsed.as_nanos() as u64)
}
