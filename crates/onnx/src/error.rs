use std::io;
use std::path::{Path, PathBuf};

use lathe_arch::ArchError;

use crate::{BlockKind, TensorRole};

/// What can go wrong when a graph is written.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The model's dimensions make no model, or the sub-network does not fit it.
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
    /// A weight source gave an output bias that is not as wide as the residual stream.
    #[error(
        "output bias of layer {layer}'s {block:?} block: {found} values, hidden_size is {expected}"
    )]
    BiasLength {
        /// Layer index, from 0.
        layer: usize,
        /// The block that the bias belongs to.
        block: BlockKind,
        /// Values given.
        found: usize,
        /// Values expected, `hidden_size`.
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
    /// More bytes than the format can hold.
    #[error("{what}: {bytes} bytes, at most {limit} fit: ask for a smaller one")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Bytes that it takes (`u64::MAX` also stands for more).
        bytes: u64,
        /// Bytes that fit.
        limit: u64,
    },
    /// A quantised embedding needs whole blocks.
    #[error(
        "head_precision: {precision}, but hidden_size {hidden_size} is no multiple of {block}: keep the head in f32"
    )]
    PartialBlock {
        /// The precision asked for.
        precision: lathe_arch::Precision,
        /// Width of the embedding.
        hidden_size: usize,
        /// Weights that share a scale.
        block: usize,
    },
    /// The disk has no room for a file.
    #[error(
        "{path}: the disk is full, the file needs {bytes} bytes: free space or write elsewhere"
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The file could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OnnxError {
    /// What `source` means for a file of `bytes` bytes at `path`.
    pub(crate) fn from_io(path: &Path, bytes: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                OnnxError::DiskFull { path, bytes }
            }
            _ => OnnxError::Io { path, source },
        }
    }
}
