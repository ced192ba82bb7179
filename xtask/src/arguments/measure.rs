//! Commands that measure, and what follows from measurements.

use std::path::PathBuf;

use clap::Args;
use lathe_arch::{Precision, Workload};

use super::model::{DeviceArguments, ProgramArguments};
use super::number::{not_negative, share};

#[derive(Args)]
pub struct Devices {
    /// Names in devices/, or YAMLs of that kind [default: all in devices/]
    #[arg(value_name = "NAME|PATH")]
    pub devices: Vec<String>,
    #[command(flatten)]
    pub programs: ProgramArguments,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Profile {
    /// Name in devices/, or a YAML of that kind; several are measured at once, each into a table of its
    /// own
    #[arg(long, default_value = "local", value_name = "NAME|PATH")]
    pub device: Vec<String>,
    #[command(flatten)]
    pub programs: ProgramArguments,
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// A few minutes instead of a quarter of an hour: fewer lengths, wider intervals
    #[arg(long)]
    pub quick: bool,
    /// Precisions of the weights: int8 and int4 have a scale for every 32, w8a8 is multiplied in integers
    /// throughout
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "f32,int8,w8a8,int4",
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
    #[arg(long, value_name = "N", value_parser = not_negative)]
    pub minutes: Option<f64>,
    /// Half the width of a price's 95 % interval, as a share of it, at which a block has been measured
    /// enough [default: 0.015; 0.04 with --quick]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub interval: Option<f64>,
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
    /// The devices are units of one kind: each measures a part, and one table speaks for all
    #[arg(long, conflicts_with = "aa")]
    pub split: bool,
    /// The table of a single device, or that of all with --split; raw samples go beside it [default:
    /// runs/MODEL-DEVICE/table.yaml]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Go on with an unfinished profile
    #[arg(long)]
    pub resume: bool,
    /// Print the table as JSON; of several devices a list of them
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
    /// Sub-networks to measure instead of held-out ones: files, or folders of `heal` and `export`
    #[arg(long, num_args = 1.., value_name = "FILE|DIR", conflicts_with_all = ["subnets", "precision"])]
    pub subnet: Vec<PathBuf>,
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
