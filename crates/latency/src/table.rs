use std::collections::{BTreeMap, BTreeSet};

use lathe_arch::{BlockShape, ModelConfig, Phase, Precision};
use serde::{Deserialize, Serialize};

use crate::{Calibration, LatencyError, MemoryModel, PhaseKind};

/// Version of the table format that this program reads and writes.
pub const TABLE_VERSION: u32 = 4;

/// Prices of the blocks of one model on one device, with one runtime and thread setting.
///
/// A loaded table is sound: versions match, numbers are finite and positive, no entry stands
/// twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Version of the format, [`TABLE_VERSION`].
    pub version: u32,
    /// Where it was measured.
    pub device: DeviceFingerprint,
    /// With what it was measured.
    pub runtime: RuntimeFingerprint,
    /// What was measured.
    pub model: ModelDescription,
    /// The prices.
    pub entries: Vec<Entry>,
    /// What corrects the sums, by precision and phase; empty when no whole network was measured.
    #[serde(default)]
    pub calibration: Vec<Calibration>,
    /// What predicts peak memory, by precision.
    #[serde(default)]
    pub memory: Vec<MemoryModel>,
    /// How it was measured. It stands last, so that a file that was cut short is noticed.
    pub protocol: Protocol,
}

/// What makes two measurements comparable as far as the device goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFingerprint {
    /// Name of the device, as in `devices/`.
    pub name: String,
    /// Processor model, as the system names it.
    pub cpu_model: String,
    /// Processors that the system offers.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Processors that the measurements were bound to; empty when to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<usize>,
    /// Size of the last-level cache, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_level_cache_bytes: Option<u64>,
    /// Whether the processor was emulated, so that latencies say nothing of a real one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
}

/// What makes two measurements comparable as far as the runtime goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeFingerprint {
    /// What ONNX Runtime says of its build.
    pub build: String,
    /// Execution provider.
    pub execution_provider: String,
    /// Threads inside an operator.
    pub threads: usize,
    /// Session options that differ from the runtime's defaults.
    #[serde(default)]
    pub session_options: BTreeMap<String, String>,
}

/// The model whose blocks were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// Name of the model, as in `models/`.
    pub name: String,
    /// Its dimensions.
    pub dimensions: ModelConfig,
}

/// How the prices were measured.
///
/// Every visit times the entry's chains and a reference chain of the same precision in turns,
/// and an entry's price is its share of the reference's latency. The reference's own latency
/// over the whole profile turns shares into microseconds, so a machine that is slower for a
/// minute does not make the entries of that minute dearer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Seed of the orders and of the inputs.
    pub seed: u64,
    /// Last-level cache in bytes: chains are several times as large.
    pub last_level_cache_bytes: u64,
    /// Visits that count.
    pub visits: usize,
    /// Visits that were thrown away because other work ran on the machine.
    pub disturbed_visits: usize,
    /// Bytes a second that all threads together read from memory at best.
    pub memory_bytes_per_second: f64,
    /// Operations a second of a large matrix product in the runtime, by precision.
    pub operations_per_second: BTreeMap<Precision, f64>,
    /// Mean power of the processor packages under load in watts; absent where the device offers no
    /// counter. A network's energy is about its latency times this.
    #[serde(default)]
    pub package_watts: Option<f64>,
    /// Where the processors were, as far as they can tell; absent where they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What was noticed about the device before the profile, in words.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// Latencies of the reference chains.
    pub references: Vec<Reference>,
    /// Latencies of the baseline networks: the full model with every second layer removed.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
    /// What two profiles of the same blocks differ by, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeatability: Option<Repeatability>,
}

/// How far apart the processors are.
///
/// A virtual machine's processors are moved between the host's cores every few seconds or minutes.
/// Near each other they share a cache and meet quickly; far apart they have more ways to memory. A
/// kernel may be a third slower in one placement than in another while the next is faster, so
/// prices hold for one placement, and only what was timed there counts. A device whose processors
/// stay where they are has one placement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Round trip of a cache line between the processors, in nanoseconds.
    pub round_trip_ns: f64,
    /// Share of all turns that were timed there.
    pub share: f64,
}

impl Placement {
    /// Round trips of one placement lie within this factor of its own.
    pub const TOLERANCE: f64 = 1.2;

    /// Whether a round trip belongs to this placement.
    pub fn holds(&self, round_trip_ns: u64) -> bool {
        let ratio = round_trip_ns as f64 / self.round_trip_ns;
        (1.0 / Self::TOLERANCE..=Self::TOLERANCE).contains(&ratio)
    }
}

/// The latency of a reference: a chain of full MLP blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Precision of all its weights.
    pub precision: Precision,
    /// The phase.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub phase: Phase,
    /// Full MLP blocks in the chain.
    pub copies: usize,
    /// Median over all visits in microseconds.
    pub median_us: f64,
    /// Timed runs.
    pub samples: usize,
}

