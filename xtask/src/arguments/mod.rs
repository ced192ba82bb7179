//! What can be said on the command line.

mod engine;
mod lesson;
mod measure;
mod model;
mod number;
mod quality;
mod search;
mod study;
mod training;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lathe_arch::Workload;
use lathe_fetch::Target;

pub use engine::{Dtype, EngineArguments, EngineName};
pub use lesson::LessonArguments;
pub use measure::{Devices, Predict, Profile, Validate};
pub use model::{AdapterArgument, DeviceArguments, ModelArguments, ProgramArguments};
pub use quality::{Evaluate, Export, Format, Narrow, Task};
pub use search::{Compare, Method, Objective, ProblemArguments, Search};
pub use study::{Front, Report, Studies, StudyCommand};
pub use training::{Heal, Train, TrainingArguments};

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
    /// Build the program that runs on other devices
    #[command(
        after_help = "Examples:\n  cargo xtask agent --target aarch64-unknown-linux-gnu\n  ANDROID_NDK_HOME=~/android-ndk cargo xtask agent --target aarch64-linux-android"
    )]
    Agent(Agent),
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
    /// Measure sub-networks whole, held-out ones or given ones, and compare with the table's predictions
    #[command(
        after_help = "Example: cargo xtask validate --table runs/table.yaml --subnet runs/front/chosen.yaml runs/healed"
    )]
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
    /// Train the weights that all sub-networks share, for a search with --adapter
    #[command(
        after_help = "Examples:\n  cargo xtask train --table runs/table.yaml --front runs/front.yaml --out runs/adapter --minutes 60\n  cargo xtask train --table runs/table.yaml --out runs/adapter --steps 500 --rank 32\n  cargo xtask train --table runs/table.yaml --front runs/front.yaml --out runs/adapter --minutes 60 --resume\n  cargo xtask search --table runs/table.yaml --adapter runs/adapter --study runs/trained.db"
    )]
    Train(Train),
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
    #[command(after_help = "Example: cargo xtask test -- --test system healing")]
    Test(Test),
    /// Search for inputs that break a reader, with libFuzzer
    #[command(after_help = "Example: cargo xtask fuzz table --minutes 10")]
    Fuzz(Fuzz),
}

#[derive(Args)]
pub struct Quickstart {
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// Text to work on instead of the fetched one: paragraphs, JSON lines with a field "text", or a
    /// folder of such files
    #[arg(long, value_name = "FILE|DIR")]
    pub text: Option<PathBuf>,
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
    /// Fetch ONNX Runtime for devices of these kinds too: x86_64-unknown-linux-gnu,
    /// aarch64-unknown-linux-gnu, aarch64-linux-android
    #[arg(long, value_delimiter = ',', value_name = "TRIPLE,TRIPLE")]
    pub target: Vec<Target>,
    /// Print the paths as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Agent {
    /// Kind of device: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu or aarch64-linux-android
    /// [default: this machine's]
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<Target>,
    /// cargo to build with [default: CARGO, else cargo]
    #[arg(long, value_name = "PATH")]
    pub cargo: Option<PathBuf>,
    /// Compiler to build with [default: RUSTC, else rustc]
    #[arg(long, value_name = "PATH")]
    pub rustc: Option<PathBuf>,
    /// Print the path and what the program needs as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Fuzz {
    /// A folder of tests/fuzz/seeds: requests, answers, device, table, gguf, ...
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// How long
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub minutes: u64,
    /// Seed of the search; another one every time when absent
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Try this input alone, one that an earlier search kept
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
}

#[derive(Args)]
pub struct Test {
    /// Arguments for `cargo test`
    #[arg(last = true)]
    pub rest: Vec<String>,
}
