//! The agent's protocol: JSON lines, requests on its standard input, answers on its standard
//! output.
//!
//! The agent is the small program that runs on the device to be measured, and the only part of
//! Lathe that touches ONNX Runtime. It says [`Answer::Hello`] first; then each [`Request`] is
//! answered by any number of [`Answer::Samples`] and one last answer. A request that cannot be
//! served is answered by [`Answer::Failed`] and the agent goes on; it ends when its input ends.
//!
//! ```
//! use lathe_agent::{Job, MeasureJob, Pass, Request, SessionConfig};
//!
//! let request = Request {
//!     id: 1,
//!     job: Job::Measure(MeasureJob {
//!         models: vec!["reference.onnx".into(), "chain.onnx".into()],
//!         keep: vec![0],
//!         session: SessionConfig { threads: 2 },
//!         passes: vec![Pass { models: vec![0, 1], batch: 1, new_tokens: 1, past_tokens: 128, min_turns: 5, max_turns: 50, budget_us: 500_000 }],
//!         vocab_size: 49152,
//!         seed: 1,
//!     }),
//! };
//! let line = serde_json::to_string(&request)?;
//! assert_eq!(serde_json::from_str::<Request>(&line)?, request);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod inspection;

pub use inspection::{
    Battery, Core, EnergyCounter, EnergyKind, IdleWindow, Inspection, InspectionError,
    MAX_CHARACTERS, MAX_ITEMS, ThermalZone,
};

/// Version of the protocol; both sides must agree.
pub const PROTOCOL_VERSION: u32 = 4;

/// Most turns of one pass in one job.
pub const MAX_TURNS: u32 = 10_000;

/// Most models side by side in one job, and most that stay loaded.
pub const MAX_MODELS: usize = 32;

/// Longest line of either side, in bytes.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// A job for the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the caller; answers carry it.
    pub id: u64,
    /// What to do.
    pub job: Job,
}

/// What the agent can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Time models side by side.
    Measure(MeasureJob),
    /// Find the memory that a model takes.
    Memory(MemoryJob),
    /// Write a model as the runtime optimises it.
    Optimize(OptimizeJob),
    /// Find how fast memory can be read.
    Bandwidth(BandwidthJob),
    /// Generate text greedily, step by step.
    Generate(GenerateJob),
    /// Tell the state of the device.
    Inspect,
    /// Tell how far apart the processors of a session's threads are.
    RoundTrip(SessionConfig),
}

/// How a session is set up. Threads spin during a run and rest between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// Threads inside an operator.
    pub threads: usize,
}

/// Times models side by side at several passes. Inputs are filled by name and shape with seeded
/// numbers; past and present keys and values share their memory, as in onnxruntime-genai.
///
/// A pass takes turns: in every turn each model runs once, so that a drift of the machine's speed
/// meets all models alike. The order is the same in every turn, so that the same bytes pass through
/// the caches between two runs of one model each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureJob {
    /// The ONNX files on the device, all loaded at once.
    pub models: Vec<PathBuf>,
    /// Indices of models that stay loaded for later jobs.
    #[serde(default)]
    pub keep: Vec<usize>,
    /// Session set-up.
    pub session: SessionConfig,
    /// What to time, in this order.
    pub passes: Vec<Pass>,
    /// Token ids are drawn below this.
    pub vocab_size: usize,
    /// Seed of the inputs.
    pub seed: u64,
}

/// One forward pass and how often to time it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// Sequences side by side.
    pub batch: usize,
    /// New tokens of each sequence.
    pub new_tokens: usize,
    /// Tokens in the KV cache.
    pub past_tokens: usize,
    /// Indices of the models that take turns.
    pub models: Vec<usize>,
    /// Turns that are taken whatever they cost.
    pub min_turns: u32,
    /// Turns after which the pass ends.
    pub max_turns: u32,
    /// After this many microseconds of turns the pass ends too.
    pub budget_us: u64,
}

/// Loads a model, runs its passes once each, and says how much memory that took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryJob {
    /// The ONNX file on the device.
    pub model: PathBuf,
    /// Session set-up.
    pub session: SessionConfig,
    /// What to run: `(batch, new tokens, past tokens)`.
    pub passes: Vec<(usize, usize, usize)>,
    /// Token ids are drawn below this.
    pub vocab_size: usize,
}

/// Loads a model and writes the graph that the runtime made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizeJob {
    /// The ONNX file on the device.
    pub model: PathBuf,
    /// Session set-up.
    pub session: SessionConfig,
    /// Where the optimised graph goes.
    pub out: PathBuf,
}

