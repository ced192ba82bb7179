use anyhow::Context;

/// Binds this thread, and all that it starts, to `processors`; to any when there are none.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn bind(processors: &[usize]) -> anyhow::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    if processors.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &processor in processors {
        anyhow::ensure!(
            processor < CpuSet::MAX_CPU,
            "affinity: there is no processor {processor}"
        );
        set.set(processor);
    }
    sched_setaffinity(None, &set)
        .with_context(|| format!("affinity: the system does not grant processors {processors:?}"))
}

/// Binds this thread, and all that it starts, to `processors`; to any when there are none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn bind(processors: &[usize]) -> anyhow::Result<()> {
    anyhow::ensure!(
        processors.is_empty(),
        "affinity: this system binds no threads to processors"
    );
    Ok(())
}

/// Processors that this process may use, in order; none where the system does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn allowed() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let all = 0..CpuSet::MAX_CPU;
    all.filter(|processor| set.is_set(*processor)).collect()
}

/// Processors that this process may use, in order; none where the system does not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn allowed() -> Vec<usize> {
    Vec::new()
}
