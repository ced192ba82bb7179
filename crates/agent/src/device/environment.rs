//! The machine's counters, from Linux's `/proc`; absent elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use lathe_agent::Environment;

use super::inspect::{EnergyReading, SystemFiles};

/// Counters at one moment.
pub struct Reading {
    clock: Instant,
    /// Of each thread.
    run_delays_ns: Option<BTreeMap<String, u64>>,
    steal_ticks: Option<u64>,
    involuntary_switches: Option<u64>,
    energy: EnergyReading,
}

impl Reading {
    pub fn now() -> Self {
        Self {
            clock: Instant::now(),
            run_delays_ns: run_delays_ns(),
            steal_ticks: steal_ticks(),
            involuntary_switches: status_field("nonvoluntary_ctxt_switches:"),
            energy: EnergyReading::now(&SystemFiles::below("/")),
        }
    }

    pub fn since(&self, before: &Reading) -> Environment {
        let delta = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Environment {
            wall_us: self.clock.duration_since(before.clock).as_micros() as u64,
            run_delay_us: self.run_delay_us_since(before),
            steal_ticks: delta(self.steal_ticks, before.steal_ticks),
            involuntary_switches: delta(self.involuntary_switches, before.involuntary_switches),
            energy_uj: self
                .energy
                .joules_since(&before.energy)
                .map(|joules| (joules * 1e6) as u64),
        }
    }

    fn run_delay_us_since(&self, before: &Reading) -> Option<u64> {
        let (now, before) = (self.run_delays_ns.as_ref()?, before.run_delays_ns.as_ref()?);
        let deltas = now.iter().map(|(thread, delay_ns)| {
            let before = before.get(thread).copied().unwrap_or(0);
            delay_ns.saturating_sub(before)
        });
        Some(deltas.sum::<u64>() / 1000)
    }
}

/// Nanoseconds that each thread of this process was ready and waited for a processor: the second number of
/// its `schedstat`.
fn run_delays_ns() -> Option<BTreeMap<String, u64>> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let delay_ns = text.split_whitespace().nth(1)?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), delay_ns))
    };
    // A thread that has just ended tells nothing; a kernel that does not count has none that does.
    let delays: BTreeMap<String, u64> = threads.filter_map(of).collect();
    (!delays.is_empty()).then_some(delays)
}

/// The eighth number of the `cpu` line.
fn steal_ticks() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

/// A field of this process's status, in the unit that the system gives it in.
pub fn status_field(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
