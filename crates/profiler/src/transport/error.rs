use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong on the way to a device.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// ssh or adb could not be started.
    #[error("{program} cannot be started: {source}; {remedy}")]
    NoProgram {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of this machine could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of this machine cannot be sent.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The device answers no more.
    #[error("{device} cannot be reached: {said}")]
    Unreachable {
        /// The device.
        device: String,
        /// What ssh or adb said.
        said: String,
    },
    /// The device has never answered.
    #[error("{device} cannot be reached: {said}")]
    Absent {
        /// The device.
        device: String,
        /// What ssh or adb said.
        said: String,
    },
    /// The device does not let this user in, or is not the one that it was.
    #[error("{device} cannot be used: {said}; {remedy}")]
    Denied {
        /// The device.
        device: String,
        /// What ssh or adb said.
        said: String,
        /// What to do.
        remedy: String,
    },
    /// The device stayed away.
    #[error("{device} was lost and did not come back within {} s: {said}", waited.as_secs())]
    Lost {
        /// The device.
        device: String,
        /// How long it was tried.
        waited: Duration,
        /// What was said last.
        said: String,
    },
    /// No folder could be made on the device.
    #[error(
        "{device}: no private folder can be made in {folders}: {said}; name a folder that can be written and executed from as `folder:` in the device's file"
    )]
    NoFolder {
        /// The device.
        device: String,
        /// Where it was tried.
        folders: String,
        /// What the device said.
        said: String,
    },
    /// There is no room for a file.
    #[error(
        "{device}: {file} needs {needed} MiB, {spare} of them to stay free, and {folder} has {free} MiB left: make room, or name another `folder:` in the device's file"
    )]
    Full {
        /// The device.
        device: String,
        /// The file.
        file: String,
        /// Its size and `spare`, in MiB.
        needed: u64,
        /// What is to stay free, in MiB.
        spare: u64,
        /// The folder on the device.
        folder: String,
        /// What is free there, in MiB.
        free: u64,
    },
    /// A file did not arrive as it was sent, again and again.
    #[error(
        "{device}: {file} arrived damaged {times} times in a row: the connection or the storage is faulty"
    )]
    Damaged {
        /// The device.
        device: String,
        /// The file.
        file: String,
        /// How often it was sent.
        times: usize,
    },
    /// A program is for another processor or system.
    #[error(
        "{path} is a program for {found}, and {device} is {wanted}: `cargo xtask agent --target {target}` builds the agent for it"
    )]
    Architecture {
        /// The program or library.
        path: PathBuf,
        /// What it is for.
        found: String,
        /// The device.
        device: String,
        /// What the device is.
        wanted: String,
        /// The Rust target to build for.
        target: String,
    },
    /// The device's system does not execute the agent.
    #[error("{device} does not execute the agent: {said}; {remedy}")]
    NotExecuted {
        /// The device.
        device: String,
        /// What it said.
        said: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A result is longer than it can be.
    #[error("{device}: the result for {file} is longer than {limit_bytes} bytes")]
    TooLong {
        /// The device.
        device: String,
        /// The file.
        file: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Something that had to be done on the device failed.
    #[error("{device}: {what} failed: {said}")]
    Failed {
        /// The device.
        device: String,
        /// What.
        what: &'static str,
        /// What the device said.
        said: String,
    },
}

impl TransportError {
    /// Why a connection failed, from what ssh or adb `said`: where that holds certain words, it will not
    /// pass, and there is something to do.
    pub(crate) fn explained<R: Into<String>>(
        device: String,
        said: &str,
        remedies: impl IntoIterator<Item = (&'static str, R)>,
    ) -> Self {
        let said = match said {
            "" => "the connection ended".to_owned(),
            some => some.to_owned(),
        };
        let mut remedies = remedies.into_iter();
        match remedies.find(|(words, _)| said.contains(words)) {
            Some((_, remedy)) => Self::Denied {
                device,
                said,
                remedy: remedy.into(),
            },
            None => Self::Unreachable { device, said },
        }
    }

    /// Whether it may pass: the way to the device, not what is on either side of it.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
