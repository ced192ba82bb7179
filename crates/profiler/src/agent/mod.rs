//! Agents: what they are asked, what they may answer, and what happens when they do not.

mod command;
mod lines;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use lathe_agent::{
    Answer, BandwidthJob, GenerateJob, Generated, Hello, Inspection, Job, MeasureJob, Measured,
    MemoryJob, MemoryUse, OptimizeJob, PROTOCOL_VERSION, Pass, Request, Samples, SessionConfig,
};

pub use command::{AgentCommand, Link, find_agent};

use crate::ProfilerError;
use crate::device::{Fingerprints, threads};
use crate::transport::{Process, TransportError, printable, tail};
use lines::read_lines;

/// How long the agent may take to load the runtime.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Times that a job is begun anew because its agent or the way there failed.
const REPEATS: usize = 3;
/// Lines that a device may say before the agent does.
const MAX_GREETING: usize = 256;
/// Shown of an answer that cannot be used.
const SHOWN_BYTES: usize = 80;
/// Longest result that is fetched: an optimised graph with its weights inside, or rows of logits.
const MAX_RESULT_BYTES: u64 = 2 << 30;
/// Clocks of two machines run apart by no more than this, and a little more in a short time.
const CLOCK_RATIO: f64 = 1.05;
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// An agent that is asked to do jobs, one after another. When it or the way to the device fails in
/// the middle of one, the job is begun anew with another agent: after three such failures, or when
/// the device does not come back, the error is told. It is ended when this is dropped.
pub struct Agent {
    command: AgentCommand,
    running: Option<Running>,
    hello: Hello,
    next_id: u64,
}

/// An agent's process.
struct Running {
    process: Process,
    lines: Receiver<Vec<u8>>,
    stderr: Option<thread::JoinHandle<String>>,
    /// Whether it has said its first line.
    has_greeted: bool,
}

impl Agent {
    /// Starts an agent and waits for its first line.
    ///
    /// # Errors
    /// When the device cannot be reached, the agent cannot be started, cannot load the runtime, or
    /// speaks another protocol.
    pub fn start(command: &AgentCommand) -> Result<Self, ProfilerError> {
        let mut agent = Self {
            command: command.clone(),
            running: None,
            hello: Hello {
                protocol: PROTOCOL_VERSION,
                agent_version: String::new(),
                runtime_build: String::new(),
                os: String::new(),
                arch: String::new(),
                processors: 1,
                is_emulated: false,
            },
            next_id: 0,
        };
        agent.persist(|_| Ok(()))?;
        Ok(agent)
    }

    /// What the agent said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Threads inside an operator, as the device's description has it or as it has processors.
    pub fn threads(&self) -> usize {
        threads(self.command.device(), &self.hello)
    }

    /// What makes measurements on the device comparable; `inspection` is what it says of itself.
    pub fn fingerprints(&self, inspection: &Inspection) -> Fingerprints {
        let machine = self.command.transport().machine_arch();
        let device = self.command.device();
        Fingerprints::new(device, &self.hello, inspection, machine.as_deref())
    }

    /// Times a model. Returns the samples of every pass, in the order of the passes.
    ///
    /// # Errors
    /// When the agent fails, ends, answers nonsense or takes too long.
    pub fn measure(&mut self, job: MeasureJob) -> Result<(Vec<Samples>, Measured), ProfilerError> {
        let passes = job.passes.clone();
        self.perform(&Job::Measure(job), |agent, id| agent.samples(id, &passes))
    }

