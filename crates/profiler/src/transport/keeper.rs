//! The private folder on a device, and the process there that keeps it for as long as the
//! connection lasts.
//!
//! The keeper is the connection's first command. It makes the folder, waits for a word, and acts on
//! it: `end` removes the folder and what still runs in it, `keep` leaves it. When no word comes
//! because the connection was lost, it waits for the host to come back and name the folder, and
//! removes it when that does not happen. On this machine a relay of two programs stands between
//! Lathe and the connection: it says the word when Lathe was killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::TransportError;
use super::local::apart;
use super::process::{kill, wait};
use super::shell::{Shell, command_line, printable, tail};

/// Longest that a connection may take to begin.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Longest that removing the folder may take.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Waited for the host to come back, beyond what it tries for.
const GRACE_S: u64 = 60;
/// Longest line of the keeper, and most lines that a login may say before.
const MAX_LINE: u64 = 4096;
const MAX_LINES: usize = 256;
/// Exit status when no folder could be made.
const NO_FOLDER: i32 = 73;

/// `$1`: a folder that was made before, or nothing. `$2`: seconds to wait for the host. `$3`: this
/// connection's name. Further: where to make a folder.
const KEEPER: &str = r#"
trap '' HUP
umask 077
known=$1 grace=$2 name=$3
shift 3
folder=
if [ -n "$known" ] && [ -d "$known" ] && [ ! -L "$known" ] && [ -O "$known" ]; then
    folder=$known
else
    for base do
        folder=$(mktemp -d "$base/lathe-XXXXXXXX") && break
        folder=
    done
fi
[ -n "$folder" ] || exit 73
chmod 700 "$folder" && mkdir -p "$folder/out" && echo "$name" > "$folder/connection" || exit 73
stop_agents() {
    for number in "$folder"/agent.*; do
        [ -f "$number" ] || continue
        process=$(cat "$number")
        case $(tr '\0' ' ' < "/proc/$process/cmdline") in
            *"$folder"*) kill -KILL "$process" ;;
        esac
        rm -f "$number"
    done
}
stop_agents 2> /dev/null
if [ -e /system/build.prop ]; then system=android; else system=linux; fi
printf 'lathe-keeper\n%s\n%s\n%s\nlathe-ready\n' "$folder" "$(uname -m)" "$system"
exec > /dev/null 2>&1
read -r word
case $word in
    end | keep) ;;
    *)
        sleep "$grace"
        [ "$(cat "$folder/connection")" = "$name" ] || exit 0
        word=end
        ;;
esac
stop_agents
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// `$1`: the last word. `$2`: a folder to remove at the end, or nothing. Further: the connection.
/// It ends with the connection, and what waits for words with it.
#[cfg(unix)]
const RELAY: &str = r#"
word=$1 folder=$2
shift 2
trap : TERM
{ cat; echo "$word"; } | {
    "$@"
    status=$?
    [ -z "$folder" ] || rm -rf "$folder"
    trap '' TERM
    kill -TERM 0
    exit $status
}
exit $?
"#;

/// A connection with its folder.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    word: &'static str,
    errors: Option<JoinHandle<String>>,
    /// The private folder's path on the device.
    pub folder: String,
    /// What `uname -m` says there.
    pub machine: String,
    /// Whether it is an Android device.
    pub is_android: bool,
}

impl Keeper {
    /// Begins a connection; `known` is the folder of an earlier one.
    pub fn open(
        shell: &impl Shell,
        known: Option<&str>,
        reconnect_s: u64,
        keep: bool,
    ) -> Result<Self, TransportError> {
        shell.prepare()?;
        let folders = shell.folders();
        let grace_s = (reconnect_s + GRACE_S).to_string();
        let name = format!("{:016x}", rand::random::<u64>());
        let mut arguments = vec![known.unwrap_or_default(), grace_s.as_str(), name.as_str()];
        arguments.extend(folders.iter().map(String::as_str));
        let word = if keep { "keep" } else { "end" };
        let connection = shell.first_command(&command_line(KEEPER, &arguments)?);
        let mut command = relayed(connection, word, shell.connection_folder());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        apart(&mut command);
        let mut child = command.spawn().map_err(|source| shell.no_program(source))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let mut keeper = Self {
            child,
            word,
            errors: errors.map(|errors| thread::spawn(|| tail(errors))),
            folder: String::new(),
            machine: String::new(),
            is_android: false,
        };
        let (sender, told) = channel();
        thread::spawn(move || {
            // Nobody listens when the time was up.
            let _late = sender.send(output.and_then(introduction));
        });
        match told.recv_timeout(CONNECT_LIMIT) {
            Ok(Some([folder, machine, system])) if folder.starts_with('/') => {
                keeper.folder = folder;
                keeper.machine = machine;
                keeper.is_android = system == "android";
                Ok(keeper)
            }
            Err(RecvTimeoutError::Timeout) => Err(TransportError::Unreachable {
                device: shell.device(),
                said: format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
            }),
            _ => Err(keeper.refusal(shell)),
        }
    }

    /// Whether the connection has not ended.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn refusal(mut self, shell: &impl Shell) -> TransportError {
        let status = wait(&mut self.child, Duration::from_secs(5));
        kill(&mut self.child);
        let errors = self.errors.take().map(JoinHandle::join);
        let said = errors.and_then(Result::ok).unwrap_or_default();
        match status.and_then(|status| status.code()) {
            Some(NO_FOLDER) => TransportError::NoFolder {
                device: shell.device(),
                folders: shell.folders().join(" or "),
                said,
            },
            _ => shell.explain(&said),
        }
    }

    /// Ends a connection that does no more, without a word: the folder stays for a while.
    pub fn abandon(mut self) {
        kill(&mut self.child);
        // It was killed.
        let _status = self.child.wait();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.is_alive() {
            return;
        }
        if let Some(mut input) = self.child.stdin.take() {
            // A connection that takes no more is ended below.
            let _lost = writeln!(input, "{}", self.word);
        }
        if wait(&mut self.child, END_LIMIT).is_none() {
            kill(&mut self.child);
            let _status = self.child.wait();
        }
    }
}

/// The lines between the keeper's marks.
fn introduction(output: impl Read) -> Option<[String; 3]> {
    let mut output = BufReader::new(output);
    let mut line = move || {
        let mut line = Vec::new();
        let read = output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let read = read.ok().filter(|count| *count > 0)?;
        let text = String::from_utf8(line[..read].to_vec()).unwrap_or_default();
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    };
    let mut before = 0;
    while line()? != "lathe-keeper" {
        before += 1;
        if before > MAX_LINES {
            return None;
        }
    }
    let told = [line()?, line()?, line()?];
    let is_sound = told.iter().all(|text| printable(text) == *text);
    (is_sound && line()? == "lathe-ready").then_some(told)
}

#[cfg(unix)]
fn relayed(connection: Command, word: &str, folder: Option<String>) -> Command {
    let mut relay = Command::new("sh");
    relay
        .args(["-c", RELAY, "lathe", word])
        .arg(folder.unwrap_or_default())
        .arg(connection.get_program())
        .args(connection.get_args());
    relay
}

#[cfg(not(unix))]
fn relayed(connection: Command, _word: &str, _folder: Option<String>) -> Command {
    connection
}
