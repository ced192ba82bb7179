//! Fine-tuning: a sub-network learns to answer as the full model does, or all sub-networks of a
//! super-network do, each step a few of them ([`Trainer::of_supernet`]).
//!
//! The loss is the divergence from the full model's distribution over the whole vocabulary, averaged
//! over tokens (Minitron, 2407.14679), mixed with that of the next token where asked for. What is
//! trained is either all weights of the sub-network ([`Parameters`](crate::Parameters)) or low-rank
//! adapters beside them (LoRA, 2106.09685). The matrices at both ends stay as they are.
//!
//! A step depends on nothing but the state before it: [`Trainer::save`] and [`Trainer::resume`] give
//! the same weights, bit by bit, as never having stopped.

mod adamw;
mod adapters;
mod losses;
mod needs;
mod order;
mod schedule;
mod settings;
mod slicing;
mod state;
mod sums;
mod teacher;
mod trainable;
mod trainer;

pub use adapters::{AdapterSums, LoraSettings, LowRank, Target};
pub use needs::{TextNeeds, TrainingMemory, step_flops, teacher_flops};
pub use settings::TrainSettings;
pub use state::trained_weights;
pub use sums::GradientSums;
pub use trainer::{StepReport, Trainer};
