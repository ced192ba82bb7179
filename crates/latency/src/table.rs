use std::collections::BTreeSet;

use lathe_arch::{BlockShape, ModelConfig, Phase};
use serde::{Deserialize, Serialize};

use crate::LatencyError;

/// Version of the table format that this program reads and writes.
pub const TABLE_VERSION: u32 = 1;

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
    /// How it was measured.
    pub protocol: Protocol,
    /// The prices.
    pub entries: Vec<Entry>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Rounds over all entries, each in an order of its own.
    pub rounds: usize,
    /// Seed of the orders and of the inputs.
    pub seed: u64,
    /// Last-level cache in bytes: chains are several times as large.
    pub last_level_cache_bytes: u64,
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
    /// The price.
    pub latency: LatencyStatistics,
    /// Copies in the longer chain.
    pub copies: usize,
    /// Weights of the longer chain in bytes.
    pub footprint_bytes: u64,
    /// What is doubtful about it, in words; empty when nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// A price in microseconds over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyStatistics {
    /// Median: the value that predictions use.
    pub median_us: f64,
    /// Smallest.
    pub min_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// Median absolute deviation.
    pub mad_us: f64,
    /// 95 % confidence interval of the median.
    pub ci95_us: [f64; 2],
    /// Rounds that count.
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
        Ok(())
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
        for (field, table, here) in [
            ("CPU", ours.cpu_model.clone(), device.cpu_model.clone()),
            ("cores", ours.cores.to_string(), device.cores.to_string()),
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
        if latency.median_us <= 0.0 {
            let reason = "expected a positive number of microseconds";
            return wrong("median_us", latency.median_us.to_string(), reason);
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
