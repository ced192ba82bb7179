//! Choosing a sub-network as a search problem.

use std::str::FromStr;

use lathe_arch::{ModelConfig, SearchSpace, SubnetConfig, Workload};
use lathe_latency::{LatencyTable, Prediction};
use lathe_search::{Cost, Evaluation, Fidelity, Genome, Problem, Space, Trial};
use lathe_supernet::{Supernet, SupernetError};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::{Column, DeviceTables, Front, Loss, Member, Objective};

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

/// What latencies are called as objectives.
pub(crate) const LATENCY: &str = "latency_us";

/// Predicted latency on one device or several against the [`Loss`] of the sub-networks of one
/// super-network.
pub struct SubnetProblem<'a> {
    loss: &'a Loss<'a>,
    /// On fewer tokens, the fewest first.
    low: &'a [Loss<'a>],
    low_shares: Vec<f64>,
    search_space: SearchSpace,
    space: Space,
    devices: Vec<Device<'a>>,
    names: Vec<String>,
    objective: LatencyObjective,
    fingerprint: String,
    /// Genomes that are looked at first.
    first: Vec<Genome>,
}

impl<'a> SubnetProblem<'a> {
    /// Has searches look at these networks first; those that are not of the space are left out.
    #[must_use]
    pub fn begun_with(mut self, networks: &[SubnetConfig]) -> Self {
        let encoded = networks
            .iter()
            .map(|network| self.search_space.encode(network));
        self.first = encoded.filter_map(Result::ok).collect();
        self
    }

    /// Genomes that are looked at first.
    pub(crate) fn first(&self) -> &[Genome] {
        &self.first
    }

