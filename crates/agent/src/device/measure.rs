use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use lathe_agent::{MAX_MODELS, MAX_TURNS, MeasureJob, Measured, Pass, Samples};
use ort::environment::Environment;
use ort::session::IoBinding;
use ort::session::Session;

use super::environment::Reading;
use super::inputs::{self, Sizes};
use super::session;

/// Sessions that stay loaded between jobs, by file.
pub type Kept = BTreeMap<PathBuf, Session>;

/// Loads all models of a job, then takes the turns of each pass.
pub fn measure(
    runtime: &Environment,
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
        let durations_ns = take_turns(&mut sessions, &bindings, pass)?;
        on_samples(Samples {
            id,
            pass: index,
            durations_ns,
            environment: Reading::now().since(&before),
        })?;
    }
    for (index, (path, session)) in job.models.iter().zip(sessions).enumerate() {
        if job.keep.contains(&index) && kept.len() < MAX_MODELS {
            kept.insert(path.clone(), session);
        }
    }
    Ok(Measured { id, load_ns })
}

/// Nanoseconds of each run, `[turn][model]`.
fn take_turns(
    sessions: &mut [Session],
    bindings: &[IoBinding],
    pass: &Pass,
) -> anyhow::Result<Vec<Vec<u64>>> {
    let clock = Instant::now();
    let mut turns = Vec::new();
    while turns.len() < pass.max_turns as usize {
        let is_over = clock.elapsed().as_micros() >= u128::from(pass.budget_us);
        if is_over && turns.len() >= pass.min_turns as usize {
            break;
        }
        let mut turn = vec![0; bindings.len()];
        for step in 0..bindings.len() {
            let position = match turns.len() % 2 {
                0 => step,
                _ => bindings.len() - 1 - step,
            };
            let session = &mut sessions[pass.models[position]];
            turn[position] = run(session, &bindings[position])?;
        }
        turns.push(turn);
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
