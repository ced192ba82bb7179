use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::TransportError;
use super::shell::{Running, Said, Shell, run};
use crate::device::AdbSpec;

/// Longest that adb may take to start its server, or to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// The system's adb; its server is started where none runs, and
/// left running as adb itself leaves it.
#[derive(Debug)]
pub(crate) struct Adb {
    spec: AdbSpec,
}

impl Adb {
    pub fn new(spec: &AdbSpec) -> Self {
        Self { spec: spec.clone() }
    }

    fn program(&self) -> &Path {
        self.spec.program.as_deref().unwrap_or(Path::new("adb"))
    }

    /// adb for the one device.
    fn adb(&self) -> Command {
        let mut command = Command::new(self.program());
        if let Some(serial) = &self.spec.serial {
            command.args(["-s", serial]);
        }
        command
    }

    /// A device over Wi-Fi has to be connected to, and again after it or the server was away.
    fn connect(&self) -> Result<(), TransportError> {
        let Some(serial) = self
            .spec
            .serial
            .as_deref()
            .filter(|serial| is_address(serial))
        else {
            return Ok(());
        };
        // An offline device stays so until it is connected to anew.
        let states = self.call(&["devices"])?.text();
        let state = |line: &str| {
            let mut words = line.split_whitespace();
            (words.next() == Some(serial)).then(|| words.next().unwrap_or_default().to_owned())
        };
        match states.lines().find_map(state).as_deref() {
            Some("device") => return Ok(()),
            Some("offline") => drop(self.call(&["disconnect", serial])?),
            _ => {}
        }
        let said = self.call(&["connect", serial])?.text();
        match said.contains("connected to") {
            true => Ok(()),
            false => Err(self.explain(&super::shell::printable(&said))),
        }
    }

    /// Something that adb does on this machine.
    fn call(&self, arguments: &[&str]) -> Result<Said, TransportError> {
        let mut command = Command::new(self.program());
        command.args(arguments);
        said(self, command, CONNECT_LIMIT)
    }
}

impl Shell for Adb {
    fn device(&self) -> String {
        match &self.spec.serial {
            Some(serial) => format!("adb device {serial}"),
            None => "the adb device".to_owned(),
        }
    }

    fn folders(&self) -> Vec<String> {
        match &self.spec.folder {
            Some(folder) => vec![folder.clone()],
            None => vec!["/data/local/tmp".to_owned(), "/tmp".to_owned()],
        }
    }

    fn prepare(&self) -> Result<(), TransportError> {
        // The server outlives this call and must hold none of its pipes.
        let mut start = Command::new(self.program());
        start
            .arg("start-server")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        super::local::apart(&mut start);
        // What is wrong with the server, the next call says.
        let _status = start.status().map_err(|source| self.no_program(source))?;
        self.connect()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.adb();
        command.args(["shell", line]);
        command
    }

    fn send(
        &self,
        file: &Path,
        accept: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Said, TransportError> {
        /// What the device says of its storage; all else is the connection's.
        const STORAGE: [&str; 4] = [
            "No space left",
            "Read-only",
            "Permission denied",
            "I/O error",
        ];

        let io = |source| TransportError::Io {
            path: file.to_owned(),
            source,
        };
        let mut command = self.adb();
        // An absolute path is no option.
        command
            .arg("push")
            .arg(std::path::absolute(file).map_err(io)?);
        command.args(arguments.get(1));
        let mut pushed = said(self, command, limit)?;
        if pushed.status == 0 {
            return run(self, accept, arguments, None, limit);
        }
        // adb says some of its errors on its standard output.
        let words = format!("{}; {}", pushed.errors, pushed.text());
        pushed.errors = super::shell::printable(words.trim_start_matches("; "));
        match STORAGE.iter().any(|words| pushed.errors.contains(words)) {
            true => Ok(pushed),
            false => Err(self.explain(&pushed.errors)),
        }
    }

    fn explain(&self, said: &str) -> TransportError {
        let remedies = [
            (
                "more than one device",
                "name one as `serial:` in the device's file; `adb devices -l` lists them",
            ),
            (
                "unauthorized",
                "allow this computer on the device's screen, with USB debugging on in its developer options",
            ),
            (
                "failed to authenticate",
                "allow this computer on the device's screen, or pair with it: `adb pair HOST:PORT`",
            ),
            (
                "insufficient permissions",
                "this user may not use the USB device: see adb's udev rules",
            ),
        ];
        TransportError::explained(self.device(), said, remedies)
    }

    fn no_program(&self, source: std::io::Error) -> TransportError {
        TransportError::NoProgram {
            program: self.program().to_string_lossy().into_owned(),
            source,
            remedy: "install Android's platform tools, or name adb as `program:` in the device's file",
        }
    }
}

/// What a program of this machine says.
fn said(shell: &impl Shell, command: Command, limit: Duration) -> Result<Said, TransportError> {
    use std::io::Read;

    /// Most bytes that are listened to.
    const MAX_SAID: u64 = 1 << 20;

    let mut running = Running::begin(shell, command, Stdio::null(), limit)?;
    let mut output = Vec::new();
    // What cannot be read, adb did not say.
    let _read = running
        .output
        .by_ref()
        .take(MAX_SAID)
        .read_to_end(&mut output);
    let ended = running.end();
    match (ended.overdue, ended.status.and_then(|status| status.code())) {
        (None, Some(status)) => Ok(Said {
            status,
            output,
            errors: ended.errors,
        }),
        _ => Err(ended.explain(shell)),
    }
}

/// Whether a serial number is HOST:PORT.
fn is_address(serial: &str) -> bool {
    let parts = serial.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_serial_numbers() {
        assert!(is_address("127.0.0.1:5555") && is_address("[fe80::1]:5555"));
        assert!(!is_address("8A1X0BZ4") && !is_address("adb-8A._adb-tls-connect._tcp"));
    }

    #[test]
    fn the_line_is_one_argument() {
        let adb = Adb::new(&AdbSpec {
            serial: Some("8A1X".to_owned()),
            program: None,
            folder: None,
        });
        let command = adb.command("echo 'a b'; id");
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["-s", "8A1X", "shell", "echo 'a b'; id"]);
        assert!(!adb.explain("adb: more than one device/emulator").may_pass());
        assert!(adb.explain("adb: device '8A1X' not found").may_pass());
    }
}