    /// The problem of `search_space` with prices from `table`.
    ///
    /// # Errors
    /// When the table lacks a choice of the space or does not cover the workload.
    pub fn new(
        loss: &'a Loss<'a>,
        search_space: &SearchSpace,
        table: &'a LatencyTable,
        workload: Workload,
        objective: LatencyObjective,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            loss,
            low: &[],
            low_shares: Vec::new(),
            space: Space::new(search_space.cardinalities())?,
            devices: vec![Device::new(
                &table.device.name,
                table,
                search_space,
                workload,
            )?],
            names: names([LATENCY.to_owned()], loss),
            fingerprint: format!(
                "{}{ON}{}, {workload}, {objective:?}, {}, table {:016x}, super-network {:016x}",
                table.model.name,
                table.device.name,
                loss.fingerprint(),
                table_digest(table),
                loss.supernet().digest(),
            ),
            search_space: search_space.clone(),
            objective,
            first: Vec::new(),
        })
    }

    /// The problem of several devices: the latency on each is minimised.
    ///
    /// # Errors
    /// When a table is of another model, lacks a choice of the space or does not cover the workload.
    pub fn on_devices(
        loss: &'a Loss<'a>,
        search_space: &SearchSpace,
        tables: &'a DeviceTables,
        workload: Workload,
        objective: LatencyObjective,
    ) -> anyhow::Result<Self> {
        let mut problem = Self::new(loss, search_space, tables.first(), workload, objective)?;
        problem.devices = tables.devices(search_space, workload)?;
        if let [_, others @ ..] = &problem.devices[..] {
            for device in others {
                let digest = table_digest(device.table);
                problem.fingerprint += &format!("; and{ON}{}, table {digest:016x}", device.name);
            }
        }
        if problem.devices.len() > 1 {
            let devices = problem.devices.iter();
            let latencies = devices.map(|device| format!("{LATENCY}@{}", device.name));
            problem.names = names(latencies, loss);
        }
        Ok(problem)
    }

    /// The same problem with cheaper evaluations on fewer tokens, the fewest first.
    ///
    /// # Errors
    /// When they are not on ever more tokens, fewer than those of full evaluations.
    pub fn with_low_fidelities(mut self, low: &'a [Loss<'a>]) -> anyhow::Result<Self> {
        let full = self.loss.token_count();
        let tokens: Vec<usize> = low.iter().map(Loss::token_count).collect();
        anyhow::ensure!(
            tokens.iter().chain([&full]).is_sorted_by(|a, b| a < b),
            "stages of {tokens:?} tokens before evaluations on {full}: expected ever more"
        );
        let shares = tokens.iter().map(|tokens| *tokens as f64 / full as f64);
        self.low_shares = shares.collect();
        self.low = low;
        Ok(self)
    }

    /// The super-network whose sub-networks are searched.
    pub fn supernet(&self) -> &Supernet {
        self.loss.supernet()
    }

    /// The choices behind the genomes.
    pub fn search_space(&self) -> &SearchSpace {
        &self.search_space
    }

    /// The model's dimensions.
    pub fn model(&self) -> &ModelConfig {
        self.loss.supernet().model()
    }

    /// Number of devices.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Predicted time to first token and time per output token of a genome on the first device, in
    /// microseconds.
    pub fn ttft_and_tpot_us(&self, genome: &[usize]) -> [f64; 2] {
        let device = &self.devices[0];
        [LatencyObjective::Ttft, LatencyObjective::Tpot]
            .map(|latency| device.latency_us(latency, genome))
    }

    /// A front of evaluations with the predicted latencies on every device.
    ///
    /// # Errors
    /// When a genome is not of the space.
    pub fn front(&self, evaluations: &[Evaluation]) -> anyhow::Result<Front> {
        let latencies = [LatencyObjective::Ttft, LatencyObjective::Tpot];
        let names = self.devices.iter().map(|device| device.name);
        let names = names.map(|name| (self.devices.len() > 1).then(|| name.to_owned()));
        let columns = names.flat_map(|device| {
            latencies.map(|latency| Column {
                objective: Objective::Latency(latency),
                device: device.clone(),
            })
        });
        let lost = self.loss.parts().iter().map(|part| Column {
            objective: *part,
            device: None,
        });
        let latency_count = self.devices.len();
        let member = |evaluation: &Evaluation| {
            let genome = &evaluation.genome;
            let devices = self.devices.iter();
            let values = devices
                .flat_map(|device| latencies.map(|latency| device.latency_us(latency, genome)));
            let subnet = self.search_space.decode(genome)?;
            anyhow::Ok(Member {
                genome: genome.clone(),
                values: values
                    .chain(evaluation.objectives.iter().skip(latency_count).copied())
                    .collect(),
                parameters: subnet.parameters(self.model()),
                subnet,
            })
        };
        Ok(Front {
            columns: columns.chain(lost).collect(),
            members: evaluations.iter().map(member).collect::<Result<_, _>>()?,
        })
    }

    /// What a network loses besides.
    pub fn loss(&self) -> &'a Loss<'a> {
        self.loss
    }

    /// The latency that is minimised, on the first device, in microseconds.
    pub fn latency_us(&self, genome: &[usize]) -> f64 {
        self.devices[0].latency_us(self.objective, genome)
    }

    /// The same for a method that knows it without an evaluation.
    pub fn cost(&self) -> Cost {
        self.devices[0].cost(self.objective)
    }

    /// The latencies on all devices as one cost: their mean by `weights`, each as a share of the full
    /// model's there, times the full model's on the first device, in microseconds.
    pub(crate) fn cost_us(&self, genome: &[usize], weights: &[f64]) -> f64 {
        let full = self.search_space.full_genome();
        let pairs = self.devices.iter().zip(weights);
        let share = |(device, weight): (&Device<'_>, &f64)| {
            let latency_us = |genome| device.latency_us(self.objective, genome);
            weight * latency_us(genome) / latency_us(&full[..])
        };
        self.latency_us(&full) * pairs.map(share).sum::<f64>() / weights.iter().sum::<f64>()
    }
}

impl Problem for SubnetProblem<'_> {
    type Error = SupernetError;

    fn space(&self) -> &Space {
        &self.space
    }

    fn objective_names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn low_fidelities(&self) -> &[f64] {
        &self.low_shares
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, SupernetError> {
        let config = self.search_space.decode(&trial.genome)?;
        let loss = match trial.fidelity {
            Fidelity::Low(index) => self.low.get(index).unwrap_or(self.loss),
            Fidelity::Full => self.loss,
        };
        let subnet = loss.supernet().cut(&config)?;
        let latencies = self.devices.iter();
        let latencies = latencies.map(|device| device.latency_us(self.objective, &trial.genome));
        Ok(latencies.chain(loss.of(&subnet)?).collect())
    }
}

/// Names of objectives: latencies, then what is lost.
fn names(latencies: impl IntoIterator<Item = String>, loss: &Loss<'_>) -> Vec<String> {
    let lost = loss.parts().iter().map(|part| part.field().to_owned());
    latencies.into_iter().chain(lost).collect()
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
