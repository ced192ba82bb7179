//! Ways to devices: the same machine, ssh and adb.
//!
//! A [`Transport`] makes files available on the device, starts the agent there and brings results
//! back. [`Local`] uses files where they are. [`Remote`] sends them into a private folder of the
//! device, by content; all that it needs of [`Ssh`] and [`Adb`] is a shell on the device and a way
//! to send a file ([`Shell`]).

mod adb;
mod error;
mod keeper;
mod local;
mod machine;
mod process;
mod program;
mod remote;
mod shell;
mod ssh;
mod store;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::TransportError;
pub(crate) use process::Process;
pub(crate) use shell::{printable, tail};

use crate::device::{DeviceSpec, TransportSpec};
use adb::Adb;
use local::Local;
use remote::{Remote, Rules};
use ssh::Ssh;

/// What starts an agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    /// The agent's program, on this machine.
    pub program: &'a Path,
    /// ONNX Runtime's shared library, on this machine.
    pub ort_lib: &'a Path,
    /// Further arguments.
    pub arguments: &'a [String],
}

/// A way to a device.
pub(crate) trait Transport: Debug + Send + Sync {
    /// Starts an agent, its program and runtime sent if they are not there yet.
    fn start(&self, launch: &Launch<'_>) -> Result<Process, TransportError>;

    /// Where a file of this machine is on the device, sent there with all that it refers to if it is
    /// not there yet.
    fn place(&self, file: &Path) -> Result<PathBuf, TransportError>;

    /// Where the device is to write what is wanted in a file of this machine.
    fn result_path(&self, file: &Path) -> Result<PathBuf, TransportError>;

    /// Brings what the device wrote for a file of this machine, unless it is longer than
    /// `limit_bytes`.
    fn collect(&self, file: &Path, limit_bytes: u64) -> Result<(), TransportError>;

    /// Makes sure that the device is there after something failed: reconnects, and finds out which
    /// files it still has. Returns once it is there, or fails after the time that the device's
    /// description allows.
    fn recover(&self) -> Result<(), TransportError>;

    /// The Rust target of programs for the device.
    fn target(&self) -> Result<String, TransportError>;

    /// The architecture of the device's processor in Rust's name, where it is known.
    fn machine_arch(&self) -> Option<String>;

    /// What was done to the device so that it measures better, in words.
    fn conditions(&self) -> Vec<String>;
}

/// Told of each file before it is sent: the device's name, the file, and its size in bytes.
pub type OnSending = fn(&str, &Path, u64);

/// The way to a device; connected when it is first used. Files stay there with `keep`.
pub(crate) fn transport_to(
    spec: &DeviceSpec,
    keep: bool,
    on_sending: OnSending,
) -> Arc<dyn Transport> {
    let (name, rules) = (spec.name.clone(), Rules::of(spec, keep));
    let tell = move |file: &Path, bytes| on_sending(&name, file, bytes);
    match &spec.transport {
        TransportSpec::Local => Arc::new(Local),
        TransportSpec::Ssh(ssh) => Arc::new(Remote::new(Ssh::new(ssh), rules, tell)),
        TransportSpec::Adb(adb) => Arc::new(Remote::new(Adb::new(adb), rules, tell)),
    }
}

/// The Rust target of programs for this machine.
pub fn own_target() -> String {
    machine::target(std::env::consts::ARCH, cfg!(target_os = "android"))
}
