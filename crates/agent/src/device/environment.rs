//! The machine's counters, from Linux's `/proc`; absent elsewhere.

use std::fs;
use std::time::Instant;

use lathe_agent::Environment;

use super::inspect::{EnergyReading, SystemFiles};

/// Counters at one moment.
pub struct Reading {
    clock: Instant,
    cpu_pressure_us: Option<u64>,
    steal_ticks: Option<u64>,
    involuntary_switches: Option<u64>,
    energy: EnergyReading,
}

impl Reading {
    pub fn now() -> Self {
        Self {
            clock: Instant::now(),
            cpu_pressure_us: cpu_pressure_us(),
            steal_ticks: steal_ticks(),
            involuntary_switches: status_field("nonvoluntary_ctxt_switches:"),
            energy: EnergyReading::now(&SystemFiles::below("/")),
        }
    }

    pub fn since(&self, before: &Reading) -> Environment {
        let delta = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Environment {
            wall_us: self.clock.duration_since(before.clock).as_micros() as u64,
            cpu_pressure_us: delta(self.cpu_pressure_us, before.cpu_pressure_us),
            steal_ticks: delta(self.steal_ticks, before.steal_ticks),
            involuntary_switches: delta(self.involuntary_switches, before.involuntary_switches),
            energy_uj: self
                .energy
                .joules_since(&before.energy)
                .map(|joules| (joules * 1e6) as u64),
        }
    }
}

/// The `total=` of the `some` line.
fn cpu_pressure_us() -> Option<u64> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|line| line.starts_with("some"))?;
    some.split("total=").nth(1)?.trim().parse().ok()
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
