//! An agent as a subprocess of this machine.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use lathe_agent::{
    Answer, BandwidthJob, GenerateJob, Generated, Hello, Inspection, Job, MAX_LINE_BYTES,
    MeasureJob, Measured, MemoryJob, MemoryUse, OptimizeJob, PROTOCOL_VERSION, Pass, Request,
    Samples, SessionConfig,
};

use crate::{DeviceSpec, ProfilerError};

/// How long one job may take.
const JOB_LIMIT: Duration = Duration::from_secs(600);
/// How long the agent may take to load the runtime.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Kept of the agent's standard error.
const STDERR_TAIL: usize = 4096;

/// How to start an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCommand {
    /// The agent's program.
    pub program: PathBuf,
    /// ONNX Runtime's shared library.
    pub ort_lib: PathBuf,
    /// Processors that it is bound to; any when empty.
    pub affinity: Vec<usize>,
}

/// The agent's program: named in `LATHE_AGENT`, or beside this program or its folder.
///
/// # Errors
/// When it is in none of these places.
pub fn find_agent() -> Result<PathBuf, ProfilerError> {
    if let Some(named) = env::var_os("LATHE_AGENT") {
        return Ok(PathBuf::from(named));
    }
    let near = env::current_exe().unwrap_or_default();
    let name = format!("lathe-agent{}", env::consts::EXE_SUFFIX);
    let mut folders = near.ancestors().skip(1).take(3);
    let found = folders.find_map(|folder| Some(folder.join(&name)).filter(|path| path.is_file()));
    found.ok_or(ProfilerError::NoAgent { near })
}

/// A running agent. It is ended when this is dropped.
pub struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stderr: Option<thread::JoinHandle<String>>,
    hello: Hello,
    next_id: u64,
}

impl Agent {
    /// Starts an agent and waits for its first line.
    ///
    /// # Errors
    /// When it cannot be started, cannot load the runtime, or speaks another protocol.
    pub fn start(command: &AgentCommand) -> Result<Self, ProfilerError> {
        let mut process = Command::new(&command.program);
        process
            .arg("--ort-lib")
            .arg(&command.ort_lib)
            .args(affinity_arguments(&command.affinity))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        {
            // Ctrl-C in the terminal is for this program, which then decides what to keep.
            std::os::unix::process::CommandExt::process_group(&mut process, 0);
        }
        let mut child = process.spawn().map_err(|source| ProfilerError::Start {
            program: command.program.clone(),
            source,
        })?;
        let lines = read_lines(child.stdout.take());
        let stderr = child
            .stderr
            .take()
            .map(|stderr| thread::spawn(|| tail(stderr)));
        let mut agent = Self {
            input: child.stdin.take(),
            child,
            lines,
            stderr,
            hello: Hello {
                protocol: 0,
                agent_version: String::new(),
                runtime_build: String::new(),
                os: String::new(),
                arch: String::new(),
            },
            next_id: 0,
        };
        agent.hello = match agent.next(START_LIMIT)? {
            Answer::Hello(hello) => hello,
            Answer::Failed(failed) => {
                let message = failed.message;
                return Err(ProfilerError::Refused { message });
            }
            other => return Err(unexpected(&other)),
        };
        if agent.hello.protocol != PROTOCOL_VERSION {
            return Err(ProfilerError::Protocol {
                found: agent.hello.protocol,
                expected: PROTOCOL_VERSION,
            });
        }
        Ok(agent)
    }

