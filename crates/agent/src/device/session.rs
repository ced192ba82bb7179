use std::path::Path;

use anyhow::{Context, bail, ensure};
use lathe_agent::{Done, OptimizeJob, SessionConfig};
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

/// Most threads of a session.
const MAX_THREADS: usize = 1024;

/// Writes the graph that the runtime makes of a model, its weights inside.
pub fn optimize(runtime: &Environment, id: u64, job: &OptimizeJob) -> anyhow::Result<Done> {
    let text = |error: ort::Error<_>| anyhow::anyhow!("{error}");
    let builder = builder(runtime, &job.model, &job.session)?;
    let mut builder = builder.with_optimized_model_path(&job.out).map_err(text)?;
    let session = builder.commit_from_file(&job.model);
    session.with_context(|| format!("{}", job.model.display()))?;
    Ok(Done { id })
}

pub fn load(
    runtime: &Environment,
    model: &Path,
    config: &SessionConfig,
) -> anyhow::Result<Session> {
    let mut builder = builder(runtime, model, config)?;
    let session = builder.commit_from_file(model);
    session.with_context(|| format!("{}", model.display()))
}

fn builder(
    runtime: &Environment,
    model: &Path,
    config: &SessionConfig,
) -> anyhow::Result<SessionBuilder> {
    ensure!(
        (1..=MAX_THREADS).contains(&config.threads),
        "`threads` is {}, expected 1 to {MAX_THREADS}",
        config.threads
    );
    if !model.is_file() {
        bail!("{}: no such file", model.display());
    }
    // ort's builder errors carry the builder and cannot be sent between threads.
    let text = |error: ort::Error<_>| anyhow::anyhow!("{error}");
    Session::builder(runtime)?
        .with_intra_threads(config.threads)
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        // Threads spin inside a run, as in production, but never into the next measurement.
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(text)
}
