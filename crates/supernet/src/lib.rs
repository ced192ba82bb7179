//! Reads checkpoints, orders units by importance, cuts sub-networks and scores their quality.
//!
//! ```no_run
//! use lathe_arch::SubnetConfig;
//! use lathe_supernet::checkpoint::Checkpoint;
//! use lathe_supernet::{
//!     Calibration, Evaluator, Importance, ImportanceOrder, Recovery, Split, Supernet, TextSplits,
//! };
//!
//! let checkpoint = Checkpoint::load("model.gguf".as_ref())?;
//! let text = TextSplits::new(std::fs::read_to_string("text.txt")?.split("\n\n").map(String::from), 1);
//! let windows = text.windows(Split::Calibration, &checkpoint.tokenizer, 16, 512)?;
//! let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
//! let calibration = Calibration::measure(&unordered, &windows, |_tokens| {});
//! let (model, weights) = (&checkpoint.config, &checkpoint.weights);
//! let order = ImportanceOrder::of(
//!     model,
//!     weights,
//!     &calibration,
//!     &windows,
//!     Importance::Reconstruction,
//! )?;
//! let supernet = Supernet::ordered(
//!     model,
//!     weights.clone(),
//!     calibration,
//!     &order,
//!     Recovery::LeastSquares,
//! )?;
//!
//! let mut config = SubnetConfig::full(supernet.model());
//! config.layers[12].attention = None;
//! let windows = text.windows(Split::Test, &checkpoint.tokenizer, 16, 512)?;
//! let quality = Evaluator::new(&supernet, &windows)?.perplexity(&supernet.cut(&config)?)?;
//! println!("perplexity {:.2}", quality.perplexity());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod checkpoint;

mod absorption;
mod calibration;
mod choice;
mod covariance;
mod cut;
mod drift;
mod engine;
mod error;
mod evaluate;
mod file;
mod generate;
mod gradient;
mod importance;
mod narrow;
mod network;
mod numbers;
mod parameters;
mod prefix;
mod recovery;
mod supernet;
mod tensor_file;
mod tensors;
mod text;
mod train;

pub use calibration::{Calibration, ChannelStatistics, LayerStatistics, OutputMeans, StoredMatrix};
pub use choice::{Accuracy, ChoiceQuality, MutualInfoAccuracy, Question, QuestionSet};
pub use cut::Subnet;
pub use engine::{Cpu, RopeTable};
pub use error::SupernetError;
pub use evaluate::{
    Evaluator, Quality, perplexity, perplexity_and_kl, perplexity_and_kl_on, perplexity_on,
};
pub use generate::{Decoder, greedy, logits};
pub use gradient::{AttentionGradient, LayerGradient, MlpGradient, loss_gradient};
pub use importance::{
    Importance, ImportanceOrder, LayerOrder, LayerScores, standardized_fluctuations,
};
pub use narrow::narrowed;
pub use network::{Distillation, Engine, Fork, HeadLoss, Lesson, Network, Score};
pub use parameters::{Parameters, Part, Role};
pub use recovery::Recovery;
pub use supernet::Supernet;
pub use text::{Split, TextSplits, TokenWindows};
pub use train::{
    AdapterSums, GradientSums, LoraSettings, LowRank, StepReport, Target, TextNeeds, TrainSettings,
    Trainer, TrainingMemory, step_flops, teacher_flops, trained_weights,
};
