//! Ctrl-C while a job runs that wants to save what it has.

use std::sync::atomic::{AtomicU8, Ordering};

const UNWATCHED: u8 = 0;
const WATCHED: u8 = 1;
const ASKED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNWATCHED);

/// From now on Ctrl-C asks instead of ending the program; [`is_asked`] tells.
pub fn watch() {
    STATE.store(WATCHED, Ordering::Relaxed);
}

/// Whether the user wants the job to stop.
pub fn is_asked() -> bool {
    STATE.load(Ordering::Relaxed) == ASKED
}

/// Asks the job to stop; false when there is none or it was asked before.
pub fn ask() -> bool {
    let ordering = Ordering::Relaxed;
    STATE
        .compare_exchange(WATCHED, ASKED, ordering, ordering)
        .is_ok()
}
