//! What a sub-network may cost at most.

use anyhow::Context;
use lathe_arch::{SearchSpace, SubnetConfig, Workload};
use lathe_search::Evaluation;

use crate::device::Device;
use crate::{DeviceTables, LatencyObjective};

/// Limits of a device or a product; what is `None` does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Time to first token.
    pub ttft_us: Option<f64>,
    /// Time per output token.
    pub tpot_us: Option<f64>,
    /// Largest resident memory over the workload.
    pub peak_memory_bytes: Option<f64>,
    /// Weights, as they are exported.
    pub weight_bytes: Option<f64>,
}

/// What of a sub-network is over its limit, on which of the devices where there are several.
type Excess = Vec<String>;

impl Limits {
    /// Whether anything is limited.
    pub fn are_given(&self) -> bool {
        *self != Self::default()
    }

    /// Checks that the tables tell all that is limited, of networks in any precision of `space`: before
    /// a search, not after it.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn check(
        &self,
        tables: &DeviceTables,
        workload: Workload,
        space: &SearchSpace,
    ) -> anyhow::Result<()> {
        let devices = tables.devices(space, workload)?;
        let full = space.decode(&space.full_genome())?;
        for &precision in space.precisions() {
            let subnet = full.clone().with_precision(precision);
            self.excess(&devices, &space.encode(&subnet)?, &subnet)?;
        }
        Ok(())
    }

    /// Those of `evaluations` that keep all limits on all devices.
    ///
    /// # Errors
    /// When none does: says which limits are too many for all of them. Or as predictions fail.
    pub fn keep(
        &self,
        tables: &DeviceTables,
        workload: Workload,
        space: &SearchSpace,
        evaluations: &[Evaluation],
    ) -> anyhow::Result<Vec<Evaluation>> {
        let devices = tables.devices(space, workload)?;
        self.keep_on(&devices, space, evaluations)
    }

    /// Those of `evaluations` that keep all limits on all of `devices`.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(crate) fn keep_on(
        &self,
        devices: &[Device<'_>],
        space: &SearchSpace,
        evaluations: &[Evaluation],
    ) -> anyhow::Result<Vec<Evaluation>> {
        let mut kept = Vec::new();
        let mut always: Option<Excess> = None;
        for evaluation in evaluations {
            let genome = &evaluation.genome;
            let excess = self.excess(devices, genome, &space.decode(genome)?)?;
            if excess.is_empty() {
                kept.push(evaluation.clone());
            }
            match &mut always {
                Some(always) => always.retain(|what| excess.contains(what)),
                None => always = Some(excess),
            }
        }
        if kept.is_empty() {
            let which = always.filter(|which| !which.is_empty());
            let which = which.map_or("all limits at once".to_owned(), |which| {
                format!("the limit of {}", which.join(" and that of "))
            });
            anyhow::bail!(
                "none of the {} evaluated networks keeps {which}: allow more, or search with more --evaluations",
                evaluations.len()
            );
        }
        Ok(kept)
    }

    /// What of the network of `genome` is over its limit, as predicted.
    fn excess(
        &self,
        devices: &[Device<'_>],
        genome: &[usize],
        subnet: &SubnetConfig,
    ) -> anyhow::Result<Excess> {
        let mut over = Excess::new();
        for device in devices {
            let memory = self.peak_memory_bytes.map(|limit| {
                let bytes = device.peak_memory_bytes(subnet).context("--max-memory")?;
                anyhow::Ok((limit, bytes))
            });
            let latency =
                |limit: Option<f64>, which| Some((limit?, device.latency_us(which, genome)));
            let all = [
                (
                    "time to first token",
                    latency(self.ttft_us, LatencyObjective::Ttft),
                ),
                (
                    "time per output token",
                    latency(self.tpot_us, LatencyObjective::Tpot),
                ),
                ("peak memory", memory.transpose()?),
                (
                    "size",
                    self.weight_bytes
                        .map(|limit| (limit, device.weight_bytes(subnet))),
                ),
            ];
            let exceeded = all
                .into_iter()
                .filter(|(_, values)| values.is_some_and(|(limit, value)| value > limit));
            over.extend(exceeded.map(|(what, _)| match devices {
                [_] => what.to_owned(),
                _ => format!("{what} on {}", device.name),
            }));
        }
        Ok(over)
    }
}
