//! Structural pruning as others do it, at the latency that a sub-network is given.
//!
//! Every baseline keeps at least as much predicted latency as its limit: where its steps are
//! coarse it is slower than what it is compared with, never faster.

mod flap;
mod layers;
mod uniform;

use lathe_arch::{ModelConfig, SubnetConfig, Workload};
use lathe_latency::LatencyTable;
use lathe_supernet::{Importance, Recovery};
use serde::{Deserialize, Serialize};

use crate::LatencyObjective;
pub(crate) use flap::Flap;
pub(crate) use layers::{Greedy, by_influence, dropped, without};
pub(crate) use uniform::uniform_shapes;
pub use uniform::{UniformPruning, uniform_prunings};

/// A structural pruning method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The same width in every layer, by weight magnitude.
    UniformMagnitude,
    /// The same width in every layer, by Wanda-sp's score (2306.11695, 2312.11983).
    UniformWanda,
    /// The same width in every layer, by LLM-Pruner's first-order Taylor score (2305.11627).
    UniformTaylor,
    /// FLAP (2312.11983): a width of its own for every layer by standardised fluctuation, and bias
    /// compensation.
    Flap,
    /// ShortGPT (2403.03853): the layers of least block influence are removed.
    ShortGpt,
    /// SLEB (2402.09025): the layer whose removal harms perplexity least is removed, again and
    /// again.
    Sleb,
    /// Minitron (2407.14679): activation importance, the best of some uniform shapes.
    Minitron,
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UniformMagnitude,
        Self::UniformWanda,
        Self::UniformTaylor,
        Self::Flap,
        Self::ShortGpt,
        Self::Sleb,
        Self::Minitron,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniformMagnitude => "uniform width, magnitude",
            Self::UniformWanda => "uniform width, Wanda-sp",
            Self::UniformTaylor => "uniform width, Taylor",
            Self::Flap => "FLAP",
            Self::ShortGpt => "ShortGPT",
            Self::Sleb => "SLEB",
            Self::Minitron => "Minitron",
        }
    }

    /// How it orders the units of a block.
    pub fn importance(self) -> Importance {
        match self {
            Self::UniformMagnitude => Importance::Magnitude,
            Self::UniformWanda => Importance::Wanda,
            Self::UniformTaylor => Importance::Taylor,
            Self::Minitron => Importance::Activation,
            // The last two remove whole layers, whose units need no order.
            Self::Flap | Self::ShortGpt | Self::Sleb => Importance::Fluctuation,
        }
    }

    /// What it puts in the place of removed units as it was published.
    pub fn recovery(self) -> Recovery {
        match self {
            Self::Flap => Recovery::Bias,
            Self::UniformMagnitude
            | Self::UniformWanda
            | Self::UniformTaylor
            | Self::ShortGpt
            | Self::Sleb
            | Self::Minitron => Recovery::None,
        }
    }
}

/// Predicted latency of sub-networks, and the least of it that a baseline may have.
#[derive(Clone, Copy)]
pub(crate) struct Limit<'a> {
    pub table: &'a LatencyTable,
    pub workload: &'a Workload,
    pub objective: LatencyObjective,
    /// In microseconds.
    pub least_us: f64,
}

impl Limit<'_> {
    pub fn model(&self) -> &ModelConfig {
        &self.table.model.dimensions
    }

    /// Predicted latency in microseconds; `None` for what the table does not cover.
    pub fn latency_us(&self, subnet: &SubnetConfig) -> Option<f64> {
        let prediction = self.table.predict(subnet, self.workload).ok()?;
        Some(self.objective.of(&prediction))
    }

    /// Whether a sub-network is at least as slow as it has to be.
    pub fn is_met(&self, subnet: &SubnetConfig) -> bool {
        self.latency_us(subnet)
            .is_some_and(|latency_us| latency_us >= self.least_us)
    }
}
