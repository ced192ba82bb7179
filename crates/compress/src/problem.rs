//! Choosing a sub-network as a search problem.

use std::str::FromStr;

use lathe_arch::{ModelConfig, SearchSpace, Workload};
use lathe_latency::{LatencyTable, Prediction, SpacePrices};
use lathe_search::{Genome, Problem, Space};
use lathe_supernet::{Evaluator, Subnet, Supernet, SupernetError};
use serde::{Deserialize, Serialize};

/// Which predicted latency is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatencyObjective {
    /// Time per output token.
    Tpot,
    /// Time to first token.
    Ttft,
    /// The whole workload.
    Total,
}

impl LatencyObjective {
    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpot => "tpot",
            Self::Ttft => "ttft",
            Self::Total => "total",
        }
    }

    /// This latency of a prediction, in microseconds.
    pub fn of(self, prediction: &Prediction) -> f64 {
        match self {
            Self::Tpot => prediction.tpot_us,
            Self::Ttft => prediction.ttft_us,
            Self::Total => prediction.total_us,
        }
    }

    /// This latency in microseconds, of a time to first token and a time per output token.
    pub(crate) fn of_times(self, [ttft_us, tpot_us]: [f64; 2], workload: &Workload) -> f64 {
        match self {
            Self::Tpot => tpot_us,
            Self::Ttft => ttft_us,
            Self::Total => ttft_us + workload.decode_steps() as f64 * tpot_us,
        }
    }
}

impl FromStr for LatencyObjective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tpot" => Ok(Self::Tpot),
            "ttft" => Ok(Self::Ttft),
            "total" => Ok(Self::Total),
            other => Err(format!("`{other}`: expected tpot, ttft or total")),
        }
    }
}

/// Name of the quality objective.
pub(crate) const KL_DIVERGENCE: &str = "kl_divergence";
/// What a search minimises.
pub(crate) const OBJECTIVES: [&str; 2] = ["latency_us", KL_DIVERGENCE];

/// Predicted latency against KL divergence from the full model, over the sub-networks of one
/// super-network.
pub struct SubnetProblem<'a> {
    evaluator: &'a Evaluator<'a>,
    search_space: SearchSpace,
    space: Space,
    prices: SpacePrices,
    workload: Workload,
    objective: LatencyObjective,
    fingerprint: String,
}

impl<'a> SubnetProblem<'a> {
    /// The problem of `search_space` with prices from `table`.
    ///
    /// # Errors
    /// When the table lacks a choice of the space or does not cover the workload.
    pub fn new(
        evaluator: &'a Evaluator<'a>,
        search_space: &SearchSpace,
        table: &LatencyTable,
        workload: Workload,
        objective: LatencyObjective,
    ) -> anyhow::Result<Self> {
        let tokens = evaluator.token_count();
        Ok(Self {
            evaluator,
            space: Space::new(search_space.cardinalities())?,
            prices: SpacePrices::new(table, search_space, &workload)?,
            fingerprint: format!(
                "{}{ON}{}, {workload}, {objective:?}, {tokens} tokens, table {:016x}, super-network {:016x}",
                table.model.name,
                table.device.name,
                table_digest(table),
                evaluator.supernet().digest(),
            ),
            search_space: search_space.clone(),
            workload,
            objective,
        })
    }

    /// The super-network whose sub-networks are searched.
    pub fn supernet(&self) -> &Supernet {
        self.evaluator.supernet()
    }

    /// The choices behind the genomes.
    pub fn search_space(&self) -> &SearchSpace {
        &self.search_space
    }

    /// The model's dimensions.
    pub fn model(&self) -> &ModelConfig {
        self.evaluator.supernet().model()
    }

    /// Predicted time to first token and time per output token of a genome, in microseconds.
    pub fn ttft_and_tpot_us(&self, genome: &[usize]) -> [f64; 2] {
        self.prices.ttft_and_tpot_us(genome)
    }

    /// The latency that is minimised, in microseconds.
    pub fn latency_us(&self, genome: &[usize]) -> f64 {
        let times = self.ttft_and_tpot_us(genome);
        self.objective.of_times(times, &self.workload)
    }
}

impl Problem for SubnetProblem<'_> {
    type Error = SupernetError;

    fn space(&self) -> &Space {
        &self.space
    }

    fn objective_names(&self) -> &[&'static str] {
        &OBJECTIVES
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn evaluate(&mut self, genome: &Genome) -> Result<Vec<f64>, SupernetError> {
        let config = self.search_space.decode(genome)?;
        let subnet = self.evaluator.supernet().cut(&config)?;
        Ok(vec![
            self.latency_us(genome),
            divergence(self.evaluator, &subnet),
        ])
    }
}

/// Whether a problem with this fingerprint is one of the model `name`.
pub(crate) fn is_of_model(fingerprint: &str, name: &str) -> bool {
    let rest = fingerprint.strip_prefix(name);
    rest.is_some_and(|rest| rest.starts_with(ON))
}

/// What a fingerprint says of the model, at most so many characters.
pub(crate) fn model_in(fingerprint: &str) -> String {
    let model = fingerprint.split(ON).next().unwrap_or_default();
    model.chars().take(EXCERPT).collect()
}

/// Between the model and the device in a fingerprint.
const ON: &str = " on ";
/// Characters of a fingerprint that are shown.
const EXCERPT: usize = 80;

/// KL divergence of a sub-network from the full model in nats, at most [`MAX_DIVERGENCE`]: beyond it
/// one is as useless as any other, and infinity or NaN would stop a search.
pub(crate) fn divergence(evaluator: &Evaluator<'_>, subnet: &Subnet<'_>) -> f64 {
    let divergence = evaluator.perplexity_and_kl(subnet).kl_divergence;
    divergence.map_or(MAX_DIVERGENCE, capped)
}

/// NaN counts as the most.
fn capped(divergence: f64) -> f64 {
    divergence.min(MAX_DIVERGENCE)
}

/// Divergences are capped here, in nats.
const MAX_DIVERGENCE: f64 = 20.0;

/// Tells tables apart: two profiles of one device differ in their prices.
fn table_digest(table: &LatencyTable) -> u64 {
    let bits = table
        .entries
        .iter()
        .map(|entry| entry.latency.median_us.to_bits());
    // FNV-1a over the prices: stable across versions of the standard library.
    bits.fold(0xcbf2_9ce4_8422_2325, |hash, bits| {
        (hash ^ bits).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_network_is_as_far_as_can_be() {
        assert_eq!(capped(0.5), 0.5);
        for broken in [f64::NAN, f64::INFINITY] {
            assert_eq!(capped(broken), MAX_DIVERGENCE);
        }
    }
}