    /// Finds the memory that a model takes.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn memory(&mut self, job: MemoryJob) -> Result<MemoryUse, ProfilerError> {
        self.perform(&Job::Memory(job), |agent, id| match agent.next()? {
            Answer::Memory(used) if used.id == id => Ok(used),
            other => Err(refused_or_unexpected(other)),
        })
    }

    /// Has the runtime's optimised form of a model written.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn optimize(&mut self, job: OptimizeJob) -> Result<(), ProfilerError> {
        let out = job.out.clone();
        self.perform(&Job::Optimize(job), |agent, id| match agent.next()? {
            Answer::Optimized(done) if done.id == id => agent.collect(&out),
            other => Err(refused_or_unexpected(other)),
        })
    }

    /// Times readings of a buffer, in nanoseconds.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn bandwidth(&mut self, job: BandwidthJob) -> Result<Vec<u64>, ProfilerError> {
        self.perform(&Job::Bandwidth(job), |agent, id| match agent.next()? {
            Answer::Bandwidth(read)
                if read.id == id && read.durations_ns.len() == job.runs as usize =>
            {
                Ok(read.durations_ns)
            }
            other => Err(refused_or_unexpected(other)),
        })
    }

    /// Generates greedily.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn generate(&mut self, job: GenerateJob) -> Result<Generated, ProfilerError> {
        let (wanted, logits) = (job.max_new_tokens, job.logits.clone());
        self.perform(&Job::Generate(job), |agent, id| match agent.next()? {
            Answer::Generated(done) if done.id == id && done.tokens.len() == wanted => {
                if let Some(logits) = &logits {
                    agent.collect(logits)?;
                }
                Ok(done)
            }
            other => Err(refused_or_unexpected(other)),
        })
    }

    /// The state of the device.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn inspect(&mut self) -> Result<Inspection, ProfilerError> {
        self.perform(&Job::Inspect, |agent, id| match agent.next()? {
            Answer::Inspected(done) if done.id == id => {
                let checked = done.inspection.check();
                checked.map_err(|error| ProfilerError::Answer {
                    reason: error.to_string(),
                })?;
                Ok(*done.inspection)
            }
            other => Err(refused_or_unexpected(other)),
        })
    }

    /// How far apart the processors of a session's threads are now, in nanoseconds; `None` with one
    /// processor, or where it cannot be measured.
    ///
    /// # Errors
    /// As for [`Agent::measure`].
    pub fn round_trip_ns(&mut self, session: SessionConfig) -> Result<Option<u64>, ProfilerError> {
        self.perform(&Job::RoundTrip(session), |agent, id| {
            match agent.next()? {
                Answer::RoundTrip(done) if done.id == id => Ok(done.round_trip_ns),
                other => Err(refused_or_unexpected(other)),
            }
        })
    }

    /// Does a job, again where it or the way to the device failed.
    fn perform<T>(
        &mut self,
        job: &Job,
        mut listen: impl FnMut(&mut Self, u64) -> Result<T, ProfilerError>,
    ) -> Result<T, ProfilerError> {
        self.persist(|agent| {
            let id = agent.send(job)?;
            listen(agent, id)
        })
    }

    /// Does something with a running agent, started anew after each failure that may pass.
    fn persist<T>(
        &mut self,
        mut act: impl FnMut(&mut Self) -> Result<T, ProfilerError>,
    ) -> Result<T, ProfilerError> {
        // The first failure is the cause of those that follow.
        let mut first = None;
        for _ in 0..=REPEATS {
            let error = match self.run().and_then(|()| act(self)) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            self.running = None;
            if !error.may_pass() {
                return Err(error);
            }
            first.get_or_insert(error);
            self.command.transport().recover()?;
        }
        Err(first.expect("the loop ends after failures only"))
    }

    /// Starts the agent if none runs.
    fn run(&mut self) -> Result<(), ProfilerError> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut process = self.command.start()?;
        let (Some(output), Some(errors)) =
            (process.child.stdout.take(), process.child.stderr.take())
        else {
            unreachable!("both are pipes");
        };
        self.running = Some(Running {
            process,
            lines: read_lines(output),
            stderr: Some(thread::spawn(|| tail(errors))),
            has_greeted: false,
        });
        let hello = match self.greeting()? {
            Answer::Hello(hello) => hello,
            other => return Err(refused_or_unexpected(other)),
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(ProfilerError::Protocol {
                found: hello.protocol,
                expected: PROTOCOL_VERSION,
            });
        }
        self.hello = checked(hello)?;
        if let Some(running) = &mut self.running {
            running.has_greeted = true;
        }
        Ok(())
    }

    /// The first line that is an answer: a device's shell may say something before.
    fn greeting(&mut self) -> Result<Answer, ProfilerError> {
        let limit = self.command.device().job_timeout().min(START_LIMIT);
        let mut first = String::new();
        for _ in 0..MAX_GREETING {
            let line = self.line(limit)?;
            if let Ok(answer) = serde_json::from_slice(&line) {
                return Ok(answer);
            }
            if let Some(error) = other_protocol(&line) {
                return Err(error);
            }
            if first.is_empty() {
                first = shown(&line);
            }
        }
        Err(ProfilerError::Answer {
            reason: format!("{MAX_GREETING} lines without a greeting, the first {first:?}"),
        })
    }

    fn samples(
        &mut self,
        id: u64,
        passes: &[Pass],
    ) -> Result<(Vec<Samples>, Measured), ProfilerError> {
        let mut clock = Instant::now();
        let mut all = Vec::new();
        loop {
            match self.next()? {
                Answer::Samples(samples) => {
                    let pass = passes
                        .get(samples.pass)
                        .filter(|_| samples.pass == all.len());
                    let is_sound =
                        samples.id == id && pass.is_some_and(|pass| fits(pass, &samples));
                    if !is_sound {
                        let said = shown(format!("{samples:?}").as_bytes());
                        let reason = format!("samples that were not asked for: {said}");
                        return Err(ProfilerError::Answer { reason });
                    }
                    check_clock(&samples, clock.elapsed())?;
                    clock = Instant::now();
                    all.push(samples);
                }
                Answer::Measured(done) if done.id == id && all.len() == passes.len() => {
                    return Ok((all, done));
                }
                other => return Err(refused_or_unexpected(other)),
            }
        }
    }

    fn send(&mut self, job: &Job) -> Result<u64, ProfilerError> {
        use std::io::Write;

        let job = self.on_device(job)?;
        self.next_id += 1;
        let request = Request {
            id: self.next_id,
            job,
        };
        let line = serde_json::to_string(&request).map_err(|error| ProfilerError::Answer {
            reason: error.to_string(),
        })?;
        let input = self
            .running
            .as_mut()
            .map(|running| &mut running.process.child.stdin);
        let written = match input {
            Some(Some(input)) => writeln!(input, "{line}").and_then(|()| input.flush()),
            Some(None) | None => Ok(()),
        };
        match written {
            Ok(()) => Ok(self.next_id),
            Err(_) => Err(self.gone()),
        }
    }

    /// A job with the device's paths, its files sent there.
    fn on_device(&self, job: &Job) -> Result<Job, TransportError> {
        let transport = self.command.transport();
        let place = |file: &PathBuf| transport.place(file);
        Ok(match job.clone() {
            Job::Measure(job) => Job::Measure(MeasureJob {
                models: job.models.iter().map(place).collect::<Result<_, _>>()?,
                ..job
            }),
            Job::Memory(job) => Job::Memory(MemoryJob {
                model: place(&job.model)?,
                ..job
            }),
            Job::Optimize(job) => Job::Optimize(OptimizeJob {
                model: place(&job.model)?,
                out: transport.result_path(&job.out)?,
                ..job
            }),
            Job::Generate(job) => Job::Generate(GenerateJob {
                model: place(&job.model)?,
                logits: match &job.logits {
                    Some(logits) => Some(transport.result_path(logits)?),
                    None => None,
                },
                ..job
            }),
            same @ (Job::Bandwidth(_) | Job::Inspect | Job::RoundTrip(_)) => same,
        })
    }

    fn collect(&self, file: &Path) -> Result<(), ProfilerError> {
        Ok(self.command.transport().collect(file, MAX_RESULT_BYTES)?)
    }

    fn next(&mut self) -> Result<Answer, ProfilerError> {
        let limit = self.command.device().job_timeout();
        parse(&self.line(limit)?)
    }

    fn line(&mut self, limit: Duration) -> Result<Vec<u8>, ProfilerError> {
        let lines = self
            .running
            .as_ref()
            .map(|running| running.lines.recv_timeout(limit));
        match lines {
            Some(Ok(line)) => Ok(line),
            Some(Err(RecvTimeoutError::Timeout)) => Err(ProfilerError::Timeout { limit }),
            Some(Err(RecvTimeoutError::Disconnected)) | None => Err(self.gone()),
        }
    }

    /// What is to be said of an agent that said no more.
    fn gone(&mut self) -> ProfilerError {
        let Some(mut running) = self.running.take() else {
            return ProfilerError::AgentGone {
                said: String::new(),
            };
        };
        let ended = running.process.end();
        let status = ended.and_then(|status| status.code());
        let said = running.stderr.take().and_then(|thread| thread.join().ok());
        let said = said.filter(|said| !said.is_empty());
        let remedy = match status.filter(|_| !running.has_greeted) {
            Some(126) => Some(
                "its folder may be on a file system from which nothing is executed: name another `folder:` in the device's file",
            ),
            Some(127) => Some(
                "it lacks the loader or a library that the agent was linked with: `cargo xtask agent --target TARGET` builds the agent for it",
            ),
            _ => None,
        };
        match remedy {
            Some(remedy) => ProfilerError::Transport(TransportError::NotExecuted {
                device: self.command.device().name.clone(),
                said: said.unwrap_or_default(),
                remedy,
            }),
            None => ProfilerError::AgentGone {
                said: match (said, running.has_greeted) {
                    (Some(said), _) => format!("; its last words: {said}"),
                    (None, true) => String::new(),
                    (None, false) => format!(
                        " before its first word{}: the library {} may be damaged, or for another system",
                        ended.map_or_else(String::new, |status| format!(" ({status})")),
                        self.command.ort_lib.display()
                    ),
                },
            },
        }
    }
}

