//! Scripts on a device. A script is a constant; what varies are its arguments, which are quoted in
//! one place, [`command_line`]: ssh and adb both hand one line to a shell of the device.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::local::apart;
use super::process::{kill, wait};
use super::{Process, TransportError};

/// Longest that a short script may take.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// Most bytes that a short script may say.
const MAX_SAID: usize = 1 << 20;
/// Kept of what a script or an agent says on its standard error.
const STDERR_TAIL: usize = 4096;
/// Most bytes that a login may say before a script begins.
const MAX_GREETING: u64 = 1 << 16;

const BEGIN: &str = "lathe-begin";
const END: &str = "\nlathe-end ";

/// A shell on a device, and a way to send files there.
pub(crate) trait Shell: Debug + Send + Sync + 'static {
    /// The device in words.
    fn device(&self) -> String;

    /// Folders in which a private one can be made, the best first.
    fn folders(&self) -> Vec<String>;

    /// What has to be done on this machine before a connection is begun.
    fn prepare(&self) -> Result<(), TransportError>;

    /// The program that has the device's shell run `line` over the connection.
    fn command(&self, line: &str) -> Command;

    /// The program that begins the connection and has the device's shell run `line`.
    fn first_command(&self, line: &str) -> Command {
        self.command(line)
    }

    /// A folder of this machine that is of no use once the connection has ended.
    fn connection_folder(&self) -> Option<String> {
        None
    }

    /// Sends a file to the path that the second of `arguments` is, and runs `accept` once it is
    /// there. Says what that says, or why the sending failed.
    fn send(
        &self,
        file: &Path,
        accept: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Said, TransportError>;

    /// Why the connection failed, from what ssh or adb said.
    fn explain(&self, said: &str) -> TransportError;

    /// What to say when ssh or adb cannot be started.
    fn no_program(&self, source: std::io::Error) -> TransportError;
}

/// What a script said, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Said {
    pub status: i32,
    pub output: Vec<u8>,
    pub errors: String,
}

impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// The output, unless the script failed.
    pub fn ok(self, shell: &impl Shell, what: &'static str) -> Result<Self, TransportError> {
        match self.status {
            0 => Ok(self),
            status => Err(TransportError::Failed {
                device: shell.device(),
                what,
                said: match self.errors.is_empty() {
                    true => format!("status {status}"),
                    false => self.errors,
                },
            }),
        }
    }
}

/// The line that has a POSIX shell run `script` with `arguments` as `$1` and so on, whatever the
/// user's shell is and whatever the arguments hold.
pub(crate) fn command_line(script: &str, arguments: &[&str]) -> Result<String, TransportError> {
    let words = ["sh", "-c", script, "lathe"];
    let words = words.into_iter().chain(arguments.iter().copied());
    shlex::try_join(words).map_err(|error| TransportError::File {
        path: arguments.join(" ").into(),
        reason: error.to_string(),
    })
}

/// A script between marks: a login may say something before, and one that was cut off lacks the
/// last.
fn marked(script: &str) -> String {
    format!(
        "echo {BEGIN}\nrun() {{\n{script}\n}}\nrun \"$@\"\nprintf '\\nlathe-end %d\\n' \"$?\"\n"
    )
}

/// Runs a script that says little.
pub(crate) fn run(
    shell: &impl Shell,
    script: &str,
    arguments: &[&str],
    input: Option<File>,
    limit: Duration,
) -> Result<Said, TransportError> {
    let mut running = Running::script(shell, script, arguments, input, limit)?;
    let mut output = Vec::new();
    let mut limited = running.output.by_ref().take(MAX_SAID as u64);
    // What cannot be read is missing below.
    let _read = limited.read_to_end(&mut output);
    let ended = running.end();
    let mark = output.windows(END.len()).rposition(|w| w == END.as_bytes());
    let status = mark.and_then(|mark| {
        let rest = std::str::from_utf8(&output[mark + END.len()..]).ok()?;
        rest.trim_end().parse().ok()
    });
    match (mark, status) {
        (Some(mark), Some(status)) => {
            output.truncate(mark);
            Ok(Said {
                status,
                output,
                errors: ended.errors,
            })
        }
        _ => Err(ended.explain(shell)),
    }
}

/// A script under way; ended when it takes too long.
pub(crate) struct Running {
    /// What follows the first mark.
    pub output: BufReader<ChildStdout>,
    child: Arc<Mutex<Child>>,
    errors: JoinHandle<String>,
    watch: JoinHandle<bool>,
    done: Sender<()>,
    limit: Duration,
}

/// How a script ended.
pub(crate) struct Ended {
    pub status: Option<ExitStatus>,
    pub errors: String,
    /// Set when it was ended because it took longer than this.
    pub overdue: Option<Duration>,
}

impl Ended {
    /// Why it was cut off.
    pub fn explain(&self, shell: &impl Shell) -> TransportError {
        match self.overdue {
            Some(limit) => TransportError::Unreachable {
                device: shell.device(),
                said: format!("no answer within {} s", limit.as_secs()),
            },
            None => shell.explain(&self.errors),
        }
    }
}

impl Running {
    /// Begins a script and reads up to its first mark.
    pub fn script(
        shell: &impl Shell,
        script: &str,
        arguments: &[&str],
        input: Option<File>,
        limit: Duration,
    ) -> Result<Self, TransportError> {
        let command = shell.command(&command_line(&marked(script), arguments)?);
        let mut running = Self::begin(
            shell,
            command,
            input.map_or(Stdio::null(), Stdio::from),
            limit,
        )?;
        running.skip_greeting();
        Ok(running)
    }

