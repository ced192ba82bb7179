//! Commands that score, change or write a network.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lathe_arch::Precision;
use lathe_compress::MmluForm;
use lathe_supernet::Target;

use super::model::ModelArguments;
use super::number::{at_least_one, positive};

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
