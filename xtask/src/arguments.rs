//! What can be said on the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lathe_arch::{Granularity, Precision, SpaceSpec, Workload};
use lathe_compress::{self as compress, LatencyObjective, Limits, MmluForm};
use lathe_supernet::{Importance, Recovery, Target};

use crate::units;

/// Finds the smaller models inside a pretrained language model that run best on a device.
#[derive(Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Fetch, profile, search, export, validate, report: the whole job
    #[command(after_help = "Example: cargo xtask quickstart --quick")]
    Quickstart(Quickstart),
    /// Get the runtime, the default model and the data; offline afterwards
    #[command(after_help = "Example: LATHE_CACHE=/data/lathe cargo xtask fetch")]
    Fetch(Fetch),
    /// List the devices and whether they are fit to measure
    #[command(after_help = "Example: cargo xtask devices --json")]
    Devices(Devices),
    /// Measure every block of the search space and write a latency table
    #[command(
        after_help = "Example: cargo xtask profile --model smollm2-135m --out runs/table.yaml"
    )]
    Profile(Profile),
    /// Predict a sub-network's latency from a table
    #[command(
        after_help = "Example: cargo xtask predict --table runs/table.yaml --subnet front/1.yaml --workload 128+64"
    )]
    Predict(Predict),
    /// Measure held-out sub-networks whole and compare with the table's predictions
    #[command(after_help = "Example: cargo xtask validate --table runs/table.yaml --subnets 20")]
    Validate(Validate),
    /// Score a sub-network: perplexity, KL divergence, MMLU, or questions of your own
    #[command(after_help = "Example: cargo xtask evaluate --subnet chosen.yaml --task kl")]
    Evaluate(Evaluate),
    /// Search for the Pareto front of latency and KL divergence from the full model
    #[command(
        after_help = "Example: cargo xtask search --table runs/table.yaml --evaluations 200 --study runs/study.db"
    )]
    Search(Search),
    /// Evaluate sub-networks that another program chooses: a genome a line in, its objectives a line out
    #[command(
        after_help = "Example: echo '[2,8,2,8]' | cargo xtask objective --table runs/table.yaml --study runs/asked.db"
    )]
    Objective(Objective),
    /// Print a finished study's front over other objectives, on another device or several at once
    #[command(
        after_help = "Example: cargo xtask front --study runs/study.db --table runs/box/table.yaml --table runs/phone/table.yaml --objectives tpot,memory,kl --max-tpot 12ms"
    )]
    Front(Front),
    /// Write the model with a narrower residual stream, as a checkpoint to profile and search
    #[command(after_help = "Example: cargo xtask narrow --hidden-size 558 --out runs/narrow")]
    Narrow(Narrow),
    /// Train a sub-network's weights to answer as the full model does
    #[command(
        after_help = "Examples:\n  cargo xtask heal --subnet chosen.yaml --out runs/healed --minutes 30\n  cargo xtask heal --subnet chosen.yaml --out runs/healed --steps 500 --rank 16 --learning-rate 2e-3\n  cargo xtask heal --subnet chosen.yaml --out runs/healed --minutes 30 --resume\n  cargo xtask evaluate --subnet runs/healed\n  cargo xtask export --subnet runs/healed --out runs/model"
    )]
    Heal(Heal),
    /// Hold the search against structural pruning baselines at equal latency
    #[command(
        after_help = "Example: cargo xtask compare --table runs/table.yaml --objective tpot --levels 0.8,0.6"
    )]
    Compare(Compare),
    /// Write a sub-network as a folder that onnxruntime-genai loads
    #[command(after_help = "Example: cargo xtask export --subnet chosen.yaml --out runs/chosen")]
    Export(Export),
    /// List, show, merge or export studies
    #[command(after_help = "Example: cargo xtask study export runs/study.db --out study.csv")]
    Study(Studies),
    /// Write the HTML page of a study
    #[command(after_help = "Example: cargo xtask report --study runs/study.db --out report.html")]
    Report(Report),
    /// Run all tests and print how many passed
    #[command(after_help = "Example: cargo xtask test -- --test quickstart")]
    Test(Test),
}

