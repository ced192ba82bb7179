//! Predictions against measurements of sub-networks that a user names.

use lathe_arch::{SubnetConfig, Workload};
use lathe_profiler::{Elsewhere, HeldOut, MeasuredPhase};
use serde::Serialize;

use crate::Progress;

/// Sub-networks as a table predicts them and as they were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedValidation {
    /// The workload.
    pub workload: Workload,
    /// The sub-networks, in the order asked for.
    pub networks: Vec<NamedNetwork>,
    /// Set when the machine was not as it was for the table, and what that means.
    pub elsewhere: Option<Elsewhere>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedNetwork {
    /// What it was named.
    pub name: String,
    /// Time to first token.
    pub ttft: NamedLatency,
    /// Time per output token at the middle of the generation.
    pub tpot: NamedLatency,
    /// Peak memory as predicted, in bytes, where the table tells.
    pub predicted_memory_bytes: Option<f64>,
    /// Peak memory as measured, in bytes, where the system tells.
    pub measured_memory_bytes: Option<u64>,
}

/// One latency. What the machine's speed changed by since it was profiled is taken out of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NamedLatency {
    /// By the table, in microseconds.
    pub predicted_us: f64,
    /// Half of the width of the 90 % prediction interval, in microseconds.
    pub predicted_half_width_us: f64,
    /// Median over all turns, in microseconds.
    pub measured_us: f64,
    /// 95 % confidence interval of that median, in microseconds.
    pub measured_ci95_us: [f64; 2],
    /// How much slower the machine is than when it was profiled, as a share.
    pub drift: f64,
}

impl NamedValidation {
    /// Measures `networks`, which have these names, whole: each in turn with the table's reference network, and
    /// with random weights, as their values cost no time.
    ///
    /// # Errors
    /// When the table lacks a block or a reference, the agent fails or the disk does not take the graphs.
    pub fn measure(
        names: &[String],
        networks: &HeldOut<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        let predict = |subnet: &SubnetConfig| networks.table.predict(subnet, &networks.workload);
        let predictions = networks.subnets.iter().map(predict);
        let predictions = predictions.collect::<Result<Vec<_>, _>>()?;
        let measured = networks.measure(|done, total| progress("measuring", done, total))?;
        let found = predictions.into_iter().zip(measured.networks);
        let validated = names
            .iter()
            .zip(found)
            .map(|(name, (predicted, measured))| {
                let [prefill, decode] = &measured.phases;
                NamedNetwork {
                    name: name.clone(),
                    ttft: NamedLatency::of(
                        predicted.ttft_us,
                        predicted.ttft_half_width_us,
                        prefill,
                    ),
                    tpot: NamedLatency::of(predicted.tpot_us, predicted.tpot_half_width_us, decode),
                    predicted_memory_bytes: predicted.peak_memory_bytes,
                    measured_memory_bytes: measured.peak_memory_bytes,
                }
            });
        Ok(Self {
            workload: networks.workload,
            networks: validated.collect(),
            elsewhere: measured.elsewhere,
        })
    }
}

impl NamedLatency {
    fn of(predicted_us: f64, predicted_half_width_us: f64, measured: &MeasuredPhase) -> Self {
        Self {
            predicted_us,
            predicted_half_width_us,
            measured_us: measured.median_us,
            measured_ci95_us: measured.ci95_us,
            drift: measured.drift,
        }
    }
}
