//! Joins the latency table, the super-network and the search: the only place where they meet.
//!
//! [`Prepared`] is a model that is ready to be cut; [`SubnetProblem`] makes a search problem of
//! it and a table; [`Retarget`] finds the front of a finished study on other devices;
//! [`Comparison`] holds the search against structural pruning; [`quickstart`] does the whole job.

mod adapter;
mod additive;
mod artefact;
mod baseline;
mod block_scores;
mod compare;
mod depths;
mod device;
mod figure;
mod finals;
mod finetuning;
mod first;
mod front;
mod healing;
mod kept;
mod learning_curves;
mod limits;
mod loss;
mod named;
mod narrowing;
mod objective;
mod prepared;
mod problem;
mod quickstart;
mod race;
mod report;
mod retarget;
mod sampling;
mod search;
mod shallow;
mod tables;
mod task;
mod training;
mod validation;
mod windows;

pub use adapter::Adapter;
pub use additive::{additive_search, default_shares, recommended};
pub use artefact::{StoredSubnet, read_subnet, remove_file, write_json, write_text, write_yaml};
pub use baseline::{Baseline, UniformPruning, uniform_prunings};
pub use block_scores::BlockScores;
pub use compare::{Compared, Comparison, Contender, HealedScore, Method, Quiz};
pub use figure::write_comparison_figures;
pub use finetuning::{Finetuned, Finetuning};
pub use first::uninformed_genomes;
pub use front::{Column, Front, Member, read_front};
pub use healing::{Healed, Healing};
pub use learning_curves::learning_curves;
pub use limits::Limits;
pub use loss::{ANSWER_WEIGHT, Loss, SearchTask};
pub use named::{NamedLatency, NamedNetwork, NamedValidation};
pub use narrowing::{Narrowed, Narrowing};
pub use objective::Objective;
pub use prepared::{Preparation, Prepared, Progress, WINDOW_TOKENS, load_text, read_text};
pub use problem::{LatencyObjective, SubnetProblem};
pub use quickstart::{Effort, Quickstart, Summary, quickstart};
pub use race::{Leg, Race, Raced};
pub use report::StudyReport;
pub use retarget::{Retarget, Retargeted};
pub use sampling::{Sampler, SamplerOptions, Sampling, latency_cost, parameter_cost};
pub use tables::{DeviceTable, DeviceTables};
pub use task::{MmluForm, mmlu, questions};
pub use training::{MOST_TRAINING_TOKENS, TrainingEvent, TrainingLength, TrainingRun, Validated};
pub use validation::{
    MemoryValidation, PhaseValidation, PrecisionValidation, Predictor, Validation, ValidationPlan,
};
