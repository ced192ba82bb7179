//! Commands that search, and what is searched.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lathe_arch::{Granularity, Precision, SpaceSpec, Workload};
use lathe_compress::{LatencyObjective, Limits};

use super::lesson::LessonArguments;
use super::model::{AdapterArgument, DeviceArguments, ModelArguments};
use super::number::{population, share};
use super::quality::{AnswerWeightArgument, QuestionSource, SearchTaskArguments};
use crate::units;

/// Search methods.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The exact front of an additive model that true evaluations correct
    Additive,
    /// NSGA-II, seeded with the full model and prunings of it
    Nsga2,
    /// NSGA-III: the same children, kept apart by reference directions
    Nsga3,
    /// Neighbours of the front's members, from the same first sub-networks
    LocalSearch,
    /// Regularised evolution, from the same first sub-networks
    Evolution,
    /// Bayesian optimisation by expected hypervolume improvement, from the same first sub-networks
    Ehvi,
    /// As many random sub-networks at every latency, after the same first ones
    Stratified,
    /// Random search from the same first sub-networks: the control
    Random,
}

/// Sizes of blocks among which a search chooses.
#[derive(Args)]
pub struct SizeArguments {
    /// Query heads that may be kept in each KV group [default: the model's, all]
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub heads_per_group: Vec<usize>,
    /// What is chosen at once: layer (each layer by itself) or uniform (all alike) [default: the model's, layer]
    #[arg(long, value_name = "WHAT")]
    pub granularity: Option<Granularity>,
}

impl SizeArguments {
    /// The model's own choices but for those that were given.
    pub fn among(&self, own: &SpaceSpec) -> SpaceSpec {
        let mut choices = own.clone();
        if !self.heads_per_group.is_empty() {
            choices.heads_per_group = self.heads_per_group.clone();
        }
        if let Some(granularity) = self.granularity {
            choices.granularity = granularity;
        }
        choices
    }
}

/// What the chosen sub-network may cost at most, as predicted. With any of them, only networks that
/// keep them all are printed and written, and the best of them by itself.
#[derive(Args)]
pub struct LimitArguments {
    /// Longest time to first token: 80ms, 0.1s
    #[arg(long, value_name = "TIME", value_parser = units::microseconds)]
    pub max_ttft: Option<f64>,
    /// Longest time per output token: 12ms, 9500us
    #[arg(long, value_name = "TIME", value_parser = units::microseconds)]
    pub max_tpot: Option<f64>,
    /// Largest resident memory over the workload: 400MB, 1.5GiB
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub max_memory: Option<f64>,
    /// Largest file of weights: 200MB
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub max_size: Option<f64>,
}

impl LimitArguments {
    pub fn limits(&self) -> Limits {
        Limits {
            ttft_us: self.max_ttft,
            tpot_us: self.max_tpot,
            peak_memory_bytes: self.max_memory,
            weight_bytes: self.max_size,
        }
    }
}

/// What is searched: sub-networks of a model, their latency in a table, their quality on a text.
#[derive(Args)]
pub struct ProblemArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// The latency table; of several, the latency in each is minimised
    #[arg(long, required = true, value_name = "FILE")]
    pub table: Vec<PathBuf>,
    /// Tokens of each evaluation
    #[arg(long, default_value_t = 2048, value_name = "N")]
    pub tokens: usize,
    /// Precisions that blocks and LM head may have [default: the model's, f32]
    #[arg(long, value_delimiter = ',', value_name = "P,P")]
    pub precision: Vec<Precision>,
    #[command(flatten)]
    pub task: SearchTaskArguments,
    #[command(flatten)]
    pub sizes: SizeArguments,
    /// Which latency is minimised: tpot, ttft or total
    #[arg(long, default_value = "tpot", value_name = "WHICH")]
    pub latency: LatencyObjective,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
}

