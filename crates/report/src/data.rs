//! What a report is made from: plain numbers, with their units in their names.

use serde::{Deserialize, Serialize};

/// Everything that the page of one study shows.
///
/// Any list may be empty and any option absent; the page then says so in that place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// Name of the model that was shaped.
    pub model: String,
    /// What the device is: processor, cores, memory, system.
    pub device: Vec<Fact>,
    /// What ran the models there: runtime, version, threads.
    pub runtime: Vec<Fact>,
    /// The workload that the latencies belong to.
    pub workload: Workload,
    /// Shape of the unpruned model, one entry a layer. Sets the scale of every layer picture.
    pub full_layers: Vec<LayerShape>,
    /// The unpruned model.
    pub base: Option<Point>,
    /// The sub-network that the study hands over.
    pub chosen: Option<Point>,
    /// Uniformly pruned models, for comparison.
    pub uniform: Vec<Point>,
    /// Every sub-network that the search evaluated.
    pub evaluations: Vec<Point>,
    /// The Pareto front: indices into `evaluations`, in any order.
    pub front: Vec<usize>,
    /// Base against chosen, one quantity a row.
    pub summary: Vec<SummaryRow>,
    /// Trainings of the super-network or of single networks; without any there is no section on them.
    pub training: Vec<Training>,
    /// What to know before the validation is believed, one sentence each.
    pub validation_notes: Vec<String>,
    /// Whole networks, predicted and measured.
    pub validation: Vec<ValidationPoint>,
    /// Error statistics of `validation`, one row a phase.
    pub validation_statistics: Vec<ValidationStatistics>,
    /// Entries of the latency table that the predictions rest on.
    pub coverage: Vec<CoverageEntry>,
}

/// A named property of the device or of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// What is described, as in `CPU`.
    pub name: String,
    /// Its value, with its unit.
    pub value: String,
}

/// What one request asks of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Sequences that are processed together.
    pub batch: u64,
    /// Tokens in the prompt of each sequence.
    pub prompt_tokens: u64,
    /// Tokens that are generated for each sequence.
    pub generated_tokens: u64,
}

/// One network: the full model, a sub-network or a baseline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Its name on the page.
    pub label: String,
    /// Time per output token in microseconds, predicted from the latency table. Positive.
    pub latency_us: f64,
    /// The same, measured on the whole network, where that was done. Positive.
    #[serde(default)]
    pub measured_latency_us: Option<f64>,
    /// KL divergence from the full model on the evaluation text, in nats per token. Not negative.
    pub kl_divergence: f64,
    /// Number of weights.
    pub parameters: u64,
    /// What is left of each layer; as many entries as `Report::full_layers`.
    pub layers: Vec<LayerShape>,
}

/// What one layer consists of. A block that was removed is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerShape {
    /// The attention block.
    #[serde(default)]
    pub attention: Option<AttentionShape>,
    /// The MLP block.
    #[serde(default)]
    pub mlp: Option<MlpShape>,
}

/// Size of an attention block.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: the number of KV groups.
    pub kv_heads: usize,
}

/// Size of an MLP block.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpShape {
    /// Width of the hidden layer inside the block.
    pub intermediate_size: usize,
}

/// One quantity of the full model and of the chosen one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SummaryRow {
    /// What is compared, as in `Time to first token`.
    pub name: String,
    /// Its value for the full model, in `unit`.
    pub base: f64,
    /// Its value for the chosen sub-network, in `unit`.
    pub chosen: f64,
    /// Unit of both values.
    pub unit: Unit,
    /// Which direction is the good one.
    #[serde(default)]
    pub better: Better,
}

/// Unit of a summary row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds; printed as µs, ms or s.
    Microseconds,
    /// Bytes; printed as KiB, MiB or GiB.
    Bytes,
    /// A number of things; printed with k, M or B.
    Count,
    /// A share of 100.
    Percent,
    /// A number without unit, such as perplexity.
    Plain,
}

/// Which of two values is preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The smaller one: time, size, divergence.
    #[default]
    Lower,
    /// The larger one: accuracy.
    Higher,
}

/// How a training went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Its name on the page.
    pub name: String,
    /// Its steps, counted from 1, and the loss of each in nats per token.
    pub losses: Vec<(u64, f64)>,
    /// The networks that were scored.
    pub networks: Vec<TrainedNetwork>,
}

/// A network of a training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedNetwork {
    /// Its name, as in `largest`; empty for one alone.
    pub name: String,
    /// Its scores, by rising step.
    pub validations: Vec<TrainingValidation>,
}

/// A network's score on text that was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingValidation {
    /// Steps made before it.
    pub step: u64,
    /// KL divergence from the full model, in nats per token.
    pub kl_divergence: f64,
    /// Perplexity. Positive.
    pub perplexity: f64,
}

/// Which part of the work a number belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The prompt goes through at once.
    Prefill,
    /// One token at a time, with a past.
    Decode,
}

impl Phase {
    /// Both phases, in the order in which a request goes through them.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    /// The name on the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// A whole network whose latency was predicted and then measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationPoint {
    /// Name of the network.
    pub label: String,
    /// The phase that was timed.
    pub phase: Phase,
    /// Predicted time in microseconds. Positive.
    pub predicted_us: f64,
    /// Measured time in microseconds. Positive.
    pub measured_us: f64,
    /// Half the width of the 95 % confidence interval of `measured_us`.
    pub measured_ci95_us: f64,
}

/// How far the predictions of one phase are from the measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationStatistics {
    /// The phase.
    pub phase: Phase,
    /// Number of networks.
    pub n: usize,
    /// Mean absolute error in percent of the measured time.
    pub mape_percent: f64,
    /// Mean signed error in percent of the measured time; positive when predictions are too slow.
    pub bias_percent: f64,
    /// Share of predictions within 5 % of the measurement, 0 to 1.
    pub share_within_5_percent: f64,
    /// Share of predictions within 10 % of the measurement, 0 to 1.
    pub share_within_10_percent: f64,
    /// Kendall's rank correlation, -1 to 1; absent where it is undefined.
    #[serde(default)]
    pub kendall_tau: Option<f64>,
    /// Spearman's rank correlation, -1 to 1; absent where it is undefined.
    #[serde(default)]
    pub spearman: Option<f64>,
}

/// One measured price of the latency table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoverageEntry {
    /// The block choice, with its phase point if there are several.
    pub block: String,
    /// The phase that was timed.
    pub phase: Phase,
    /// Median time in microseconds. A slope between chains: may come out negative on a noisy device.
    pub median_us: f64,
    /// Half the width of the 95 % confidence interval of `median_us`.
    pub ci95_us: f64,
    /// Number of samples behind the median.
    pub samples: u64,
    /// Bytes of weights that the measurement walked through.
    pub footprint_bytes: u64,
    /// Remarks of the profiler, as in `interpolated`; empty when there is nothing to say.
    #[serde(default)]
    pub flags: Vec<String>,
}
