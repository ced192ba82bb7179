//! What ends the agent from outside: too much memory, and nobody who reads its answers.

/// Lets this process have that much private memory at most, in MiB (`RLIMIT_DATA`).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn limit_memory(cap_mib: Option<u64>) -> anyhow::Result<()> {
    use anyhow::Context;
    use rustix::process::{Resource, Rlimit, setrlimit};

    let Some(cap_mib) = cap_mib else {
        return Ok(());
    };
    let bytes = cap_mib.checked_mul(1 << 20);
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    setrlimit(Resource::Data, limit)
        .with_context(|| format!("the system does not grant a cap of {cap_mib} MiB"))
}

/// Lets this process have that much private memory at most, in MiB.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn limit_memory(cap_mib: Option<u64>) -> anyhow::Result<()> {
    anyhow::ensure!(cap_mib.is_none(), "this system caps no memory");
    Ok(())
}

/// Ends this process as soon as nobody reads its output any more, in the middle of a job too: a
/// device goes on computing for a host that is gone otherwise. The thread sleeps until then.
#[cfg(unix)]
pub fn end_with_reader() {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;

    std::thread::spawn(|| {
        let output = std::io::stdout();
        let gone = PollFlags::ERR | PollFlags::HUP;
        loop {
            // An error or a hang-up is told without being asked for.
            let mut descriptors = [PollFd::new(&output, PollFlags::empty())];
            match poll(&mut descriptors, None) {
                Ok(_) if descriptors[0].revents().intersects(gone) => std::process::exit(2),
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
}

/// Nothing tells here when the reader is gone.
#[cfg(not(unix))]
pub fn end_with_reader() {}
