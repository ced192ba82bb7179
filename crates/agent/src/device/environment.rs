//! The machine's counters, from Linux's `/proc`; absent elsewhere.

use std::fs;

use lathe_agent::Environment;

/// Counters at one moment.
pub struct Reading {
    cpu_pressure_us: Option<u64>,
    steal_ticks: Option<u64>,
    involuntary_switches: Option<u64>,
}

impl Reading {
    pub fn now() -> Self {
        Self {
            cpu_pressure_us: cpu_pressure_us(),
            steal_ticks: steal_ticks(),
            involuntary_switches: status_field("nonvoluntary_ctxt_switches:"),
        }
    }

    pub fn since(&self, before: &Reading) -> Environment {
        let delta = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Environment {
            cpu_pressure_us: delta(self.cpu_pressure_us, before.cpu_pressure_us),
            steal_ticks: delta(self.steal_ticks, before.steal_ticks),
            involuntary_switches: delta(self.involuntary_switches, before.involuntary_switches),
            peak_memory_bytes: status_field("VmHWM:").map(|kib| kib * 1024),
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

fn status_field(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
