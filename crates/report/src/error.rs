//! What can be wrong with a report.

use std::path::PathBuf;

/// Why a report is refused or cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A quantity that has to be a finite number is NaN or infinite.
    #[error("{field} is {value}, not a finite number: leave the entry out of the report")]
    NotFinite {
        /// Path of the field, as in `evaluations[3].kl_divergence`.
        field: String,
        /// What it holds.
        value: f64,
    },
    /// A quantity lies outside the values that it can take.
    #[error("{field} is {value}, expected {expected}: check its unit and the caller's arithmetic")]
    OutOfRange {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: f64,
        /// The values that it can take.
        expected: &'static str,
    },
    /// An index points past the end of the list that it refers to.
    #[error("{field} is {index}, but evaluations has {len} entries: indices count from 0")]
    IndexOutOfRange {
        /// Path of the field.
        field: String,
        /// The index.
        index: usize,
        /// Length of the list.
        len: usize,
    },
    /// A point describes another number of layers than the full model has.
    #[error(
        "{field} has {found} layers, full_layers has {expected}: list every layer, removed blocks as null"
    )]
    LayerCount {
        /// Path of the field.
        field: String,
        /// Layers in the point.
        found: usize,
        /// Layers in the full model.
        expected: usize,
    },
    /// A point keeps more of a block than the full model has.
    #[error("{field} keeps {found}, the full model has {full}: is this a point of another model?")]
    WiderThanFull {
        /// Path of the field.
        field: String,
        /// What the point keeps.
        found: usize,
        /// What there is in the full model; 0 where it has no such block.
        full: usize,
    },
    /// The points could not be encoded for the page's script.
    #[error("cannot encode the points as JSON")]
    Encode(#[from] serde_json::Error),
    /// The page could not be written.
    #[error("cannot write {path}: check that its folder exists and has room")]
    Write {
        /// Where the page should have gone.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