/// The latency of a baseline network, beside which whole networks are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Precision of all its weights.
    pub precision: Precision,
    /// The phase.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub phase: Phase,
    /// Median over all visits in microseconds.
    pub median_us: f64,
    /// Timed runs.
    pub samples: usize,
}

/// How far two prices of one entry differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryDifference {
    /// The block.
    pub block: BlockShape,
    /// The pass.
    pub phase: Phase,
    /// Absolute difference, as a share of the second price.
    pub share: f64,
}

/// What two profiles of the same blocks differ by (A/A), as shares of the price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeatability {
    /// Entries compared.
    pub entries: usize,
    /// Median absolute difference of the prices.
    pub median: f64,
    /// 95th percentile of the absolute differences.
    pub p95: f64,
    /// Largest absolute difference.
    pub worst: f64,
    /// Median absolute difference of the raw medians, before smoothing.
    pub raw_median: f64,
    /// 95th percentile of the raw differences.
    pub raw_p95: f64,
    /// The entries that differ most, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub most_different: Vec<EntryDifference>,
    /// What was done to the second profile on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interference: Option<Interference>,
}

/// A busy loop beside some of the visits of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// Visits beside it.
    pub visits: usize,
    /// Those that were noticed and thrown away.
    pub noticed: usize,
}

/// The price of one block in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The block.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub block: BlockShape,
    /// The phase. Blocks without a KV cache are measured at past length 0 only.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub phase: Phase,
    /// The price that predictions use, in microseconds: the measured median, drawn towards the
    /// line through its neighbours in width, heads or depth as far as its noise calls for.
    pub price_us: f64,
    /// What was measured.
    pub latency: LatencyStatistics,
    /// Copies in the longer chain.
    pub copies: usize,
    /// Weights of the longer chain in bytes.
    pub footprint_bytes: u64,
    /// How near the device's limits it runs, where those were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roof: Option<Roof>,
    /// What is doubtful about it, in words; empty when nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// The least time that the device's limits allow over the price (Williams 2009).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roof {
    /// Time at the limit over measured time; above 1 the weights must have been cached.
    pub share: f64,
    /// Which limit is the nearer one.
    pub bound: Bound,
}

/// A limit of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Operations a second.
    Compute,
    /// Bytes a second.
    Memory,
}

/// A price in microseconds over all turns of all visits that count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyStatistics {
    /// Median.
    pub median_us: f64,
    /// Smallest.
    pub min_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// Median absolute deviation.
    pub mad_us: f64,
    /// 95 % confidence interval of the median, over visits: turns of one visit have errors in common.
    pub ci95_us: [f64; 2],
    /// Turns.
    pub samples: usize,
}

impl LatencyStatistics {
    /// Half the width of the confidence interval.
    pub fn half_width_us(&self) -> f64 {
        (self.ci95_us[1] - self.ci95_us[0]) / 2.0
    }
}

impl LatencyTable {
    /// Checks that the table is sound.
    ///
    /// # Errors
    /// Names the first entry and field that is not.
    pub fn check(&self) -> Result<(), LatencyError> {
        if self.version != TABLE_VERSION {
            return Err(LatencyError::Version {
                found: self.version,
                expected: TABLE_VERSION,
            });
        }
        self.model.dimensions.validate()?;
        let mut seen = BTreeSet::new();
        for (index, entry) in self.entries.iter().enumerate() {
            entry.check(index)?;
            if !seen.insert((entry.block, entry.phase)) {
                return Err(LatencyError::Duplicate {
                    index,
                    block: entry.block.to_string(),
                    phase: entry.phase.to_string(),
                });
            }
        }
        self.check_models()?;
        self.check_protocol()
    }

    fn check_models(&self) -> Result<(), LatencyError> {
        let wrong = |field: String, value: f64| LatencyError::Field {
            field,
            value: value.to_string(),
            reason: "expected a finite number within reason",
        };
        for (index, calibration) in self.calibration.iter().enumerate() {
            calibration
                .check()
                .map_err(|(field, value)| wrong(format!("calibration[{index}].{field}"), value))?;
        }
        for (index, memory) in self.memory.iter().enumerate() {
            memory
                .check()
                .map_err(|(field, value)| wrong(format!("memory[{index}].{field}"), value))?;
        }
        Ok(())
    }

