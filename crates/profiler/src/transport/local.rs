use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Launch, Process, Transport, TransportError};

/// This machine: files are used where they are.
#[derive(Debug)]
pub(crate) struct Local;

impl Transport for Local {
    fn start(&self, launch: &Launch<'_>) -> Result<Process, TransportError> {
        let mut command = Command::new(launch.program);
        command
            .arg("--ort-lib")
            .arg(launch.ort_lib)
            .args(launch.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        apart(&mut command);
        let child = command.spawn().map_err(|source| TransportError::Io {
            path: launch.program.to_owned(),
            source,
        })?;
        Ok(Process {
            child,
            end_there: None,
            patience: Duration::ZERO,
        })
    }

    fn place(&self, file: &Path) -> Result<PathBuf, TransportError> {
        Ok(file.to_owned())
    }

    fn result_path(&self, file: &Path) -> Result<PathBuf, TransportError> {
        Ok(file.to_owned())
    }

    fn collect(&self, _file: &Path, _limit_bytes: u64) -> Result<(), TransportError> {
        Ok(())
    }

    fn recover(&self) -> Result<(), TransportError> {
        Ok(())
    }

    fn target(&self) -> Result<String, TransportError> {
        Ok(super::own_target())
    }

    fn machine_arch(&self) -> Option<String> {
        Some(std::env::consts::ARCH.to_owned())
    }

    fn conditions(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Ctrl-C in the terminal is for this program, which then decides what to keep.
pub(crate) fn apart(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}