/// Where the model comes from.
#[derive(Args)]
pub struct ModelArguments {
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// Text to work on instead of the fetched one: paragraphs, JSON lines with a field "text", or a
    /// folder of such files
    #[arg(long, value_name = "FILE|DIR")]
    pub text: Option<PathBuf>,
    /// Tokens of the calibration; with less text, what there is
    #[arg(long, default_value_t = 32768, value_name = "N")]
    pub calibration_tokens: usize,
    /// How units are ordered: reconstruction, taylor, fluctuation, activation, wanda, magnitude or
    /// random
    #[arg(long, default_value = "reconstruction", value_name = "NAME")]
    pub importance: Importance,
    /// What stands for units that are cut away: none, bias or least-squares
    #[arg(long, default_value = "least-squares", value_name = "NAME")]
    pub recovery: Recovery,
}

/// What runs the measurements.
#[derive(Args)]
pub struct DeviceArguments {
    /// Name in devices/, or a YAML of that kind
    #[arg(long, default_value = "local", value_name = "NAME|PATH")]
    pub device: String,
    /// ONNX Runtime's shared library, instead of the fetched one
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
}

#[derive(Args)]
pub struct Quickstart {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Less than half the time: wider intervals, fewer evaluations
    #[arg(long)]
    pub quick: bool,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Evaluations of the search
    #[arg(long, value_name = "N")]
    pub evaluations: Option<usize>,
    /// The chosen sub-network's measured time per token over the full model's, at most
    #[arg(long, default_value_t = 0.78, value_name = "RATIO")]
    pub tpot_ratio: f64,
    /// Where everything goes [default: runs/quickstart, or runs/quickstart-quick]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Fetch {
    /// Model to fetch: a name in models/ or a YAML of that kind
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// ONNX Runtime's shared library, instead of the fetched one
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
    /// Print the paths as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Devices {
    /// ONNX Runtime's shared library, instead of the fetched one
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Profile {
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// Two minutes instead of a quarter of an hour: fewer lengths, wider intervals
    #[arg(long)]
    pub quick: bool,
    /// Precisions of the weights
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "f32,int8,int4",
        value_name = "P,P"
    )]
    pub precision: Vec<Precision>,
    /// Prompt lengths to measure, in tokens
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub prompt: Vec<usize>,
    /// Past lengths to measure, in tokens
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub depth: Vec<usize>,
    /// Sequences side by side
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N,N")]
    pub batch: Vec<usize>,
    /// Minutes in all; a first round over all blocks is made whatever it takes
    #[arg(long, value_name = "N")]
    pub minutes: Option<f64>,
    /// Whole networks of each precision on which the calibration is fitted; 0 for none
    #[arg(long, value_name = "N")]
    pub networks: Option<usize>,
    /// Tokens of prompt and generation at which they run
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Refuse to measure a device that is not fit
    #[arg(long)]
    pub strict: bool,
    /// Profile twice, in turn, and print how far the two differ
    #[arg(long)]
    pub aa: bool,
    /// With --aa: let a busy loop run beside three in ten of the second profile's visits
    #[arg(long, requires = "aa")]
    pub hog: bool,
    /// The table; raw samples go beside it [default: runs/MODEL-DEVICE/table.yaml]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Go on with an unfinished profile
    #[arg(long)]
    pub resume: bool,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Predict {
    /// The latency table
    #[arg(long, value_name = "FILE")]
    pub table: PathBuf,
    /// The sub-network; the full model when absent
    #[arg(long, value_name = "FILE")]
    pub subnet: Option<PathBuf>,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Score every position of the prompt, not the last alone
    #[arg(long)]
    pub all_logits: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Validate {
    #[command(flatten)]
    pub device: DeviceArguments,
    /// The latency table
    #[arg(long, value_name = "FILE")]
    pub table: PathBuf,
    /// Held-out sub-networks to measure
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub subnets: usize,
    /// Precisions of the weights, each on sub-networks of its own [default: all of the table]
    #[arg(long, value_delimiter = ',', value_name = "P,P")]
    pub precision: Vec<Precision>,
    /// Visits to each of them
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub rounds: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Print as JSON, network by network
    #[arg(long)]
    pub json: bool,
}

/// What is scored.
#[derive(Clone, PartialEq, Eq)]
pub enum Task {
    /// Perplexity.
    Perplexity,
    /// Perplexity and KL divergence from the full model.
    Kl,
    /// MMLU's test questions.
    Mmlu(MmluForm),
    /// Questions from a file.
    Questions(PathBuf),
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "perplexity" => Ok(Self::Perplexity),
            "kl" => Ok(Self::Kl),
            "mmlu" => Ok(Self::Mmlu(MmluForm::Letter)),
            "mmlu-cloze" => Ok(Self::Mmlu(MmluForm::Cloze)),
            path if Path::new(path).is_file() => Ok(Self::Questions(path.into())),
            other => Err(format!(
                "`{other}` is neither perplexity, kl, mmlu, mmlu-cloze nor a file of questions"
            )),
        }
    }
}

