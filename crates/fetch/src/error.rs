use std::path::PathBuf;

use crate::Target;

/// What can go wrong while fetching. Each says how to go on by hand.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No place for the cache.
    #[error("there is no home folder to keep downloads in: name a folder in LATHE_CACHE")]
    NoCache,
    /// There is no Python with pip.
    #[error(
        "{what} is fetched with pip, but no Python with pip was found (tried {tried}).\nInstall Python 3 with pip, or go on by hand: {by_hand}"
    )]
    NoPip {
        /// What was to be fetched.
        what: String,
        /// Programs tried.
        tried: String,
        /// How to go on without.
        by_hand: String,
    },
    /// There is no npm.
    #[error(
        "{what} is fetched with npm, but there is no `{tried}`.\nInstall Node.js with npm, or go on by hand: {by_hand}"
    )]
    NoNpm {
        /// What was to be fetched.
        what: String,
        /// The program tried.
        tried: PathBuf,
        /// How to go on without.
        by_hand: String,
    },
    /// pip or npm failed.
    #[error(
        "{client} could not download {package}:\n{output}\nIs the network there? Run the command again, or go on by hand: {by_hand}"
    )]
    Client {
        /// The program.
        client: &'static str,
        /// The package and version.
        package: String,
        /// The last lines that it said.
        output: String,
        /// How to go on without.
        by_hand: String,
    },
    /// The package is not what was expected.
    #[error("{package}: {reason}")]
    Package {
        /// The package and version.
        package: String,
        /// What is wrong.
        reason: String,
    },
    /// A file has other contents than it should.
    #[error(
        "{path}: its SHA-256 is {found}, expected {expected}: the package has changed or the download is damaged; nothing was kept"
    )]
    Hash {
        /// Where it would have gone.
        path: PathBuf,
        /// Hash found.
        found: String,
        /// Hash expected.
        expected: String,
    },
    /// No runtime is known for this platform.
    #[error(
        "no ONNX Runtime is known for {platform}: name a library (version 1.18 or newer) with --ort-lib or ORT_DYLIB_PATH"
    )]
    Platform {
        /// Operating system and processor.
        platform: String,
    },
    /// The agent was not built for a device's kind.
    #[error(
        "the agent for {target} is not built: cargo xtask agent --target {target}\n(it would be {path})"
    )]
    NotBuilt {
        /// Where it would be.
        path: PathBuf,
        /// The kind.
        target: Target,
    },
    /// The agent's sources are not here.
    #[error("the agent is built from Lathe's sources: run this in its folder")]
    NoSources,
    /// The compiler lacks the standard library for a target.
    #[error(
        "{rustc} has no standard library for {target}: rustup target add {target}\nor name a cargo and a rustc that have it, with --cargo and --rustc"
    )]
    NoTarget {
        /// The target.
        target: Target,
        /// The compiler.
        rustc: PathBuf,
    },
    /// There is no linker for a target.
    #[error("there is no linker for {target}: {how}\nor name one in {variable}")]
    NoLinker {
        /// The target.
        target: Target,
        /// The variable in which cargo takes one.
        variable: String,
        /// How to get one.
        how: String,
    },
    /// The agent could not be built.
    #[error("the agent for {target} could not be built:\n{output}")]
    Build {
        /// The target.
        target: Target,
        /// cargo's last lines.
        output: String,
    },
    /// A file that was named does not exist.
    #[error("{path}: no such file (given by {given_by})")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The option that named it.
        given_by: &'static str,
    },
    /// A model's YAML or a data file is wrong.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and field.
        message: String,
    },
    /// The Hugging Face Hub does not give a checkpoint.
    #[error(
        "{repo} on the Hugging Face Hub: {reason}\nOr name a folder that holds the checkpoint with --model PATH"
    )]
    Hub {
        /// The repository.
        repo: String,
        /// What is wrong.
        reason: String,
    },
    /// No model of that name.
    #[error(
        "model `{name}` is neither a file, a folder, a repository OWNER/NAME nor a name in models/; there are: {available}"
    )]
    UnknownModel {
        /// The name.
        name: String,
        /// The names there are.
        available: String,
    },
}

impl FetchError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        FetchError::Io {
            path: path.into(),
            source,
        }
    }
}
