//! What a device's table says of the networks of a search space.

use std::iter::once;

use anyhow::Context;
use lathe_arch::{SearchSpace, SubnetConfig, Workload};
use lathe_latency::{LatencyError, LatencyTable, SpacePrices};
use lathe_search::Cost;

use crate::LatencyObjective;

/// Prices of a search space on one device at one workload.
pub(crate) struct Device<'a> {
    /// Its name, in messages and columns.
    pub name: &'a str,
    /// What is known of it.
    pub table: &'a LatencyTable,
    workload: Workload,
    prices: SpacePrices,
}

impl<'a> Device<'a> {
    /// The device of `table`.
    ///
    /// # Errors
    /// When the table lacks a choice of the space or does not cover the workload.
    pub fn new(
        name: &'a str,
        table: &'a LatencyTable,
        space: &SearchSpace,
        workload: Workload,
    ) -> Result<Self, LatencyError> {
        Ok(Self {
            name,
            table,
            workload,
            prices: SpacePrices::new(table, space, &workload)?,
        })
    }

    /// A latency of a genome of the space, in microseconds.
    pub fn latency_us(&self, latency: LatencyObjective, genome: &[usize]) -> f64 {
        latency.of_times(self.prices.ttft_and_tpot_us(genome), &self.workload)
    }

    /// The same as a function of its own.
    pub fn cost(&self, latency: LatencyObjective) -> Cost {
        let (prices, workload) = (self.prices.clone(), self.workload);
        Box::new(move |genome| latency.of_times(prices.ttft_and_tpot_us(genome), &workload))
    }

    /// Peak resident memory over the workload, in bytes.
    ///
    /// # Errors
    /// When the table tells no memory of networks in one of its precisions.
    pub fn peak_memory_bytes(&self, subnet: &SubnetConfig) -> anyhow::Result<f64> {
        let bytes = self.table.predict_peak_memory_bytes(subnet, &self.workload);
        bytes.with_context(|| {
            let is_known = |precision| self.table.memory.iter().any(|m| m.precision == precision);
            let blocks = subnet.blocks().map(|block| block.precision());
            let unknown = once(subnet.head_precision)
                .chain(blocks)
                .find(|precision| !is_known(*precision));
            format!(
                "the table of `{}` tells no memory of networks in {}: profile with --networks 3 or more",
                self.name,
                unknown.unwrap_or(subnet.head_precision)
            )
        })
    }

    /// Energy of the processors over the workload in joules: their mean power times its latency.
    ///
    /// # Errors
    /// When the table tells no power.
    pub fn energy_joules(&self, genome: &[usize]) -> anyhow::Result<f64> {
        let watts = self.table.protocol.package_watts.with_context(|| {
            format!(
                "the table of `{}` tells no energy: its `package_watts` is absent, the device offered no counter of energy when it was profiled",
                self.name
            )
        })?;
        Ok(watts * self.latency_us(LatencyObjective::Total, genome) / 1e6)
    }

    /// Weights as they are exported, in bytes.
    pub fn weight_bytes(&self, subnet: &SubnetConfig) -> f64 {
        subnet.weight_bytes(&self.table.model.dimensions) as f64
    }
}