#[derive(Args)]
pub struct Evaluate {
    #[command(flatten)]
    pub model: ModelArguments,
    /// The sub-network, or the folder of a healed one; the full model when absent
    #[arg(long, value_name = "FILE|DIR")]
    pub subnet: Option<PathBuf>,
    /// Leave the blocks as searches rank them, not corrected for what those before them have
    /// shifted: saves minutes, and more is lost. With fewer than 32 --calibration-tokens for each
    /// channel of the widest block they are left so anyway
    #[arg(long, requires = "subnet")]
    pub keep_drift: bool,
    /// What is scored: perplexity, kl, mmlu (letters), mmlu-cloze (answers), or a file of JSON
    /// lines with context, choices and answer (index of the right choice, from 0)
    #[arg(long, default_value = "perplexity", value_name = "TASK|FILE")]
    pub task: Task,
    /// Tokens to score, of perplexity and kl
    #[arg(long, default_value_t = 8192, value_name = "N")]
    pub tokens: usize,
    /// Questions to score, of the others: the first of a fixed order, so that more contain fewer
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub questions: usize,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Studies {
    #[command(subcommand)]
    pub command: StudyCommand,
}

#[derive(Subcommand)]
pub enum StudyCommand {
    /// The studies in a folder and below: what each is of, by which method, with how many evaluations
    List {
        /// The folder
        #[arg(default_value = "runs", value_name = "DIR")]
        folder: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// What a study is of, and its front
    Show {
        /// The study
        #[arg(value_name = "FILE")]
        study: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// One study with the evaluations of several of the same problem, each genome once
    Merge {
        /// The studies
        #[arg(required = true, value_name = "FILE")]
        studies: Vec<PathBuf>,
        /// The new study
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Every evaluation as CSV, or as JSON where the file is named so
    Export {
        /// The study
        #[arg(value_name = "FILE")]
        study: PathBuf,
        /// The file: .csv or .json
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Args)]
pub struct Narrow {
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// Text to work on instead of the fetched one: paragraphs, JSON lines with a field "text", or a
    /// folder of such files
    #[arg(long, value_name = "FILE|DIR")]
    pub text: Option<PathBuf>,
    /// Width of the residual stream that is left
    #[arg(long, value_name = "N")]
    pub hidden_size: usize,
    /// Tokens from which the stream's principal components are taken; with less text, what there is
    #[arg(long, default_value_t = 16384, value_name = "N")]
    pub calibration_tokens: usize,
    /// Tokens of the perplexities before and after
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub tokens: usize,
    /// The Hugging Face folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Heal {
    #[command(flatten)]
    pub model: ModelArguments,
    /// The sub-network, or the folder of a healed one
    #[arg(long, value_name = "FILE|DIR")]
    pub subnet: PathBuf,
    /// Begin with the blocks as searches rank them, not corrected for what those before them have
    /// shifted
    #[arg(long)]
    pub keep_drift: bool,
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
    /// Train low-rank adapters of this rank, norms and biases; all weights when absent
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
    /// Share of the divergence from the full model in the loss; the rest is the next token's
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub distill_share: f32,
    /// What logits are divided by in the divergence
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub temperature: f32,
    /// Seed of the order of the text and of adapters
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Train on this text instead of the part that calibrations read; passages that are searched or
    /// tested with are left out
    #[arg(long, value_name = "FILE|DIR")]
    pub train_text: Option<PathBuf>,
    /// Steps between two states on the disk, from which --resume goes on
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = at_least_one)]
    pub save_every: usize,
    /// Steps between two validations on the text that searches read
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = at_least_one)]
    pub validate_every: usize,
    /// Tokens of a validation
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = at_least_one)]
    pub validation_tokens: usize,
    /// Where everything goes: subnet.yaml and its weights, metrics.jsonl, and the state while the
    /// training is unfinished
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with an unfinished training
    #[arg(long)]
    pub resume: bool,
    /// Print what came out as JSON
    #[arg(long)]
    pub json: bool,
}

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
    /// The method
    #[arg(long, value_enum, default_value = "additive")]
    pub method: Method,
    /// Evaluations
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub evaluations: usize,
    /// Members of the population of NSGA-II, NSGA-III and evolution
    #[arg(long, default_value_t = 24, value_name = "N")]
    pub population: usize,
    /// Seed of the method
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Cheaper evaluations before that, the cheapest first: one in three sub-networks rises from each to
    /// the next (successive halving around the method). --evaluations is then what all of them cost
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub stage_tokens: Vec<usize>,
    /// Tokens of each block score, from which the first sub-networks follow
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub block_tokens: usize,
    /// Begin with the full model alone, without block scores: to compare methods
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
pub struct Front {
    /// The study, with what the search wrote beside it as space.json
    #[arg(long, value_name = "FILE")]
    pub study: PathBuf,
    /// A latency table of the study's model; with several, every device has its own latencies, memory
    /// and energy, and must keep the limits
    #[arg(long, required = true, value_name = "FILE")]
    pub table: Vec<PathBuf>,
    /// What is minimised
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tpot,kl",
        value_name = "WHAT,WHAT",
        value_parser = objective()
    )]
    pub objectives: Vec<compress::Objective>,
    #[command(flatten)]
    pub limits: LimitArguments,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// Folder for front.yaml and front.csv, and with limits for the best network as chosen.yaml
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Compare {
    #[command(flatten)]
    pub model: ModelArguments,
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
    /// Tokens of each block score
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub block_tokens: usize,
    /// Tokens of the reported perplexities
    #[arg(long, default_value_t = 8192, value_name = "N")]
    pub test_tokens: usize,
    /// MMLU questions (cloze) that the winners answer; 0 for none
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub questions: usize,
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

/// Formats of an export.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A folder for onnxruntime-genai
    Onnx,
}