    /// What the agent said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Times a model. Returns the samples of every pass, in the order of the passes.
    ///
    /// # Errors
    /// When the agent fails, ends, answers nonsense or takes too long.
    pub fn measure(&mut self, job: MeasureJob) -> Result<(Vec<Samples>, Measured), ProfilerError> {
        let passes = job.passes.clone();
        let id = self.send(Job::Measure(job))?;
        let mut all = Vec::new();
        loop {
            match self.next(JOB_LIMIT)? {
                Answer::Samples(samples) => {
                    let pass = passes
                        .get(samples.pass)
                        .filter(|_| samples.pass == all.len());
                    let is_sound =
                        samples.id == id && pass.is_some_and(|pass| fits(pass, &samples));
                    if !is_sound {
                        let reason = format!("samples that were not asked for: {samples:?}");
                        return Err(ProfilerError::Answer { reason });
                    }
                    all.push(samples);
                }
                Answer::Measured(done) if done.id == id && all.len() == passes.len() => {
                    return Ok((all, done));
                }
                Answer::Failed(failed) => {
                    let message = failed.message;
                    return Err(ProfilerError::Refused { message });
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Finds the memory that a model takes.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn memory(&mut self, job: MemoryJob) -> Result<MemoryUse, ProfilerError> {
        let id = self.send(Job::Memory(job))?;
        match self.next(JOB_LIMIT)? {
            Answer::Memory(used) if used.id == id => Ok(used),
            other => Err(refused_or_unexpected(other)),
        }
    }

    /// Has the runtime's optimised form of a model written.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn optimize(&mut self, job: OptimizeJob) -> Result<(), ProfilerError> {
        let id = self.send(Job::Optimize(job))?;
        match self.next(JOB_LIMIT)? {
            Answer::Optimized(done) if done.id == id => Ok(()),
            other => Err(refused_or_unexpected(other)),
        }
    }

    /// Times readings of a buffer, in nanoseconds.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn bandwidth(&mut self, job: BandwidthJob) -> Result<Vec<u64>, ProfilerError> {
        let id = self.send(Job::Bandwidth(job))?;
        match self.next(JOB_LIMIT)? {
            Answer::Bandwidth(read)
                if read.id == id && read.durations_ns.len() == job.runs as usize =>
            {
                Ok(read.durations_ns)
            }
            other => Err(refused_or_unexpected(other)),
        }
    }

    /// Generates greedily.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn generate(&mut self, job: GenerateJob) -> Result<Generated, ProfilerError> {
        let wanted = job.max_new_tokens;
        let id = self.send(Job::Generate(job))?;
        match self.next(JOB_LIMIT)? {
            Answer::Generated(done) if done.id == id && done.tokens.len() == wanted => Ok(done),
            Answer::Failed(failed) => Err(ProfilerError::Refused {
                message: failed.message,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// The state of the device.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn inspect(&mut self) -> Result<Inspection, ProfilerError> {
        let id = self.send(Job::Inspect)?;
        match self.next(JOB_LIMIT)? {
            Answer::Inspected(done) if done.id == id => {
                let checked = done.inspection.check();
                checked.map_err(|error| ProfilerError::Answer {
                    reason: error.to_string(),
                })?;
                Ok(*done.inspection)
            }
            other => Err(refused_or_unexpected(other)),
        }
    }

    /// How far apart the processors of a session's threads are now, in nanoseconds; `None` with one
    /// processor, or where it cannot be measured.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn round_trip_ns(&mut self, session: SessionConfig) -> Result<Option<u64>, ProfilerError> {
        let id = self.send(Job::RoundTrip(session))?;
        match self.next(JOB_LIMIT)? {
            Answer::RoundTrip(done) if done.id == id => Ok(done.round_trip_ns),
            other => Err(refused_or_unexpected(other)),
        }
    }

    fn send(&mut self, job: Job) -> Result<u64, ProfilerError> {
        self.next_id += 1;
        let request = Request {
            id: self.next_id,
            job,
        };
        let line = serde_json::to_string(&request).map_err(|error| ProfilerError::Answer {
            reason: error.to_string(),
        })?;
        let written = match &mut self.input {
            Some(input) => writeln!(input, "{line}").and_then(|()| input.flush()),
            None => Ok(()),
        };
        match written {
            Ok(()) => Ok(self.next_id),
            Err(_) => Err(self.gone()),
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Answer, ProfilerError> {
        let line = match self.lines.recv_timeout(limit) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(ProfilerError::Timeout { limit }),
            Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
        };
        serde_json::from_slice(&line).map_err(|error| {
            let start = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
            ProfilerError::Answer {
                reason: format!("{error} in {start:?}"),
            }
        })
    }

    fn gone(&mut self) -> ProfilerError {
        self.end();
        let said = self.stderr.take().and_then(|thread| thread.join().ok());
        let said = said.filter(|said| !said.is_empty());
        ProfilerError::AgentGone {
            said: said.map_or_else(String::new, |said| format!("; its last words: {said}")),
        }
    }

    /// Closing its input ends an agent; one that hangs is killed.
    fn end(&mut self) {
        drop(self.input.take());
        // Both fail only when the child has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether samples have the turns that a pass asks for, and times above 0.
fn fits(pass: &Pass, samples: &Samples) -> bool {
    let turns = samples.durations_ns.len();
    (pass.min_turns as usize..=pass.max_turns as usize).contains(&turns)
        && samples.durations_ns.iter().all(|turn| {
            turn.len() == pass.models.len() && turn.iter().all(|duration_ns| *duration_ns > 0)
        })
        && [0, turns + 1].contains(&samples.round_trips_ns.len())
}

fn refused_or_unexpected(answer: Answer) -> ProfilerError {
    match answer {
        Answer::Failed(failed) => ProfilerError::Refused {
            message: failed.message,
        },
        other => unexpected(&other),
    }
}

fn affinity_arguments(affinity: &[usize]) -> Vec<String> {
    if affinity.is_empty() {
        return Vec::new();
    }
    let processors: Vec<String> = affinity.iter().map(usize::to_string).collect();
    vec!["--affinity".to_owned(), processors.join(",")]
}

fn unexpected(answer: &Answer) -> ProfilerError {
    ProfilerError::Answer {
        reason: format!("out of turn: {answer:?}"),
    }
}

fn read_lines(source: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, lines) = channel();
    let Some(source) = source else { return lines };
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        loop {
            let mut line = Vec::new();
            let mut limited = source.by_ref().take(MAX_LINE_BYTES as u64);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                // A line that is too long arrives in parts, and no part is valid JSON.
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    lines
}

/// The last of what is said, once all is said.
fn tail(mut source: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Starts an agent of this machine with the program found by [`find_agent`].
impl AgentCommand {
    /// The agent beside this program with the runtime at `ort_lib`, bound as `device` says.
    ///
    /// # Errors
    /// When the agent's program is not found.
    pub fn local(ort_lib: &Path, device: &DeviceSpec) -> Result<Self, ProfilerError> {
        Ok(Self {
            program: find_agent()?,
            ort_lib: ort_lib.to_owned(),
            affinity: device.affinity.clone(),
        })
    }
}
