//! Whether a device is fit to be measured now, and what to do where it is not.
//!
//! ```
//! use lathe_profiler::{Inspection, Verdict, preflight};
//!
//! let busy = Inspection { cpu_pressure_avg10_percent: Some(80.0), ..Inspection::default() };
//! let preflight = preflight(&busy, 2, None);
//! assert_eq!(preflight.verdict(), Verdict::NotFit);
//! println!("{}: {}", preflight.findings[0].what, preflight.findings[0].remedy);
//! ```

use std::fmt;

use lathe_agent::{Core, Inspection};
use serde::Serialize;

mod rules;
#[cfg(test)]
mod tests;

/// Cores count as fast down to this share of the fastest. Favoured cores and boost bins differ by
/// a few percent and big cores of a phone by 15 %; small cores reach two thirds at most.
const FAST_SHARE: f64 = 0.8;

/// What an inspection means for measurements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preflight {
    /// The state of the device.
    pub inspection: Inspection,
    /// What stands out in it, the gravest first.
    pub findings: Vec<Finding>,
    /// Ids of the fastest processors that may be used, one of each core, ascending: the set to
    /// bind measurements to.
    pub fastest_cores: Vec<usize>,
}

/// Something that stands out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// What to do about it, in a sentence.
    pub remedy: String,
}

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know when figures are compared.
    Note,
    /// Figures will be noisier, or shift.
    Warning,
    /// Figures would be wrong, or there would be none.
    Refusal,
}

/// Whether to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing stands in the way.
    Fit,
    /// There are warnings.
    UsableWithNoise,
    /// There is a reason not to.
    NotFit,
}

/// Judges a device for measurements with so many threads and, where it is known, so much memory.
pub fn preflight(
    inspection: &Inspection,
    threads: usize,
    needed_memory_bytes: Option<u64>,
) -> Preflight {
    let fastest_cores = fastest_cores(inspection);
    let mut findings = rules::findings(&rules::Case {
        inspection,
        threads,
        needed_memory_bytes,
        fastest_cores: &fastest_cores,
    });
    // A stable sort: findings of one severity stay in the order of the rules.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Preflight {
        inspection: inspection.clone(),
        findings,
        fastest_cores,
    }
}

impl Preflight {
    /// The gravest finding decides.
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None | Some(Severity::Note) => Verdict::Fit,
            Some(Severity::Warning) => Verdict::UsableWithNoise,
            Some(Severity::Refusal) => Verdict::NotFit,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fit => "fit to measure",
            Self::UsableWithNoise => "usable, with noise",
            Self::NotFit => "not fit to measure",
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Refusal => "refusal",
        })
    }
}

/// Ids in the notation of `taskset`: `0-3,8`.
pub fn processor_list(ids: &[usize]) -> String {
    let runs = ids.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let texts = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        single => single.iter().map(usize::to_string).collect(),
    });
    texts.collect::<Vec<String>>().join(",")
}

/// The usable processors whose speed is near the fastest one's, one of each core.
fn fastest_cores(inspection: &Inspection) -> Vec<usize> {
    let usable: Vec<&Core> = inspection.usable_cores().collect();
    let speeds = speeds(&usable);
    let fastest = speeds.iter().copied().fold(0.0, f64::max);
    let pairs = usable.iter().zip(&speeds);
    let fast = pairs.filter(|(_, speed)| **speed >= FAST_SHARE * fastest);
    let mut cores: Vec<&Core> = fast.map(|(core, _)| *core).collect();
    let mut seen = std::collections::BTreeSet::new();
    cores.retain(|core| seen.insert(core.first_sibling.unwrap_or(core.id)));
    cores.iter().map(|core| core.id).collect()
}

/// Relative speeds: capacities, else fastest clocks. Alike where some core tells neither.
fn speeds(cores: &[&Core]) -> Vec<f64> {
    let capacities: Option<Vec<f64>> = cores
        .iter()
        .map(|core| core.capacity.map(f64::from))
        .collect();
    let clocks = || {
        cores
            .iter()
            .map(|core| Some(core.max_khz? as f64))
            .collect()
    };
    capacities
        .or_else(clocks)
        .unwrap_or_else(|| vec![1.0; cores.len()])
}
