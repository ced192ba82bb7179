//! Other work on the machine, made on purpose: a busy loop beside some visits shows whether they
//! are noticed, and what is left of their harm.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

/// A thread that keeps one processor busy for as long as this lives.
pub(crate) struct Hog {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    pub fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The loop cannot panic, and there is nothing to do if it could.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}
