//! Choosing a sub-network as a search problem.

use std::str::FromStr;

use lathe_arch::{ModelConfig, SearchSpace, Workload};
use lathe_latency::{LatencyTable, Prediction, SpacePrices};
use lathe_search::{Cost, Genome, Problem, Space};
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

/// What a search minimises.
pub(crate) const OBJECTIVES: [&str; 2] = ["latency_us", "kl_divergence"];

/// Predicted latency against KL divergence from the full model, over the sub-networks of one
/// super-network.
pub struct SubnetProblem<'a> {
    evaluator: &'a Evaluator<'a>,
    search_space: SearchSpace,
    space: Space,
    latency: Latency,
    fingerprint: String,
}

/// What is known of a genome without running it.
#[derive(Debug, Clone)]
struct Latency {
    prices: SpacePrices,
    workload: Workload,
    objective: LatencyObjective,
}

impl Latency {
    /// In microseconds.
    fn of(&self, genome: &[usize]) -> f64 {
        let [ttft_us, tpot_us] = self.prices.ttft_and_tpot_us(genome);
        match self.objective {
            LatencyObjective::Tpot => tpot_us,
            LatencyObjective::Ttft => ttft_us,
            LatencyObjective::Total => ttft_us + self.workload.decode_steps() as f64 * tpot_us,
        }
    }
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
            latency: Latency {
                prices: SpacePrices::new(table, search_space, &workload)?,
                workload,
                objective,
            },
            fingerprint: format!(
                "{} on {}, {workload}, {objective:?}, {tokens} tokens, table {:016x}, super-network {:016x}",
                table.model.name,
                table.device.name,
                table_digest(table),
                evaluator.supernet().digest(),
            ),
            search_space: search_space.clone(),
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
        self.latency.prices.ttft_and_tpot_us(genome)
    }

    /// The latency that is minimised, in microseconds.
    pub fn latency_us(&self, genome: &[usize]) -> f64 {
        self.latency.of(genome)
    }

    /// The same for a method that knows it without an evaluation.
    pub fn cost(&self) -> Cost {
        let latency = self.latency.clone();
        Box::new(move |genome| latency.of(genome))
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
