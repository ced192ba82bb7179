use std::path::{Path, PathBuf};

use lathe_arch::ArchError;

/// What can be wrong with a checkpoint. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not the format they should be.
    #[error("{path}: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// A configuration or metadata field is missing or unusable.
    #[error("{path}: field `{field}`: {reason}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A tensor is missing or unusable.
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The dimensions do not make a model.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Which field is wrong.
        source: ArchError,
    },
}

/// Builds errors for one file.
#[derive(Clone, Copy)]
pub(super) struct At<'a>(pub &'a Path);

impl At<'_> {
    pub fn io(self, source: std::io::Error) -> CheckpointError {
        CheckpointError::Io {
            path: self.0.to_owned(),
            source,
        }
    }

    pub fn damaged(self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.0.to_owned(),
            reason: reason.into(),
        }
    }

    pub fn field(self, field: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Field {
            path: self.0.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    pub fn tensor(self, tensor: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.0.to_owned(),
            tensor: tensor.to_owned(),
            reason: reason.into(),
        }
    }

    pub fn model(self, source: ArchError) -> CheckpointError {
        CheckpointError::Model {
            path: self.0.to_owned(),
            source,
        }
    }
}
