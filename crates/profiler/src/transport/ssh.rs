use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::TransportError;
use super::shell::{Said, Shell, run};
use crate::device::SshSpec;

/// The longest path that a socket's name may have, with what ssh adds to it while it is made.
const MAX_SOCKET_PATH: usize = 80;

/// The system's OpenSSH. One connection carries everything (`ControlMaster`); it is begun by the
/// first command and ends with it. Keys, hosts and all else are as the user's configuration has
/// them, nothing is asked (`BatchMode`), and nothing is forwarded.
#[derive(Debug)]
pub(crate) struct Ssh {
    spec: SshSpec,
    /// Holds the connection's socket; a new one for each connection.
    control: Mutex<PathBuf>,
}

impl Ssh {
    pub fn new(spec: &SshSpec) -> Self {
        Self {
            spec: spec.clone(),
            control: Mutex::new(PathBuf::new()),
        }
    }

    fn control(&self) -> PathBuf {
        let control = self.control.lock();
        control.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ssh(&self, line: &str, master: &str) -> Command {
        let mut command = Command::new("ssh");
        if let Some(config) = &self.spec.config {
            command.arg("-F").arg(config);
        }
        if let Some(port) = self.spec.port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &self.spec.user {
            command.args(["-l", user]);
        }
        let socket = self.control().join("socket").display().to_string();
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "RequestTTY=no",
            "RemoteCommand=none",
            "ControlPersist=no",
            "LogLevel=ERROR",
            master,
            // `%` begins a placeholder of ssh's.
            &format!("ControlPath={}", socket.replace('%', "%%")),
        ] {
            command.args(["-o", option]);
        }
        command.args(["--", &self.spec.host, line]);
        command
    }
}

impl Shell for Ssh {
    fn device(&self) -> String {
        match &self.spec.user {
            Some(user) => format!("{user}@{}", self.spec.host),
            None => self.spec.host.clone(),
        }
    }

    fn folders(&self) -> Vec<String> {
        match &self.spec.folder {
            Some(folder) => vec![folder.clone()],
            // The first is on a disk where the second is in memory.
            None => vec!["/var/tmp".to_owned(), "/tmp".to_owned()],
        }
    }

    fn prepare(&self) -> Result<(), TransportError> {
        let folder = private_folder().map_err(|source| TransportError::Io {
            path: std::env::temp_dir(),
            source,
        })?;
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = folder;
        Ok(())
    }

    fn command(&self, line: &str) -> Command {
        self.ssh(line, "ControlMaster=no")
    }

    fn first_command(&self, line: &str) -> Command {
        self.ssh(line, "ControlMaster=yes")
    }

    fn connection_folder(&self) -> Option<String> {
        self.control().to_str().map(str::to_owned)
    }

    fn send(
        &self,
        file: &Path,
        accept: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Said, TransportError> {
        let source = File::open(file).map_err(|source| TransportError::Io {
            path: file.to_owned(),
            source,
        })?;
        let script = format!("umask 077\ncat > \"$2\" || return 1\n{accept}");
        run(self, &script, arguments, Some(source), limit)
    }

    fn explain(&self, said: &str) -> TransportError {
        let host = &self.spec.host;
        let remedies = [
            (
                "REMOTE HOST IDENTIFICATION HAS CHANGED",
                format!(
                    "its host key is not the one in known_hosts: if that is right, `ssh-keygen -R {host}` forgets the old one"
                ),
            ),
            (
                "Host key verification failed",
                format!(
                    "its host key is not known: `ssh {host}` once by hand shows it and remembers it"
                ),
            ),
            (
                "Permission denied",
                format!(
                    "it takes none of this user's keys: `ssh-copy-id {host}`, or name the key in the ssh configuration"
                ),
            ),
            (
                "Bad configuration option",
                "the ssh configuration has to be corrected".to_owned(),
            ),
            (
                "Can't open user config file",
                "`config:` in the device's file names no file".to_owned(),
            ),
        ];
        TransportError::explained(self.device(), said, remedies)
    }

    fn no_program(&self, source: std::io::Error) -> TransportError {
        TransportError::NoProgram {
            program: "ssh".to_owned(),
            source,
            remedy: "install OpenSSH's client",
        }
    }
}

/// A folder that only this user can enter, in the system's temporary one unless its path is too long
/// for a socket.
fn private_folder() -> std::io::Result<PathBuf> {
    let make = || tempfile::Builder::new().prefix("lathe-").tempdir();
    let folder = match std::env::temp_dir().as_os_str().len() > MAX_SOCKET_PATH {
        true => tempfile::Builder::new().prefix("lathe-").tempdir_in("/tmp"),
        false => make(),
    };
    // Removed when the connection ends, or with it when this program is killed.
    Ok(folder?.keep())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(host: &str) -> Ssh {
        Ssh::new(&SshSpec {
            host: host.to_owned(),
            port: Some(2222),
            user: Some("pi".to_owned()),
            config: None,
            folder: None,
        })
    }

    #[test]
    fn the_line_is_one_argument_after_the_host() {
        let command = ssh("pi.local").command("echo 'a b'; id");
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            arguments[arguments.len() - 3..],
            ["--", "pi.local", "echo 'a b'; id"]
        );
        assert!(arguments.contains(&"BatchMode=yes".as_ref()));
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let ssh = ssh("pi.local");
        for (said, word) in [
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @; Host key verification failed.",
                "ssh-keygen -R pi.local",
            ),
            ("Host key verification failed.", "once by hand"),
            ("pi@pi.local: Permission denied (publickey).", "ssh-copy-id"),
        ] {
            let error = ssh.explain(said);
            assert!(
                !error.may_pass() && error.to_string().contains(word),
                "{error}"
            );
        }
        for said in [
            "",
            "ssh: connect to host pi.local port 22: Connection refused",
        ] {
            assert!(ssh.explain(said).may_pass());
        }
    }
}
