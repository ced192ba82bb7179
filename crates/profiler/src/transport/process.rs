use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a process that is to end is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A running agent: a process of this machine that is the agent, or that speaks for it.
pub(crate) struct Process {
    /// It, with its standard streams as pipes.
    pub child: Child,
    /// Ends what it speaks for, where that does not end with it.
    pub end_there: Option<Box<dyn FnOnce() + Send>>,
    /// How long it is given to end by itself once its input has ended.
    pub patience: Duration,
}

impl Process {
    /// Ends it: its input first, then by force. Returns what it ended with.
    pub fn end(&mut self) -> Option<ExitStatus> {
        drop(self.child.stdin.take());
        let ended = wait(&mut self.child, self.patience);
        if ended.is_none() {
            kill(&mut self.child);
        }
        let status = ended.or_else(|| self.child.wait().ok());
        if let Some(end_there) = self
            .end_there
            .take()
            .filter(|_| ended.is_none_or(|s| !s.success()))
        {
            end_there();
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends a process that leads a group of its own, and all that it started.
pub(crate) fn kill(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        // Fails only when all have ended meanwhile.
        let _ended = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // Likewise.
    let _ended = child.kill();
}

/// Waits for a process, but not for ever.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let clock = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if clock.elapsed() >= patience {
            return None;
        }
        sleep(POLL);
    }
}
