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

    /// What changed, for sessions of `threads` threads.
    pub fn since(&self, before: &Reading, threads: usize) -> Environment {
        let delta = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Environment {
            wall_us: self.clock.duration_since(before.clock).as_micros() as u64,
            run_delay_us: self.run_delay_us_since(before, threads),
            steal_ticks: delta(self.steal_ticks, before.steal_ticks),
            involuntary_switches: delta(self.involuntary_switches, before.involuntary_switches),
            energy_uj: self
                .energy
                .joules_since(&before.energy)
                .map(|joules| (joules * 1e6) as u64),
        }
    }

    fn run_delay_us_since(&self, before: &Reading, threads: usize) -> Option<u64> {
        let (now, before) = (self.run_delays_ns.as_ref()?, before.run_delays_ns.as_ref()?);
        let deltas = now.iter().map(|(thread, delay_ns)| {
            let before = before.get(thread).copied().unwrap_or(0);
            delay_ns.saturating_sub(before)
        });
        Some(deltas.sum::<u64>() / (1000 * threads.max(1) as u64))
    }
}

/// What each thread of this process waited for a processor, in nanoseconds.
fn run_delays_ns() -> Option<BTreeMap<String, u64>> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let thread = thread.file_name().to_string_lossy().into_owned();
        Some((thread, run_delay_ns(&text)?))
    };
    // A thread that has just ended tells nothing; a kernel that does not count has none that does.
    let delays: BTreeMap<String, u64> = threads.filter_map(of).collect();
    (!delays.is_empty()).then_some(delays)
}

/// The second number of a thread's `schedstat`: on a processor, waiting for one, and turns. A thread of
/// no turns has not run, or the kernel does not count.
fn run_delay_ns(schedstat: &str) -> Option<u64> {
    let mut numbers = schedstat.split_whitespace().map(str::parse::<u64>);
    let (_ran_ns, waited_ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let turns = numbers.next()?.ok()?;
    (turns > 0).then_some(waited_ns)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_told_where_the_kernel_counts() {
        assert_eq!(run_delay_ns("3107451279 19708526 66\n"), Some(19_708_526));
        for untold in ["0 0 0\n", "", "12 34", "a b c", "-1 -2 3"] {
            assert_eq!(run_delay_ns(untold), None, "{untold:?}");
        }
    }

    #[test]
    fn waiting_is_the_mean_over_the_threads_of_a_session() {
        let reading = |delays: &[(&str, u64)]| {
            let delays = delays
                .iter()
                .map(|(thread, ns)| ((*thread).to_owned(), *ns));
            Reading {
                run_delays_ns: Some(delays.collect()),
                ..Reading::now()
            }
        };
        let before = reading(&[("1", 5_000_000), ("2", 1_000_000), ("ended", 9_000_000)]);
        let now = reading(&[("1", 7_000_000), ("2", 1_000_000), ("new", 2_000_000)]);
        assert_eq!(now.since(&before, 2).run_delay_us, Some(2_000));
    }
}
