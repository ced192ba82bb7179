use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::keeper::Keeper;
use super::shell::{Running, SHORT, Shell, run, start};
use super::store::{Contents, Item, Stamp, hexadecimal};
use super::{Launch, Process, Transport, TransportError, machine, program};
use crate::device::{DeviceSpec, runs_natively};

/// Times that a file is sent before it is given up.
const SENDINGS: usize = 3;
/// Space that is left free on the device.
const SPARE_BYTES: u64 = 16 << 20;
/// The slowest that files are sent, in bytes per second, and the time granted beside it.
const SLOWEST: u64 = 100_000;
const SENDING_LIMIT: Duration = Duration::from_secs(60);
/// First and longest pause between two attempts to reach a lost device.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Files that one command line names.
const NAMES_AT_ONCE: usize = 200;
/// Exit status of the sending when a file arrived damaged.
const DAMAGED: i32 = 65;

const FREE: &str = r#"df -Pk "$1" 2> /dev/null || df -k "$1""#;

/// `$1`: the private folder. `$2`: the file as it arrived. `$3`: its SHA-256. `$4`: its place below
/// the folder. Says what is free then.
const ACCEPT: &str = r#"
umask 077
found=$(sha256sum < "$2") || return
case $found in
    "$3"*) ;;
    *) rm -f "$2"; return 65 ;;
esac
mkdir -p "$1/$(dirname "$4")" && chmod 700 "$2" && mv -f "$2" "$1/$4" || return 1
df -Pk "$1" 2> /dev/null || df -k "$1" || return 0
"#;

/// `$1`: the private folder. Further: files below it.
const REMOVE: &str = r#"
cd "$1" || return
shift
rm -f -- "$@"
for name do rmdir "$(dirname "$name")" 2> /dev/null; done
return 0
"#;