#[derive(Args)]
pub struct Search {
    #[command(flatten)]
    pub problem: ProblemArguments,
    #[command(flatten)]
    pub weight: AnswerWeightArgument,
    /// The method
    #[arg(long, value_enum, default_value = "additive")]
    pub method: Method,
    /// Evaluations
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub evaluations: usize,
    /// Members of the population of NSGA-II, NSGA-III and evolution; after --from-scratch, first sub-networks of
    /// every method
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = population)]
    pub population: usize,
    /// Seed of the method
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Cheaper evaluations before that, the cheapest first: one in three sub-networks rises from each to
    /// the next (successive halving around the method). --evaluations is then what all of them cost
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub stage_tokens: Vec<usize>,
    /// Tokens of each block score, from which the first sub-networks follow [default: 512, 2048 with --to-heal]
    #[arg(long, value_name = "N")]
    pub block_tokens: Option<usize>,
    /// Begin with networks that lack several layers in a row, too: they lose no less when they are cut, and less once
    /// they are healed. That takes several times as many block scores
    #[arg(long)]
    pub to_heal: bool,
    /// Begin with uniform draws, the largest, the smallest and the middle network, without block scores: to compare
    /// methods
    #[arg(long)]
    pub from_scratch: bool,
    /// Sub-networks that are proposed at once. With more than one, several processes may work on the
    /// study: run the same command with --resume in each
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Shares of the full model's latency to spend the evaluations on, additive method only [default: the limit on --latency, or the whole front]
    #[arg(long, value_delimiter = ',', value_name = "SHARE", value_parser = share)]
    pub levels: Vec<f64>,
    #[command(flatten)]
    pub limits: LimitArguments,
    /// The study; front.yaml and front.csv go beside it
    #[arg(long, value_name = "FILE")]
    pub study: PathBuf,
    /// Go on with a study that holds evaluations
    #[arg(long)]
    pub resume: bool,
    /// Print the front as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Objective {
    #[command(flatten)]
    pub problem: ProblemArguments,
    /// Where evaluations are kept, to be made once only
    #[arg(long, value_name = "FILE")]
    pub study: PathBuf,
}

#[derive(Args)]
pub struct Compare {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// The latency table
    #[arg(long, value_name = "FILE")]
    pub table: PathBuf,
    /// Which latencies are pruned for: tpot, ttft or total
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tpot,ttft",
        value_name = "WHICH"
    )]
    pub objective: Vec<LatencyObjective>,
    /// Precisions that a second search chooses among; f32 for structure alone [default: the table's]
    #[arg(long, value_delimiter = ',', value_name = "P,P")]
    pub precision: Vec<Precision>,
    #[command(flatten)]
    pub sizes: SizeArguments,
    /// Shares of the full model's latency
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.9,0.8,0.7,0.6,0.5",
        value_name = "SHARE",
        value_parser = share
    )]
    pub levels: Vec<f64>,
    /// Evaluations of each search
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub evaluations: usize,
    /// Tokens of each evaluation
    #[arg(long, default_value_t = 2048, value_name = "N")]
    pub tokens: usize,
    #[command(flatten)]
    pub search_task: SearchTaskArguments,
    #[command(flatten)]
    pub weight: AnswerWeightArgument,
    /// Tokens of each block score
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub block_tokens: usize,
    /// Tokens of the reported perplexities
    #[arg(long, default_value_t = 8192, value_name = "N")]
    pub test_tokens: usize,
    /// What all networks are asked: mmlu (letters), mmlu-cloze (answers), or a file of JSON lines with
    /// context, choices and answer (index of the right choice, from 0)
    #[arg(long, default_value = "mmlu-cloze", value_name = "TASK|FILE")]
    pub task: QuestionSource,
    /// Questions of it, the first of a fixed order; 0 for none
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub questions: usize,
    /// Score choices without their contexts as well: right is then also told by what the context adds
    #[arg(long)]
    pub mutual_info: bool,
    /// Steps for which the winners and the best baselines of each level are healed alike; 0 for none
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub heal_steps: usize,
    #[command(flatten)]
    pub lesson: LessonArguments,
    /// Seed of the search
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Leave the winners unmeasured
    #[arg(long)]
    pub no_measure: bool,
    /// Where everything goes; run it again to go on
    #[arg(long, default_value = "runs/compare", value_name = "DIR")]
    pub out: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
