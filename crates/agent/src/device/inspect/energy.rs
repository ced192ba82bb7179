//! Running average power limit counters: `/sys/class/powercap/intel-rapl:*`, which AMD's
//! processors have under the same name (the kernel's `powercap.rst`).

use std::collections::BTreeMap;

use lathe_agent::{EnergyCounter, EnergyKind};

use super::files::{SystemFiles, printable};

const ZONES: &str = "/sys/class/powercap";

/// All counters, those within packages too.
pub fn counters(files: &SystemFiles) -> Vec<EnergyCounter> {
    let zones = files.names(ZONES, "intel-rapl:").into_iter();
    let counters = zones.map(|zone| EnergyCounter {
        kind: EnergyKind::Rapl,
        is_readable: energy_uj(files, &zone).is_some(),
        name: name(files, &zone)
            .or_else(|| printable(&zone))
            .unwrap_or_default(),
    });
    counters.collect()
}

/// Counters of all processor packages at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnergyReading {
    packages: BTreeMap<String, Counter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    energy_uj: u64,
    /// The counter begins anew at 0 after this.
    range_uj: Option<u64>,
}

impl EnergyReading {
    /// Reads the counters. There are none where they are missing or only root may read them.
    pub fn now(files: &SystemFiles) -> Self {
        // The other zones are parts of a package (core, dram) or hold it (psys): a sum over all
        // would count joules twice.
        let zones = files.names(ZONES, "intel-rapl:").into_iter();
        let packages = zones.filter(|zone| {
            let name = name(files, zone);
            name.is_some_and(|name| name.starts_with("package"))
        });
        let counters = packages.filter_map(|zone| {
            let counter = Counter {
                energy_uj: energy_uj(files, &zone)?,
                range_uj: files.number(&format!("{ZONES}/{zone}/max_energy_range_uj")),
            };
            Some((zone, counter))
        });
        Self {
            packages: counters.collect(),
        }
    }

    /// Energy of all packages since an earlier reading, in joules; `None` when there are no
    /// counters, or not the same. A counter may have begun anew once: at 100 W that is due
    /// every 45 minutes or so.
    pub fn joules_since(&self, before: &Self) -> Option<f64> {
        let is_same = self.packages.keys().eq(before.packages.keys());
        if self.packages.is_empty() || !is_same {
            return None;
        }
        let pairs = self.packages.values().zip(before.packages.values());
        let joules =
            pairs.map(|(after, before)| Some(after.microjoules_since(before)? as f64 / 1e6));
        joules.sum()
    }
}

impl Counter {
    fn microjoules_since(&self, before: &Self) -> Option<u64> {
        match self.energy_uj.checked_sub(before.energy_uj) {
            Some(difference) => Some(difference),
            None => {
                let until_wrap = self.range_uj?.checked_sub(before.energy_uj)?;
                until_wrap.checked_add(self.energy_uj)
            }
        }
    }
}

fn name(files: &SystemFiles, zone: &str) -> Option<String> {
    files.line(&format!("{ZONES}/{zone}/name"))
}

fn energy_uj(files: &SystemFiles, zone: &str) -> Option<u64> {
    files.number(&format!("{ZONES}/{zone}/energy_uj"))
}
