use std::fs;

use anyhow::Context;
use lathe_agent::{MemoryJob, MemoryUse};

use super::Runtime;
use super::environment::status_field;
use super::inputs::{self, Sizes};
use super::session;

/// Loads a model, runs its passes, and reads the kernel's high-water mark of resident memory,
/// which is set back first (`/proc/self/clear_refs`, see proc(5)).
pub fn memory(runtime: &Runtime, id: u64, job: &MemoryJob) -> anyhow::Result<MemoryUse> {
    const UNTOLD: &str = "this system does not tell a process's largest resident memory";
    fs::write("/proc/self/clear_refs", "5").context(UNTOLD)?;
    let before = status_field("VmRSS:").context(UNTOLD)?;
    let mut session = session::load(runtime, &job.model, &job.session)?;
    for &(batch, new_tokens, past_tokens) in &job.passes {
        let sizes = Sizes {
            batch,
            new_tokens,
            past_tokens,
        };
        let binding = inputs::bind(&session, sizes, job.vocab_size, 0)?;
        drop(session.run_binding(&binding)?);
    }
    let peak = status_field("VmHWM:").context(UNTOLD)?;
    Ok(MemoryUse {
        id,
        before_bytes: before * 1024,
        peak_bytes: peak * 1024,
    })
}
