use std::path::PathBuf;

use lathe_arch::ArchError;

/// What can be wrong with a table, or with a question put to it.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a latency table.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// The table was written for another version of the format.
    #[error("field `version` is {found}, this program reads {expected}: profile the device again")]
    Version {
        /// Version found.
        found: u32,
        /// Version this program reads.
        expected: u32,
    },
    /// An entry cannot be right.
    #[error("entries[{index}] ({block}, {phase}): `{field}` is {value}: {reason}")]
    Entry {
        /// Index in the file.
        index: usize,
        /// The block in words.
        block: String,
        /// The phase in words.
        phase: String,
        /// The field.
        field: &'static str,
        /// The offending value.
        value: String,
        /// What a right value looks like.
        reason: &'static str,
    },
    /// A number outside the entries cannot be right.
    #[error("`{field}` is {value}: {reason}")]
    Field {
        /// The field, with its index.
        field: String,
        /// The offending value.
        value: String,
        /// What a right value looks like.
        reason: &'static str,
    },
    /// Two entries price the same block at the same phase.
    #[error(
        "entries[{index}] ({block}, {phase}) stands twice: a table holds each block once per phase"
    )]
    Duplicate {
        /// Index of the second.
        index: usize,
        /// The block in words.
        block: String,
        /// The phase in words.
        phase: String,
    },
    /// The model's dimensions do not make a model, or the sub-network does not fit them.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// The table comes from elsewhere.
    #[error(
        "the table was measured with {field} `{table}`, here it is `{here}`: latencies cannot be mixed, profile this device again"
    )]
    Mismatch {
        /// What differs.
        field: &'static str,
        /// Value in the table.
        table: String,
        /// Value here.
        here: String,
    },
    /// The sub-network has a block that was not measured.
    #[error(
        "the table has no price for {block} in {phase}: profile a search space that contains it"
    )]
    NotMeasured {
        /// The block in words.
        block: String,
        /// The phase in words.
        phase: &'static str,
    },
    /// The workload lies outside what was measured.
    #[error(
        "a prompt of {asked} tokens is outside the {least} to {most} tokens that the table covers: profile with --prompt {asked}"
    )]
    PromptRange {
        /// Tokens asked for.
        asked: usize,
        /// Shortest prompt measured.
        least: usize,
        /// Longest prompt measured.
        most: usize,
    },
    /// The batch was not measured.
    #[error("the table has no prices for batch {batch}")]
    Batch {
        /// Batch asked for.
        batch: usize,
    },
}
