//! Commands that score, change or write a network.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lathe_arch::Precision;
use lathe_compress::{ANSWER_WEIGHT, MmluForm, SearchTask};
use lathe_fetch::Cache;
use lathe_supernet::Question;

use super::engine::EngineArguments;
use super::model::{AdapterArgument, ModelArguments};
use super::number::{at_least_one, positive};

/// What is scored.
#[derive(Clone, PartialEq, Eq)]
pub enum Task {
    /// Perplexity.
    Perplexity,
    /// Perplexity and KL divergence from the full model.
    Kl,
    /// Right answers.
    Questions(QuestionSource),
}

/// Where questions come from.
#[derive(Clone, PartialEq, Eq)]
pub enum QuestionSource {
    /// MMLU's test.
    Mmlu(MmluForm),
    /// JSON lines.
    File(PathBuf),
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "perplexity" => Ok(Self::Perplexity),
            "kl" => Ok(Self::Kl),
            other => match other.parse() {
                Ok(questions) => Ok(Self::Questions(questions)),
                Err(_) => Err(format!(
                    "`{other}` is neither perplexity, kl, mmlu, mmlu-cloze nor a file of questions"
                )),
            },
        }
    }
}

impl FromStr for QuestionSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mmlu" => Ok(Self::Mmlu(MmluForm::Letter)),
            "mmlu-cloze" => Ok(Self::Mmlu(MmluForm::Cloze)),
            path if Path::new(path).is_file() => Ok(Self::File(path.into())),
            other => Err(format!(
                "`{other}` is neither mmlu, mmlu-cloze nor a file of questions"
            )),
        }
    }
}

impl QuestionSource {
    /// What it is called in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Mmlu(MmluForm::Letter) => "MMLU (letters)".to_owned(),
            Self::Mmlu(MmluForm::Cloze) => "MMLU (cloze)".to_owned(),
            Self::File(path) => path.file_stem().unwrap_or_default().display().to_string(),
        }
    }

    /// All questions.
    ///
    /// # Errors
    /// When they cannot be fetched or read, or there are none.
    pub fn read(&self, cache: &Cache) -> anyhow::Result<Vec<Question>> {
        let questions = match self {
            Self::Mmlu(form) => lathe_compress::mmlu(cache, *form)?,
            Self::File(path) => lathe_compress::questions(path)?,
        };
        anyhow::ensure!(
            !questions.is_empty(),
            "{}: there are no questions",
            self.name()
        );
        Ok(questions)
    }
}

/// What a search is told to answer, besides what it reads.
#[derive(Args)]
pub struct SearchTaskArguments {
    /// Questions that searches are told to answer as well, mmlu, mmlu-cloze or a file of JSON lines: networks then
    /// lose what diverges on text and what makes the right answers less likely. None that networks are tested with
    #[arg(long, value_name = "TASK|FILE")]
    pub search_task: Option<QuestionSource>,
    /// Questions of each evaluation, the first of a fixed order
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one, requires = "search_task")]
    pub search_questions: usize,
}

/// What answers weigh, for commands that choose by one sum.
#[derive(Args)]
pub struct AnswerWeightArgument {
    /// What a bit per byte of the right answers is worth, in nats of divergence per token of text
    #[arg(long, default_value_t = ANSWER_WEIGHT, value_name = "X", value_parser = positive, requires = "search_task")]
    pub answer_weight: f64,
}

impl SearchTaskArguments {
    /// The questions, where there are any, for evaluations on `tokens` tokens, and what they weigh.
    ///
    /// # Errors
    /// When they cannot be fetched or read, or there are none.
    pub fn read(
        &self,
        cache: &Cache,
        tokens: usize,
        weight: f64,
    ) -> anyhow::Result<Option<SearchTask>> {
        let Some(source) = &self.search_task else {
            return Ok(None);
        };
        let all = source.read(cache)?;
        Ok(Some(SearchTask {
            questions: Question::sample(&all, all.len()),
            per_token: self.search_questions as f64 / tokens.max(1) as f64,
            weight,
        }))
    }
}

#[derive(Args)]
pub struct Evaluate {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub adapter: AdapterArgument,
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
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = at_least_one)]
    pub questions: usize,
    /// Score choices without their contexts as well, for acc_mutual_info: by what the context adds
    #[arg(long)]
    pub mutual_info: bool,
    #[command(flatten)]
    pub engine: EngineArguments,
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
    #[command(flatten)]
    pub adapter: AdapterArgument,
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
