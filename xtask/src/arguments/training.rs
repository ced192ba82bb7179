//! Commands that train.

use std::path::PathBuf;

use clap::Args;
use lathe_arch::Workload;
use lathe_compress::{LatencyObjective, Sampling};
use lathe_supernet::Target;

use super::engine::EngineArguments;
use super::lesson::LessonArguments;
use super::model::{AdapterArgument, ModelArguments};
use super::number::{at_least_one, positive, share};
use super::search::SizeArguments;

/// How networks are trained, how long, and where it goes.
#[derive(Args)]
pub struct TrainingArguments {
    /// Steps
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub steps: Option<usize>,
    /// As many steps as take so long by the first of them, in minutes
    #[arg(
        long,
        default_value_t = 15.0,
        value_name = "N",
        conflicts_with = "steps",
        value_parser = positive
    )]
    pub minutes: f64,
    /// Train low-rank adapters of this rank, and gains and biases; all weights when absent
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub rank: Option<usize>,
    /// What adapters are multiplied by, times the rank [default: twice the rank]
    #[arg(long, value_name = "X", requires = "rank", value_parser = positive)]
    pub alpha: Option<f64>,
    /// Matrices that have adapters
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "q,k,v,o,gate,up,down",
        value_name = "M,M",
        requires = "rank"
    )]
    pub targets: Vec<Target>,
    /// Highest learning rate [default: 3e-4, of adapters 3e-3]
    #[arg(long, value_name = "X", value_parser = positive)]
    pub learning_rate: Option<f64>,
    /// Steps over which the learning rate rises, at most half of all
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub warmup_steps: usize,
    /// Decay of matrices, times the learning rate a step
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub weight_decay: f64,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = positive)]
    pub clip: f64,
    /// Tokens a step
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = at_least_one)]
    pub batch_tokens: usize,
    /// Tokens of a window of text
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = at_least_one)]
    pub window_tokens: usize,
    /// Leave gains of norms and biases as they are
    #[arg(long)]
    pub freeze_vectors: bool,
    #[command(flatten)]
    pub lesson: LessonArguments,
    /// Seed of the order of the text and of adapters
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    pub engine: EngineArguments,
    /// Steps between two states on the disk, from which --resume goes on
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = at_least_one)]
    pub save_every: usize,
    /// Steps between two validations on the text that searches read
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = at_least_one)]
    pub validate_every: usize,
    /// Tokens of a validation
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = at_least_one)]
    pub validation_tokens: usize,
    /// Where everything goes: what was trained, metrics.jsonl, and the state while the training is
    /// unfinished
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with an unfinished training
    #[arg(long)]
    pub resume: bool,
    /// Say what it takes in memory and arithmetic, by the model's sizes alone, and train nothing
    #[arg(long, conflicts_with = "resume")]
    pub estimate: bool,
    /// Print what came out as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Heal {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// The sub-network, or the folder of a healed one; of several the one that heals best: half of them
    /// drop out again and again, the last but one after half of --steps
    #[arg(long, required = true, num_args = 1.., value_name = "FILE|DIR")]
    pub subnet: Vec<PathBuf>,
    /// Begin with the blocks as searches rank them, not corrected for what those before them have
    /// shifted
    #[arg(long)]
    pub keep_drift: bool,
    #[command(flatten)]
    pub training: TrainingArguments,
}

#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub sizes: SizeArguments,
    /// A latency table: what networks cost; without one it is their parameters
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Which latency of the table: tpot, ttft or total
    #[arg(long, default_value = "tpot", value_name = "WHICH", requires = "table")]
    pub latency: LatencyObjective,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G", requires = "table")]
    pub workload: Workload,
    /// Draw networks near this front: front.yaml of a search, or its study
    #[arg(long, value_name = "FILE")]
    pub front: Option<PathBuf>,
    /// How networks are drawn: front, stratified (as many at every cost), sandwich (largest, smallest
    /// and random ones) or random [default: front with --front, else stratified]
    #[arg(long, value_name = "HOW")]
    pub sampling: Option<Sampling>,
    /// Networks a step; of a sandwich besides the largest and the smallest
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = at_least_one)]
    pub networks: usize,
    /// Networks are wanted down to this share of the full model's cost
    #[arg(long, default_value_t = 0.5, value_name = "SHARE", value_parser = share)]
    pub least_share: f64,
    /// Have every network count by its loss, not by the logarithm of it
    #[arg(long)]
    pub unbalanced: bool,
    #[command(flatten)]
    pub training: TrainingArguments,
}
