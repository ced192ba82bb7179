use std::path::PathBuf;
use std::time::Duration;

use lathe_arch::ArchError;
use lathe_latency::LatencyError;
use lathe_onnx::OnnxError;

use crate::transport::TransportError;

/// What can go wrong between a plan and a table.
#[derive(Debug, thiserror::Error)]
pub enum ProfilerError {
    /// A sub-network or space does not fit the model.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// The table is not sound or does not cover a question.
    #[error(transparent)]
    Latency(#[from] LatencyError),
    /// A graph could not be written.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
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
        /// What is wrong, with line and field.
        message: String,
    },
    /// The agent's program was not found.
    #[error(
        "the agent's program was not found beside {near}: build it with `cargo build --release -p lathe-agent`, or name it in LATHE_AGENT"
    )]
    NoAgent {
        /// Where it was looked for.
        near: PathBuf,
    },
    /// Something is wrong on the way to the device.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The agent speaks another version of the protocol.
    #[error("the agent speaks protocol {found}, this program {expected}: build both anew")]
    Protocol {
        /// The agent's version.
        found: u32,
        /// This program's version.
        expected: u32,
    },
    /// The agent ended.
    #[error("the agent ended unexpectedly{said}")]
    AgentGone {
        /// The last it said on its standard error.
        said: String,
    },
    /// The agent said something that is not of the protocol.
    #[error("the agent's answer cannot be used: {reason}")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
    /// The agent could not do the job.
    #[error("the agent reports: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {} s and was ended", limit.as_secs())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// A journal belongs to another profile.
    #[error(
        "{path} was begun with other settings (device, runtime, model or plan): give another --out, or delete it to begin again"
    )]
    OtherJournal {
        /// The journal.
        path: PathBuf,
    },
    /// The table has nothing to compare a measurement with.
    #[error(
        "the table cannot say what the baseline network takes in {precision} at {workload}: profile with that precision and prompts around that length"
    )]
    NoReference {
        /// The precision.
        precision: lathe_arch::Precision,
        /// The workload in words.
        workload: String,
    },
    /// The calibration would run outside what is priced.
    #[error(
        "--workload {workload} lies outside the prompts {prompts:?} and batches {batches:?} that are profiled: give another --workload, more in --prompt or --batch, or --networks 0 for no calibration"
    )]
    Workload {
        /// When the networks of the calibration would run.
        workload: lathe_arch::Workload,
        /// Prompt lengths profiled.
        prompts: Vec<usize>,
        /// Batches profiled.
        batches: Vec<usize>,
    },
    /// One of several units that share a profile failed.
    #[error("device {unit}: {source}")]
    Unit {
        /// Its name.
        unit: String,
        /// What happened there.
        source: Box<ProfilerError>,
    },
    /// Units that share a profile are of different kinds.
    #[error(
        "{} and {} are not of one kind (processor, cores, runtime, threads), or measured nothing alike: profile each by itself, without --split",
        units[0],
        units[1]
    )]
    OtherKind {
        /// Names of two units.
        units: [String; 2],
    },
    /// Units that share a profile are not equally fast.
    #[error(
        "{} and {} differ by {percent:.1} % in the median of {entries} prices that both have measured, and one table speaks for both up to {limit_percent:.0} %: see what is wrong with one of them, or profile each by itself, without --split",
        units[0],
        units[1]
    )]
    UnitsDiffer {
        /// Names of two units.
        units: [String; 2],
        /// Prices that both have measured.
        entries: usize,
        /// Their median difference.
        percent: f64,
        /// The largest that is put up with.
        limit_percent: f64,
    },
    /// There are samples of an earlier profile, finished or not.
    #[error(
        "{path} holds the samples of an earlier profile: go on with --resume, give another --out, or delete it to begin again"
    )]
    EarlierSamples {
        /// The journal.
        path: PathBuf,
    },
}

impl ProfilerError {
    /// Whether doing the same again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::AgentGone { .. } | Self::Answer { .. } | Self::Timeout { .. } => true,
            Self::Transport(error) => error.may_pass(),
            _ => false,
        }
    }
}