fn parse(line: &[u8]) -> Result<Answer, ProfilerError> {
    serde_json::from_slice(line).map_err(|error| ProfilerError::Answer {
        reason: format!("{error} in {:?}", shown(line)),
    })
}

/// The beginning of a line, in one line.
fn shown(line: &[u8]) -> String {
    printable(&String::from_utf8_lossy(
        &line[..line.len().min(SHOWN_BYTES)],
    ))
}

/// What is wrong when a line is the greeting of another version of the protocol, whatever else is in it.
fn other_protocol(line: &[u8]) -> Option<ProfilerError> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let found = value.get("hello")?.get("protocol")?.as_u64()?;
    Some(ProfilerError::Protocol {
        found: u32::try_from(found).ok()?,
        expected: PROTOCOL_VERSION,
    })
}

/// Texts of a greeting are printed and kept in tables.
fn checked(hello: Hello) -> Result<Hello, ProfilerError> {
    /// What ONNX Runtime says of its build has some 200 characters.
    const MAX_CHARACTERS: usize = 4096;
    /// No machine has as many processors.
    const MAX_PROCESSORS: usize = 1 << 16;

    let texts = [
        &hello.agent_version,
        &hello.runtime_build,
        &hello.os,
        &hello.arch,
    ];
    let is_sound = texts
        .into_iter()
        .all(|text| text.len() <= MAX_CHARACTERS && !text.chars().any(char::is_control));
    match is_sound && (1..=MAX_PROCESSORS).contains(&hello.processors) {
        true => Ok(hello),
        false => Err(ProfilerError::Answer {
            reason: "a greeting with impossible texts or numbers".to_owned(),
        }),
    }
}

/// Whether a device's clock ran as this machine's did: turns take no longer than it took to hear of
/// them.
fn check_clock(samples: &Samples, elapsed: Duration) -> Result<(), ProfilerError> {
    let turns = samples.durations_ns.iter().flatten();
    let told_ns = turns.fold(0u64, |sum, duration_ns| sum.saturating_add(*duration_ns));
    let possible = elapsed.mul_f64(CLOCK_RATIO) + CLOCK_SLACK;
    match u128::from(told_ns) <= possible.as_nanos() {
        true => Ok(()),
        false => Err(ProfilerError::Answer {
            reason: format!(
                "{:.3} s of turns within {:.3} s: the device's clock jumped",
                told_ns as f64 / 1e9,
                elapsed.as_secs_f64()
            ),
        }),
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
            message: printable(&failed.message),
        },
        other => unexpected(&other),
    }
}

fn unexpected(answer: &Answer) -> ProfilerError {
    ProfilerError::Answer {
        reason: format!("out of turn: {}", shown(format!("{answer:?}").as_bytes())),
    }
}