    /// Begins a program of this machine.
    pub fn begin(
        shell: &impl Shell,
        mut command: Command,
        input: Stdio,
        limit: Duration,
    ) -> Result<Self, TransportError> {
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        apart(&mut command);
        let mut child = command.spawn().map_err(|source| shell.no_program(source))?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both are pipes");
        };
        let errors = thread::spawn(|| tail(errors));
        let child = Arc::new(Mutex::new(child));
        let (done, is_done) = channel();
        let watched = Arc::clone(&child);
        let watch = thread::spawn(move || {
            let is_overdue = is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_overdue {
                kill(&mut lock(&watched));
            }
            is_overdue
        });
        Ok(Self {
            output: BufReader::new(output),
            child,
            errors,
            watch,
            done,
            limit,
        })
    }

    fn skip_greeting(&mut self) {
        let mut limited = self.output.by_ref().take(MAX_GREETING);
        let mut line = Vec::new();
        while line.trim_ascii_end() != BEGIN.as_bytes() {
            line.clear();
            match limited.read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Waits for its end, or ends it when its output is not read to the end.
    pub fn end(self) -> Ended {
        drop(self.output);
        let status = loop {
            let waited = wait(&mut lock(&self.child), Duration::from_millis(20));
            if waited.is_some() || self.watch.is_finished() {
                break waited;
            }
        };
        // Nobody listens when the time was up.
        let _told = self.done.send(());
        let is_overdue = self.watch.join().unwrap_or(false);
        let status = status.or_else(|| lock(&self.child).wait().ok());
        Ended {
            status,
            errors: self.errors.join().unwrap_or_default(),
            overdue: is_overdue.then_some(self.limit),
        }
    }
}

/// Starts an agent's process with pipes.
pub(crate) fn start(
    shell: &impl Shell,
    script: &str,
    arguments: &[&str],
) -> Result<Process, TransportError> {
    let mut command = shell.command(&command_line(script, arguments)?);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    apart(&mut command);
    let child = command.spawn().map_err(|source| shell.no_program(source))?;
    Ok(Process {
        child,
        end_there: None,
        patience: Duration::from_secs(3),
    })
}

/// The last of what is said, once all is said, without what would steer a terminal.
pub(crate) fn tail(mut source: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..excess);
    }
    printable(&String::from_utf8_lossy(&kept))
}

/// A text in one line without control characters.
pub(crate) fn printable(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let seen = line.chars().filter(|c| !c.is_control());
        seen.collect::<String>().trim().to_owned()
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Hands lines to a shell of this machine, as sshd and adbd do.
    #[derive(Debug)]
    pub(crate) struct Here;

    impl Shell for Here {
        fn device(&self) -> String {
            "here".to_owned()
        }

        fn folders(&self) -> Vec<String> {
            vec!["/tmp".to_owned()]
        }

        fn prepare(&self) -> Result<(), TransportError> {
            Ok(())
        }

        fn command(&self, line: &str) -> Command {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        }

        fn send(&self, _: &Path, _: &str, _: &[&str], _: Duration) -> Result<Said, TransportError> {
            unreachable!("nothing is sent")
        }

        fn explain(&self, said: &str) -> TransportError {
            TransportError::Unreachable {
                device: self.device(),
                said: said.to_owned(),
            }
        }

        fn no_program(&self, source: std::io::Error) -> TransportError {
            panic!("{source}")
        }
    }

    fn said(script: &str, arguments: &[&str], limit: Duration) -> Result<Said, TransportError> {
        run(&Here, script, arguments, None, limit)
    }

    #[test]
    fn no_argument_is_taken_for_anything_but_itself() {
        let folder = tempfile::tempdir().unwrap();
        let trap = folder.path().join("trap");
        let trap = trap.to_str().unwrap();
        let touch = format!("touch {trap}");
        let nasty = [
            format!("; {touch} ;"),
            format!("$({touch})"),
            format!("`{touch}`"),
            format!("'; {touch}; '"),
            format!("\"; {touch}; \""),
            format!("a\n{touch}\nb"),
            format!("x' \" \\ ; & | > {trap}"),
            "two  words".to_owned(),
            "-n".to_owned(),
            "*".to_owned(),
            "!!".to_owned(),
            String::new(),
        ];
        for word in &nasty {
            let said = said("printf '%s|' \"$@\"", &[word, "next"], SHORT).unwrap();
            assert_eq!(said.text(), format!("{word}|next|"));
        }
        assert!(!Path::new(trap).exists());
        assert!(command_line("true", &["a\0b"]).is_err());
    }

    #[test]
    fn status_output_and_errors_are_told_apart() {
        let said = said("echo out; echo bad >&2; return 7", &[], SHORT).unwrap();
        assert_eq!((said.status, said.text().as_str()), (7, "out\n"));
        assert_eq!(said.errors, "bad");
        let error = said.ok(&Here, "a test").unwrap_err().to_string();
        assert!(error.contains("a test failed: bad"), "{error}");
    }

    #[test]
    fn what_is_cut_off_overdue_or_too_long_is_no_answer() {
        let cut = said("kill -9 $$", &[], SHORT).unwrap_err();
        assert!(cut.may_pass(), "{cut}");
        let late = said("sleep 60", &[], Duration::from_millis(50)).unwrap_err();
        assert!(late.to_string().contains("no answer within 0 s"), "{late}");
        assert!(said("yes", &[], SHORT).is_err());
    }

    #[test]
    fn what_is_printed_steers_no_terminal() {
        let text = "\u{1b}]0;x\u{7}one\r\n\n two\u{9b}\n";
        assert_eq!(printable(text), "]0;xone; two");
    }
}
