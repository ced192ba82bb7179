use std::path::PathBuf;

use lathe_arch::ArchError;

use crate::TensorRole;

/// What can go wrong when a graph is written.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The sub-network does not fit the model.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// A weight source gave another number of values than the shape holds.
    #[error("{role:?}: {found} values, its shape {shape:?} holds {expected}")]
    WeightLength {
        /// Which tensor.
        role: TensorRole,
        /// Values given.
        found: usize,
        /// Its shape.
        shape: Vec<usize>,
        /// Values expected.
        expected: usize,
    },
    /// A chain was asked for something that has no blocks.
    #[error(
        "a chain needs at least one copy of an attention or MLP block, asked: {copies} x {block}"
    )]
    EmptyChain {
        /// Copies asked for.
        copies: usize,
        /// The block in words.
        block: String,
    },
    /// The file could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