    fn check_protocol(&self) -> Result<(), LatencyError> {
        let protocol = &self.protocol;
        let rates = protocol.operations_per_second.values();
        let repeatability = protocol.repeatability.iter().flat_map(|r| {
            let differences = r.most_different.iter().map(|entry| entry.share);
            [r.median, r.p95, r.worst, r.raw_median, r.raw_p95]
                .into_iter()
                .chain(differences)
        });
        let placement = protocol.placement.iter().flat_map(|at| {
            [
                ("placement.round_trip_ns", at.round_trip_ns),
                ("placement.share", at.share),
            ]
        });
        let references = protocol.references.iter().map(|r| r.median_us);
        let levels = references.chain(protocol.baselines.iter().map(|b| b.median_us));
        let values = rates
            .copied()
            .map(|rate| ("operations_per_second", rate))
            .chain(levels.map(|level| ("references", level)))
            .chain([("memory_bytes_per_second", protocol.memory_bytes_per_second)])
            .chain(protocol.package_watts.map(|watts| ("package_watts", watts)))
            .chain(repeatability.map(|share| ("repeatability", share)))
            .chain(placement);
        if let Some(at) = protocol.placement.filter(|at| at.round_trip_ns <= 0.0) {
            return Err(LatencyError::Field {
                field: "protocol.placement.round_trip_ns".to_owned(),
                value: at.round_trip_ns.to_string(),
                reason: "expected a positive number of nanoseconds",
            });
        }
        for (field, value) in values {
            if !(value.is_finite() && value >= 0.0) {
                return Err(LatencyError::Field {
                    field: format!("protocol.{field}"),
                    value: value.to_string(),
                    reason: "expected a number that is not negative",
                });
            }
        }
        Ok(())
    }

    /// The calibration of a precision and phase.
    pub fn calibration(&self, precision: Precision, phase: PhaseKind) -> Option<&Calibration> {
        let mut all = self.calibration.iter();
        all.find(|c| c.precision == precision && c.phase == phase)
    }

    /// Checks that new measurements may be compared with this table.
    ///
    /// # Errors
    /// [`LatencyError::Mismatch`] names the first thing that differs.
    pub fn ensure_comparable(
        &self,
        device: &DeviceFingerprint,
        runtime: &RuntimeFingerprint,
    ) -> Result<(), LatencyError> {
        let (ours, build) = (&self.device, &self.runtime);
        let threads = |runtime: &RuntimeFingerprint| runtime.threads.to_string();
        let options = |runtime: &RuntimeFingerprint| format!("{:?}", runtime.session_options);
        let affinity = |device: &DeviceFingerprint| format!("{:?}", device.affinity);
        let governor = |device: &DeviceFingerprint| device.governor.clone().unwrap_or_default();
        for (field, table, here) in [
            ("CPU", ours.cpu_model.clone(), device.cpu_model.clone()),
            ("cores", ours.cores.to_string(), device.cores.to_string()),
            (
                "memory",
                ours.memory_bytes.to_string(),
                device.memory_bytes.to_string(),
            ),
            ("kernel", ours.kernel.clone(), device.kernel.clone()),
            ("governor", governor(ours), governor(device)),
            ("affinity", affinity(ours), affinity(device)),
            ("session options", options(build), options(runtime)),
            ("runtime", build.build.clone(), runtime.build.clone()),
            ("threads", threads(build), threads(runtime)),
        ] {
            if table != here {
                return Err(LatencyError::Mismatch { field, table, here });
            }
        }
        Ok(())
    }
}

impl Entry {
    fn check(&self, index: usize) -> Result<(), LatencyError> {
        let latency = &self.latency;
        let wrong = |field, value: String, reason| {
            Err(LatencyError::Entry {
                index,
                block: self.block.to_string(),
                phase: self.phase.to_string(),
                field,
                value,
                reason,
            })
        };
        for (field, value) in [
            ("price_us", self.price_us),
            ("median_us", latency.median_us),
            ("min_us", latency.min_us),
            ("p90_us", latency.p90_us),
            ("mad_us", latency.mad_us),
            ("ci95_us[0]", latency.ci95_us[0]),
            ("ci95_us[1]", latency.ci95_us[1]),
        ] {
            if !value.is_finite() {
                return wrong(field, value.to_string(), "expected a finite number");
            }
        }
        for (field, value) in [
            ("price_us", self.price_us),
            ("median_us", latency.median_us),
        ] {
            if value <= 0.0 {
                let reason = "expected a positive number of microseconds";
                return wrong(field, value.to_string(), reason);
            }
        }
        if self.roof.is_some_and(|roof| !roof.share.is_finite()) {
            return wrong("roof.share", "not finite".to_owned(), "expected a share");
        }
        if latency.mad_us < 0.0 {
            return wrong(
                "mad_us",
                latency.mad_us.to_string(),
                "it cannot be negative",
            );
        }
        if latency.ci95_us[0] > latency.ci95_us[1] {
            let value = format!("{:?}", latency.ci95_us);
            return wrong("ci95_us", value, "the lower bound is above the upper");
        }
        if latency.samples == 0 {
            return wrong("samples", "0".to_owned(), "an entry needs samples");
        }
        if self.phase.batch() == 0 || self.phase.new_tokens() == 0 {
            let value = self.phase.to_string();
            return wrong("phase", value, "expected at least one sequence and token");
        }
        Ok(())
    }
}
