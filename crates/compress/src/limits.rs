//! What a sub-network may cost at most.

use lathe_arch::{SearchSpace, SubnetConfig, Workload};
use lathe_latency::LatencyTable;
use lathe_search::Evaluation;

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

/// What of a sub-network is over its limit.
type Excess = Vec<&'static str>;

impl Limits {
    /// Whether anything is limited.
    pub fn are_given(&self) -> bool {
        *self != Self::default()
    }

    /// Checks that the table tells all that is limited, of networks in any precision of `space`: before
    /// a search, not after it.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn check(
        &self,
        table: &LatencyTable,
        workload: &Workload,
        space: &SearchSpace,
    ) -> anyhow::Result<()> {
        let full = space.decode(&space.full_genome())?;
        for &precision in space.precisions() {
            self.excess(table, workload, &full.clone().with_precision(precision))?;
        }
        Ok(())
    }

    /// What of `subnet` is over its limit, by the table's predictions.
    fn excess(
        &self,
        table: &LatencyTable,
        workload: &Workload,
        subnet: &SubnetConfig,
    ) -> anyhow::Result<Excess> {
        let prediction = table.predict(subnet, workload)?;
        let memory = prediction.peak_memory_bytes;
        anyhow::ensure!(
            self.peak_memory_bytes.is_none() || memory.is_some(),
            "--max-memory: the table tells no memory of networks in {}: profile with --networks 3 or more",
            subnet.head_precision
        );
        let weights = subnet.weight_bytes(&table.model.dimensions) as f64;
        let all = [
            ("time to first token", self.ttft_us, prediction.ttft_us),
            ("time per output token", self.tpot_us, prediction.tpot_us),
            ("peak memory", self.peak_memory_bytes, memory.unwrap_or(0.0)),
            ("size", self.weight_bytes, weights),
        ];
        let over = all
            .into_iter()
            .filter(|(_, limit, value)| limit.is_some_and(|l| *value > l));
        Ok(over.map(|(what, ..)| what).collect())
    }

    /// Those of `evaluations` that keep all limits.
    ///
    /// # Errors
    /// When none does: says which limits are too many for all of them. Or as predictions fail.
    pub fn keep(
        &self,
        table: &LatencyTable,
        workload: &Workload,
        space: &SearchSpace,
        evaluations: &[Evaluation],
    ) -> anyhow::Result<Vec<Evaluation>> {
        let mut kept = Vec::new();
        let mut always: Option<Excess> = None;
        for evaluation in evaluations {
            let excess = self.excess(table, workload, &space.decode(&evaluation.genome)?)?;
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
                "none of the {} evaluated networks keeps {which}: allow more, or give more --evaluations",
                evaluations.len()
            );
        }
        Ok(kept)
    }
}
