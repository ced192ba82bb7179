//! What fronts are over: everything that is known of an evaluated sub-network.

use std::str::FromStr;

use crate::LatencyObjective;

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// A predicted latency.
    Latency(LatencyObjective),
    /// Predicted peak resident memory over the workload.
    Memory,
    /// Weights, as they are exported.
    Size,
    /// Energy of the processors over the workload: their mean power under load times its latency. On
    /// one device it orders networks as [`LatencyObjective::Total`] does.
    Energy,
    /// KL divergence from the full model, which the study measured.
    Kl,
    /// How many bits per byte more the right answers take than of the full model, which a study measured that
    /// was told questions.
    Answers,
}

impl Objective {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Latency(LatencyObjective::Ttft),
        Self::Latency(LatencyObjective::Tpot),
        Self::Latency(LatencyObjective::Total),
        Self::Memory,
        Self::Size,
        Self::Energy,
        Self::Kl,
        Self::Answers,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency(latency) => latency.name(),
            Self::Memory => "memory",
            Self::Size => "size",
            Self::Energy => "energy",
            Self::Kl => "kl",
            Self::Answers => "answers",
        }
    }

    /// Its name in files, which ends in its unit; KL divergence is in nats.
    pub fn field(self) -> &'static str {
        match self {
            Self::Latency(LatencyObjective::Ttft) => "ttft_us",
            Self::Latency(LatencyObjective::Tpot) => "tpot_us",
            Self::Latency(LatencyObjective::Total) => "total_us",
            Self::Memory => "peak_memory_bytes",
            Self::Size => "weight_bytes",
            Self::Energy => "energy_joules",
            Self::Kl => "kl_divergence",
            Self::Answers => "bits_per_byte_increase",
        }
    }

    /// Decimals that are worth writing, in the unit of its field.
    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::Latency(_) => 1,
            Self::Memory | Self::Size => 0,
            Self::Energy | Self::Kl | Self::Answers => 4,
        }
    }

    /// Whether it differs from device to device.
    pub(crate) fn is_of_device(self) -> bool {
        match self {
            Self::Latency(_) | Self::Memory | Self::Energy => true,
            Self::Size | Self::Kl | Self::Answers => false,
        }
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let mut all = Self::ALL.into_iter();
        all.find(|objective| objective.name() == text)
            .ok_or_else(|| format!("`{text}`: expected one of {}", names()))
    }
}
