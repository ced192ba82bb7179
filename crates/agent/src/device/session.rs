use std::path::Path;

use anyhow::{Context, bail, ensure};
use lathe_agent::SessionConfig;
use ort::environment::Environment;
use ort::session::Session;

/// Most threads of a session.
const MAX_THREADS: usize = 1024;

pub fn load(
    runtime: &Environment,
    model: &Path,
    config: &SessionConfig,
) -> anyhow::Result<Session> {
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
    let mut builder = Session::builder(runtime)?
        .with_intra_threads(config.threads)
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        // Threads spin inside a run, as in production, but never into the next measurement.
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(text)?;
    builder
        .commit_from_file(model)
        .with_context(|| format!("{}", model.display()))
}
