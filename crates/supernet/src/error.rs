use std::path::PathBuf;

use lathe_arch::{ArchError, Precision};

use crate::checkpoint::TokenizeError;

/// What can go wrong between a checkpoint and a score.
#[derive(Debug, thiserror::Error)]
pub enum SupernetError {
    /// The sub-network does not fit the model.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// A text cannot be split into tokens.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A pruned sub-network was asked of a super-network without calibration.
    #[error(
        "the super-network has no calibration, so it can only be used whole: calibrate it first"
    )]
    NotCalibrated,
    /// A calibration was made for other dimensions.
    #[error("calibration has {found} {what}, the model has {expected}: calibrate this model anew")]
    CalibrationMismatch {
        /// What was counted.
        what: &'static str,
        /// Count in the calibration.
        found: usize,
        /// Count in the model.
        expected: usize,
    },
    /// An order of importance was made for other dimensions, or names a unit twice.
    #[error(
        "the order of importance has {found} {what}, the model has {expected}, each once: order this model anew"
    )]
    Order {
        /// What was counted.
        what: &'static str,
        /// Count in the order.
        found: usize,
        /// Count in the model.
        expected: usize,
    },
    /// A number in a calibration file is not usable.
    #[error(
        "calibration: layer {layer}, {block}: channel {channel} is {value}, expected a finite number"
    )]
    CalibrationValue {
        /// Layer index, from 0.
        layer: usize,
        /// `attention` or `mlp`.
        block: &'static str,
        /// Channel index, from 0.
        channel: usize,
        /// The value found.
        value: f64,
    },
    /// A model cannot be given a narrower residual stream.
    #[error("hidden_size {hidden_size}: {reason}")]
    Narrow {
        /// The width asked for.
        hidden_size: usize,
        /// Why not.
        reason: String,
    },
    /// The weights of a trained sub-network are not those of the sub-network.
    #[error("{name} is {}, expected {expected:?}", shape(found))]
    Parameter {
        /// The tensor.
        name: String,
        /// Its shape; `None` where it is missing.
        found: Option<(usize, usize)>,
        /// Shape in the sub-network, zeros where it has no such tensor.
        expected: (usize, usize),
    },
    /// A setting of a training is out of range.
    #[error("{field} is {value}, which is out of range")]
    Setting {
        /// The field of [`TrainSettings`](crate::TrainSettings).
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A training went wrong.
    #[error(
        "step {step}: the loss is {loss} nats a token, the lowest median of five steps was {lowest}: a lower learning rate may help"
    )]
    Diverged {
        /// The step, from 1; it was not made.
        step: usize,
        /// Its loss.
        loss: f64,
        /// The lowest median of five steps before.
        lowest: f64,
    },
    /// A gradient was asked of rounded weights.
    #[error("{precision} weights have no gradient: f32 ones have")]
    NotDifferentiable {
        /// Their precision.
        precision: Precision,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {token} at position {position} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        token: u32,
        /// Its position in the input.
        position: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A sequence is longer than the model's context.
    #[error("{tokens} tokens are more than the model's context of {context}")]
    TooLong {
        /// Tokens asked for.
        tokens: usize,
        /// `max_position_embeddings`.
        context: usize,
    },
    /// What runs networks failed.
    #[error("the {engine} engine: {message}")]
    Engine {
        /// Its name.
        engine: &'static str,
        /// What it said.
        message: String,
    },
    /// A question has no right choice.
    #[error("question {number}: the answer is choice {answer} (from 0) of {choices}")]
    Question {
        /// Number of the question, from 1.
        number: usize,
        /// Its choices.
        choices: usize,
        /// Index of the right one.
        answer: usize,
    },
    /// There is not enough text for what was asked.
    #[error(
        "the {split} text gives {found} windows of {window} tokens, {wanted} are needed: give more text or ask for fewer tokens"
    )]
    TooLittleText {
        /// Which part of the text.
        split: &'static str,
        /// Windows found.
        found: usize,
        /// Tokens of a window.
        window: usize,
        /// Windows wanted.
        wanted: usize,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and field where known.
        message: String,
    },
}

fn shape(found: &Option<(usize, usize)>) -> String {
    found.map_or("missing".to_owned(), |shape| format!("{shape:?}"))
}
