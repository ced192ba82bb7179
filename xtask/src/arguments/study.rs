//! Commands that read what a search left.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use lathe_arch::Workload;
use lathe_compress::{self as compress, LatencyObjective};

use super::number::not_negative;
use super::search::LimitArguments;

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
    /// What a bit per byte of the right answers is worth in nats of divergence, where one network is chosen of a
    /// study with --search-task
    #[arg(long, default_value_t = compress::ANSWER_WEIGHT, value_name = "X", value_parser = not_negative)]
    pub answer_weight: f64,
    /// Folder for front.yaml and front.csv, and with limits for the best network as chosen.yaml and those of
    /// fewer layers that may heal better, as depth-N.yaml
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
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
    /// What train or heal left, of several trainings all: how they went is on the page
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub training: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
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
            compress::Objective::Answers => {
                "bits per byte of the right answers over the full model's, which a study with --search-task measured"
            }
        };
        PossibleValue::new(objective.name()).help(help)
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<compress::Objective>())
}