/// Sums a buffer with several threads, each its own part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandwidthJob {
    /// Threads.
    pub threads: usize,
    /// Bytes of the buffer; well above the last-level cache.
    pub bytes: u64,
    /// Times that it is read.
    pub runs: u32,
}

/// Greedy generation of one sequence with a KV cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateJob {
    /// The ONNX file on the device.
    pub model: PathBuf,
    /// Session set-up.
    pub session: SessionConfig,
    /// Token ids of the prompt.
    pub prompt: Vec<i64>,
    /// Tokens to generate.
    pub max_new_tokens: usize,
    /// Where to write all logits of all steps as little-endian f32, row after row.
    pub logits: Option<PathBuf>,
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The first line.
    Hello(Hello),
    /// Timings of one pass.
    Samples(Samples),
    /// A [`MeasureJob`] is done.
    Measured(Measured),
    /// A [`MemoryJob`] is done.
    Memory(MemoryUse),
    /// An [`OptimizeJob`] is done.
    Optimized(Done),
    /// A [`BandwidthJob`] is done.
    Bandwidth(Bandwidth),
    /// A [`GenerateJob`] is done.
    Generated(Generated),
    /// The state of the device.
    Inspected(Inspected),
    /// How far apart the processors are.
    RoundTrip(RoundTrip),
    /// A request could not be served.
    Failed(Failed),
}

/// Who is speaking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// What ONNX Runtime says of its build.
    pub runtime_build: String,
    /// Operating system.
    pub os: String,
    /// Processor architecture that the agent was built for.
    pub arch: String,
    /// Processors that the system offers a program.
    pub processors: usize,
    /// Whether the system's processors are of another architecture than the agent.
    pub is_emulated: bool,
}

/// Timings of one pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// The request.
    pub id: u64,
    /// Index of the pass in the request.
    pub pass: usize,
    /// Wall time of each run in nanoseconds, `[turn][position in
    /// the pass's models]`. The first run of each model in a
    /// pass is not among them.
    pub durations_ns: Vec<Vec<u64>>,
    /// Round trip of a cache line between the processors before each turn and after the last, in
    /// nanoseconds: how far apart they are. Empty where that cannot be measured.
    pub round_trips_ns: Vec<u64>,
    /// What else happened on the machine meanwhile.
    pub environment: Environment,
}

/// The end of a [`MeasureJob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The request.
    pub id: u64,
    /// Time to load each model, in nanoseconds.
    pub load_ns: Vec<u64>,
}

/// The end of a [`MemoryJob`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// The request.
    pub id: u64,
    /// Resident memory of the agent before, in bytes.
    pub before_bytes: u64,
    /// Largest resident memory meanwhile, in bytes.
    pub peak_bytes: u64,
}

/// The end of a job that has nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The request.
    pub id: u64,
}

/// The end of a [`BandwidthJob`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// The request.
    pub id: u64,
    /// Wall time of each reading of the buffer, in nanoseconds.
    pub durations_ns: Vec<u64>,
}

/// The end of a [`GenerateJob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The request.
    pub id: u64,
    /// The new tokens.
    pub tokens: Vec<i64>,
    /// Wall time of the prefill, in nanoseconds: time to first token.
    pub prefill_ns: u64,
    /// Wall time of each decode step, in nanoseconds.
    pub steps_ns: Vec<u64>,
    /// Rows of logits written, when asked for.
    pub logits_rows: usize,
}

/// The answer to [`Job::Inspect`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspected {
    /// The request.
    pub id: u64,
    /// The state of the device.
    pub inspection: Box<Inspection>,
}

/// The answer to [`Job::RoundTrip`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// The request.
    pub id: u64,
    /// Mean round trip of a cache line from the first processor to the others in nanoseconds;
    /// absent with one processor, or where it cannot be measured.
    pub round_trip_ns: Option<u64>,
}

/// A request that could not be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The request, when it could be read.
    pub id: Option<u64>,
    /// What went wrong.
    pub message: String,
}

/// Changes of the machine's counters during a job. `None` where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Time that passed, in microseconds.
    pub wall_us: u64,
    /// Time that threads of this process were ready to run and waited for a processor, in
    /// microseconds: their sum (`/proc/self/task/*/schedstat`) over the number of a session's threads.
    #[serde(default)]
    pub run_delay_us: Option<u64>,
    /// Time the hypervisor took away, in clock ticks (`/proc/stat`).
    pub steal_ticks: Option<u64>,
    /// Times this process was put off its processor.
    pub involuntary_switches: Option<u64>,
    /// Energy of all processor packages, in microjoules.
    #[serde(default)]
    pub energy_uj: Option<u64>,
}