#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    pub model: ModelArguments,
    /// The sub-network, or the folder of a healed one; the full model when absent
    #[arg(long, value_name = "FILE|DIR")]
    pub subnet: Option<PathBuf>,
    /// Leave the blocks as searches rank them, not corrected for what those before them have
    /// shifted: saves minutes, and more is lost. With fewer than 32 --calibration-tokens for each
    /// channel of the widest block they are left so anyway
    #[arg(long, requires = "subnet")]
    pub keep_drift: bool,
    /// The format
    #[arg(long, value_enum, default_value = "onnx")]
    pub format: Format,
    /// Precision of all weights [default: what the sub-network says]
    #[arg(long, value_name = "P")]
    pub precision: Option<Precision>,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Report {
    /// The study
    #[arg(long, value_name = "FILE")]
    pub study: PathBuf,
    /// The latency table [default: table.yaml beside the study]
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Name in models/ or path, for its search space [default: the table's model]
    #[arg(long, value_name = "NAME|PATH")]
    pub model: Option<String>,
    /// Tokens of prompt and generation
    #[arg(long, default_value = "128+64", value_name = "P+G")]
    pub workload: Workload,
    /// The page
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct Test {
    /// Arguments for `cargo test`
    #[arg(last = true)]
    pub rest: Vec<String>,
}

/// The objectives by their names.
fn objective() -> impl TypedValueParser<Value = compress::Objective> {
    let values = compress::Objective::ALL.map(|objective| {
        let help = match objective {
            compress::Objective::Latency(LatencyObjective::Ttft) => "predicted time to first token",
            compress::Objective::Latency(LatencyObjective::Tpot) => {
                "predicted time per output token"
            }
            compress::Objective::Latency(LatencyObjective::Total) => {
                "predicted time of the whole workload"
            }
            compress::Objective::Memory => "predicted peak resident memory over the workload",
            compress::Objective::Size => "weights as they are exported",
            compress::Objective::Energy => {
                "the processors' mean power under load times the predicted total"
            }
            compress::Objective::Kl => {
                "KL divergence from the full model, which the study measured"
            }
        };
        PossibleValue::new(objective.name()).help(help)
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<compress::Objective>())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err("expected a number above 0".to_owned()),
    }
}

/// A share of the full model's latency.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if share > 0.0 && share <= 1.0 {
        Ok(share)
    } else {
        Err("expected more than 0 and at most 1".to_owned())
    }
}
