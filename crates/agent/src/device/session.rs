use std::path::Path;

use anyhow::{Context, bail, ensure};
use lathe_agent::{Done, OptimizeJob, SessionConfig};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::Runtime;

/// Most threads of a session.
const MAX_THREADS: usize = 1024;

/// Writes the graph that the runtime makes of a model, its weights inside.
pub fn optimize(runtime: &Runtime, id: u64, job: &OptimizeJob) -> anyhow::Result<Done> {
    let text = |error: ort::Error<_>| anyhow::anyhow!("{error}");
    let builder = builder(runtime, &job.model, &job.session)?;
    let mut builder = builder.with_optimized_model_path(&job.out).map_err(text)?;
    let session = builder.commit_from_file(&job.model);
    session.with_context(|| format!("{}", job.model.display()))?;
    Ok(Done { id })
}

pub fn load(runtime: &Runtime, model: &Path, config: &SessionConfig) -> anyhow::Result<Session> {
    let mut builder = builder(runtime, model, config)?;
    let session = builder.commit_from_file(model);
    session.with_context(|| format!("{}", model.display()))
}

fn builder(
    runtime: &Runtime,
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
    let builder = Session::builder(&runtime.environment)?
        .with_intra_threads(config.threads)
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        // Threads spin inside a run, as in production, but never into the next measurement.
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(text)?;
    let builder = runtime.provider.set(builder, config.threads)?;
    let others = worker_processors(&runtime.processors, config.threads);
    if others.is_empty() {
        return Ok(builder);
    }
    builder
        .with_config_entry("session.intra_op_thread_affinities", others)
        .map_err(text)
}

/// Where the runtime's own threads run, in its notation (numbers from 1): one processor each, as it
/// has them itself when no number of threads is given. Unbound, a thread is now and then woken on
/// the processor of the one that waits for it, and stays there until the scheduler's next tick. The
/// first processor is for the thread that calls; empty when threads cannot be bound.
fn worker_processors(processors: &[usize], threads: usize) -> String {
    let around = processors.iter().cycle().skip(1);
    let workers = around.take(threads.saturating_sub(1));
    let numbers: Vec<String> = workers.map(|number| (number + 1).to_string()).collect();
    numbers.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_processor() {
        assert_eq!(worker_processors(&[4, 5, 6], 3), "6;7");
        assert_eq!(worker_processors(&[0, 1], 4), "2;1;2");
        assert_eq!(worker_processors(&[0, 1], 1), "");
        assert_eq!(worker_processors(&[], 4), "");
    }
}