/// `$1`: the private folder. Further: files below it, each after its SHA-256. Says which are there.
const AUDIT: &str = r#"
cd "$1" || return
shift
rm -f incoming.* out/*
while [ $# -gt 1 ]; do
    if [ -f "$2" ]; then
        case $(sha256sum < "$2") in
            "$1"*) echo "$2" ;;
        esac
    fi
    shift 2
done
return 0
"#;

/// `$1`: the private folder. `$2`: the agent's number. Further: its program and arguments. On
/// Android the scheduler gives a foreground app's share where it can be asked to.
const AGENT: &str = r#"
umask 077
cd "$1" || exit 70
echo $$ > "agent.$2" || exit 70
shift 2
if command -v settaskprofile > /dev/null 2>&1; then
    settaskprofile $$ SCHED_SP_TOP_APP > /dev/null 2>&1
fi
exec "$@"
"#;

/// Whether the device has `settaskprofile` and grants the profile.
const PROFILE: &str =
    "command -v settaskprofile > /dev/null && settaskprofile $$ SCHED_SP_TOP_APP > /dev/null 2>&1";

/// `$1`: the private folder. `$2`: the agent's number.
const END_AGENT: &str = r#"
cd "$1" || return 0
process=$(cat "agent.$2") || return 0
case $(tr '\0' ' ' < "/proc/$process/cmdline") in
    *"$1"*) kill -KILL "$process" ;;
esac
rm -f "agent.$2"
"#;

/// `$1`: a file. Says its size and SHA-256, then the file, and removes it.
const RESULT: &str = r#"
size=$(wc -c < "$1") && sum=$(sha256sum < "$1") || return
echo $size "${sum%% *}"
cat "$1" && rm -f "$1"
"#;

/// A device with a shell on it, and a private folder there.
pub(crate) struct Remote<S> {
    shell: Arc<S>,
    rules: Rules,
    on_sending: Box<Tell>,
    state: Mutex<State>,
}

/// Told of a file and its size.
type Tell = dyn Fn(&Path, u64) + Send + Sync;

/// What a device's description says of the way there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long a lost device is tried again.
    reconnect: Duration,
    /// Whether programs for other processors run.
    is_emulated: bool,
    /// Whether files stay there at the end.
    keep: bool,
}

impl Rules {
    pub fn of(spec: &DeviceSpec, keep: bool) -> Self {
        Self {
            reconnect: Duration::from_secs(spec.reconnect_s),
            is_emulated: spec.emulated,
            keep,
        }
    }
}

impl<S: Shell> fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Remote");
        text.field("shell", &self.shell).field("rules", &self.rules);
        text.finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    keeper: Option<Keeper>,
    /// The private folder, also while there is no connection.
    folder: Option<String>,
    contents: Contents,
    /// What is on the device, by name.
    sent: BTreeMap<String, Sent>,
    /// What was free on the device when it was last asked.
    free_bytes: Option<u64>,
    /// Counts uses and agents.
    count: u64,
    conditions: Vec<String>,
}

#[derive(Debug)]
struct Sent {
    item: Item,
    /// When it was last used; programs always are.
    used: u64,
}

impl<S: Shell> Remote<S> {
    /// The way to a device; `on_sending` is told of files that are sent and their sizes.
    pub fn new(
        shell: S,
        rules: Rules,
        on_sending: impl Fn(&Path, u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            shell: Arc::new(shell),
            rules,
            on_sending: Box::new(on_sending),
            state: Mutex::new(State::default()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // State is changed after what it says has happened, so a panic elsewhere leaves it right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with a connection, begun if there was none yet.
    fn connected(&self) -> Result<MutexGuard<'_, State>, TransportError> {
        let mut state = self.state();
        if state.keeper.is_none() {
            let is_first = state.folder.is_none();
            self.connect(&mut state).map_err(|error| match error {
                TransportError::Unreachable { device, said } if is_first => {
                    TransportError::Absent { device, said }
                }
                other => other,
            })?;
        }
        Ok(state)
    }

    fn connect(&self, state: &mut State) -> Result<(), TransportError> {
        let known = state.folder.clone();
        let reconnect_s = self.rules.reconnect.as_secs();
        let keeper = Keeper::open(&*self.shell, known.as_deref(), reconnect_s, self.rules.keep)?;
        if known.as_deref() != Some(&keeper.folder) {
            state.sent.clear();
        }
        state.folder = Some(keeper.folder.clone());
        state.keeper = Some(keeper);
        self.audit(state)?;
        let profile = run(&*self.shell, PROFILE, &[], None, SHORT)?;
        state.conditions = match profile.status {
            0 => vec!["settaskprofile: SCHED_SP_TOP_APP".to_owned()],
            _ => Vec::new(),
        };
        Ok(())
    }

    /// Finds out what is left on the device of what was sent.
    fn audit(&self, state: &mut State) -> Result<(), TransportError> {
        let folder = state.path("");
        let mut there = Vec::new();
        let sent: Vec<(&str, &str)> = state
            .sent
            .values()
            .map(|sent| (sent.item.sha256.as_str(), sent.item.name.as_str()))
            .collect();
        let limit = SENDING_LIMIT + SHORT;
        for some in sent.chunks(NAMES_AT_ONCE) {
            let mut arguments = vec![folder.as_str()];
            arguments.extend(some.iter().flat_map(|(sha256, name)| [*sha256, *name]));
            let said = run(&*self.shell, AUDIT, &arguments, None, limit)?;
            let text = said.ok(&*self.shell, "looking for sent files")?.text();
            there.extend(text.lines().map(str::to_owned));
        }
        state.sent.retain(|name, _| there.contains(name));
        Ok(())
    }

    /// Sends what is not there yet.
    fn send_all(&self, state: &mut State, items: &[Item]) -> Result<(), TransportError> {
        for item in items {
            if !state.sent.contains_key(&item.name) {
                self.make_room(state, item, items)?;
                self.send(state, item)?;
            }
            state.count += 1;
            let used = state.count;
            let item = item.clone();
            state.sent.insert(item.name.clone(), Sent { item, used });
        }
        Ok(())
    }

    fn send(&self, state: &mut State, item: &Item) -> Result<(), TransportError> {
        let shell = &*self.shell;
        state.count += 1;
        let arriving = state.path(&format!("incoming.{}", state.count));
        let limit = SENDING_LIMIT + Duration::from_secs(item.stamp.bytes / SLOWEST);
        (self.on_sending)(&item.file, item.stamp.bytes);
        for _ in 0..SENDINGS {
            let folder = state.path("");
            let arguments = [folder.as_str(), &arriving, &item.sha256, &item.name];
            let sent = shell.send(&item.file, ACCEPT, &arguments, limit)?;
            if sent.status != 0 && sent.errors.contains("No space left") {
                let free = self.free_bytes(state)?.unwrap_or(0);
                return Err(self.full(state, item, free));
            }
            if sent.status != DAMAGED {
                let sent = sent.ok(shell, "sending a file")?;
                state.free_bytes = free_of_df(&sent.text());
                return Ok(());
            }
        }
        Err(TransportError::Damaged {
            device: shell.device(),
            file: item.file.display().to_string(),
            times: SENDINGS,
        })
    }

    /// Removes files that are of no use any more, and the least recently used ones as long as there
    /// is no room for `item`; never those in `together`.
    fn make_room(
        &self,
        state: &mut State,
        item: &Item,
        together: &[Item],
    ) -> Result<(), TransportError> {
        let is_stale = |sent: &&Sent| Stamp::of(&sent.item.file) != Some(sent.item.stamp);
        let stale = state.sent.values().filter(is_stale);
        let stale: Vec<String> = stale.map(|sent| sent.item.name.clone()).collect();
        self.remove(state, &stale)?;
        let needed = item.stamp.bytes + SPARE_BYTES;
        loop {
            // What was free after the last file tells enough as long as it is plenty.
            if state.free_bytes.is_none_or(|free| free < 2 * needed) {
                state.free_bytes = self.free_bytes(state)?;
            }
            let Some(free) = state.free_bytes.filter(|free| *free < needed) else {
                return Ok(());
            };
            let is_free = |sent: &&Sent| {
                sent.used < u64::MAX && together.iter().all(|other| other.name != sent.item.name)
            };
            let oldest = state
                .sent
                .values()
                .filter(is_free)
                .min_by_key(|sent| sent.used);
            let Some(oldest) = oldest.map(|sent| sent.item.name.clone()) else {
                return Err(self.full(state, item, free));
            };
            self.remove(state, &[oldest])?;
        }
    }

    fn remove(&self, state: &mut State, names: &[String]) -> Result<(), TransportError> {
        let folder = state.path("");
        for some in names.chunks(NAMES_AT_ONCE) {
            let mut arguments = vec![folder.as_str()];
            arguments.extend(some.iter().map(String::as_str));
            let removed = run(&*self.shell, REMOVE, &arguments, None, SHORT)?;
            removed.ok(&*self.shell, "removing sent files")?;
        }
        state.sent.retain(|name, _| !names.contains(name));
        if !names.is_empty() {
            state.free_bytes = None;
        }
        Ok(())
    }

    /// `None` where the device does not tell.
    fn free_bytes(&self, state: &State) -> Result<Option<u64>, TransportError> {
        let said = run(&*self.shell, FREE, &[&state.path("")], None, SHORT)?;
        Ok(free_of_df(&said.text()))
    }

    fn full(&self, state: &State, item: &Item, free: u64) -> TransportError {
        TransportError::Full {
            device: self.shell.device(),
            file: item.file.display().to_string(),
            needed: (item.stamp.bytes + SPARE_BYTES).div_ceil(1 << 20),
            spare: SPARE_BYTES >> 20,
            folder: state.path(""),
            free: free >> 20,
        }
    }

    /// Whether the device's processor runs a program, as far as the program tells.
    fn check_architecture(&self, state: &State, path: &Path) -> Result<(), TransportError> {
        let Some(keeper) = state.keeper.as_ref().filter(|_| !self.rules.is_emulated) else {
            return Ok(());
        };
        let wanted = machine::architecture(&keeper.machine);
        match program::architecture(path) {
            Some(found) if !runs_natively(&found, &wanted) => Err(TransportError::Architecture {
                path: path.to_owned(),
                found,
                device: self.shell.device(),
                target: machine::target(&wanted, keeper.is_android),
                wanted,
            }),
            _ => Ok(()),
        }
    }

    fn pull(&self, path: &str, file: &Path, limit_bytes: u64) -> Result<(), TransportError> {
        let shell = &*self.shell;
        let io = |source| TransportError::Io {
            path: file.to_owned(),
            source,
        };
        let limit = SENDING_LIMIT + Duration::from_secs(limit_bytes / SLOWEST);
        let mut running = Running::script(shell, RESULT, &[path], None, limit)?;
        let mut header = Vec::new();
        // What is missing is noticed below.
        let _read = running
            .output
            .by_ref()
            .take(256)
            .read_until(b'\n', &mut header);
        let header = String::from_utf8_lossy(&header).into_owned();
        let told = header
            .split_once(' ')
            .and_then(|(size, sha256)| Some((size.parse::<u64>().ok()?, sha256.trim().to_owned())));
        let Some((size, sha256)) = told else {
            let ended = running.end();
            return Err(match ended.errors.is_empty() {
                true => ended.explain(shell),
                false => TransportError::Failed {
                    device: shell.device(),
                    what: "fetching a result",
                    said: ended.errors,
                },
            });
        };
        if size > limit_bytes {
            running.end();
            return Err(TransportError::TooLong {
                device: shell.device(),
                file: file.display().to_string(),
                limit_bytes,
            });
        }
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        let mut arrived =
            tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(io)?;
        let mut hash = Sha256::new();
        let mut left = size;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            match running.output.read(&mut buffer[..most]) {
                Ok(count @ 1..) => {
                    hash.update(&buffer[..count]);
                    arrived.write_all(&buffer[..count]).map_err(io)?;
                    left -= count as u64;
                }
                Ok(0) | Err(_) => return Err(running.end().explain(shell)),
            }
        }
        running.end();
        if hexadecimal(&hash.finalize()) != sha256 {
            return Err(TransportError::Unreachable {
                device: shell.device(),
                said: format!("the result for {} arrived damaged", file.display()),
            });
        }
        arrived.as_file().sync_all().map_err(io)?;
        arrived.persist(file).map_err(|error| io(error.error))?;
        Ok(())
    }
}

impl State {
    /// A path below the private folder; the folder itself for nothing.
    fn path(&self, name: &str) -> String {
        let folder = self.folder.as_deref().unwrap_or_default();
        match name {
            "" => folder.to_owned(),
            name => format!("{folder}/{name}"),
        }
    }
}

impl<S: Shell> Transport for Remote<S> {
    fn start(&self, launch: &Launch<'_>) -> Result<Process, TransportError> {
        let mut state = self.connected()?;
        self.check_architecture(&state, launch.program)?;
        self.check_architecture(&state, launch.ort_lib)?;
        let program = state.contents.program(launch.program, "lathe-agent")?;
        let library = state
            .contents
            .program(launch.ort_lib, "libonnxruntime.so")?;
        let items = [program, library];
        self.send_all(&mut state, &items)?;
        for item in &items {
            if let Some(sent) = state.sent.get_mut(&item.name) {
                sent.used = u64::MAX;
            }
        }
        state.count += 1;
        let number = state.count.to_string();
        let folder = state.path("");
        let [program, library] = items.map(|item| state.path(&item.name));
        let mut arguments = vec![folder.as_str(), &number, &program, "--ort-lib", &library];
        arguments.extend(launch.arguments.iter().map(String::as_str));
        let mut process = start(&*self.shell, AGENT, &arguments)?;
        let (shell, folder) = (Arc::clone(&self.shell), folder.clone());
        process.end_there = Some(Box::new(move || {
            // A device that is away cannot be told; its keeper ends the agent.
            let _away = run(&*shell, END_AGENT, &[&folder, &number], None, SHORT);
        }));
        Ok(process)
    }

    fn place(&self, file: &Path) -> Result<PathBuf, TransportError> {
        let mut state = self.connected()?;
        let items = state.contents.graph(file)?;
        self.send_all(&mut state, &items)?;
        let graph = items.last().map(|item| state.path(&item.name));
        Ok(graph.unwrap_or_default().into())
    }

    fn result_path(&self, file: &Path) -> Result<PathBuf, TransportError> {
        let name = hexadecimal(&Sha256::digest(file.as_os_str().as_encoded_bytes()));
        Ok(self.connected()?.path(&format!("out/{name}")).into())
    }

    fn collect(&self, file: &Path, limit_bytes: u64) -> Result<(), TransportError> {
        let path = self.result_path(file)?;
        self.pull(&path.to_string_lossy(), file, limit_bytes)
    }

    fn recover(&self) -> Result<(), TransportError> {
        let mut state = self.state();
        let folder = state.path("");
        if let Some(keeper) = &mut state.keeper {
            let there = || run(&*self.shell, "[ -d \"$1\" ]", &[&folder], None, SHORT);
            if keeper.is_alive() && there().is_ok_and(|said| said.status == 0) {
                return Ok(());
            }
        }
        if let Some(keeper) = state.keeper.take() {
            keeper.abandon();
        }
        let clock = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.connect(&mut state) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(keeper) = state.keeper.take() {
                keeper.abandon();
            }
            if !error.may_pass() {
                return Err(error);
            }
            if clock.elapsed() + pause > self.rules.reconnect {
                return Err(TransportError::Lost {
                    device: self.shell.device(),
                    waited: self.rules.reconnect,
                    said: error.to_string(),
                });
            }
            sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    fn target(&self) -> Result<String, TransportError> {
        let state = self.connected()?;
        let keeper = state.keeper.as_ref();
        let target = keeper.map(|keeper| {
            let architecture = machine::architecture(&keeper.machine);
            machine::target(&architecture, keeper.is_android)
        });
        Ok(target.unwrap_or_default())
    }

    fn machine_arch(&self) -> Option<String> {
        let state = self.state();
        let keeper = state.keeper.as_ref()?;
        Some(machine::architecture(&keeper.machine))
    }

    fn conditions(&self) -> Vec<String> {
        self.state().conditions.clone()
    }
}

/// The free bytes that `df -k` tells: the number before the percentage.
fn free_of_df(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.lines().last()?.split_whitespace().collect();
    let percent = words.iter().position(|word| word.ends_with('%'))?;
    let kibibytes: u64 = words.get(percent.checked_sub(1)?)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_as_any_df_tells_it() {
        let gnu = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 100 40 60 40% /a b\n";
        assert_eq!(free_of_df(gnu), Some(60 << 10));
        assert_eq!(free_of_df("df: x: No such file"), None);
        assert_eq!(free_of_df(""), None);
    }
}
