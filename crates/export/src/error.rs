use std::path::PathBuf;

use lathe_onnx::OnnxError;

/// What can go wrong in an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The graph could not be written.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A file of the folder could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
