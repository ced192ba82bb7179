//! From a plan to a table.

mod schedule;
mod twice;

pub use twice::{SecondProfile, profile_twice};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lathe_agent::{BandwidthJob, MemoryJob, SessionConfig};
use lathe_arch::{ModelConfig, Phase, Precision, SubnetConfig};
use lathe_latency::{
    DeviceFingerprint, Interference, LatencyTable, ModelDescription, PhaseKind, Placement,
    RuntimeFingerprint,
};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::agent::Agent;
use crate::bench::Bench;
use crate::cooling::Cooling;
use crate::device::{Fingerprints, last_level_cache_bytes};
use crate::hog::Hog;
use crate::journal::Journal;
use crate::placement::most_common;
use crate::plan::{Probe, ProfilePlan, baseline, reference_block};
use crate::table::Assembly;
use crate::visit::{
    NetworkRecord, PassRecord, Record, RoofsRecord, VisitJob, VisitRecord, disturbance, networks,
    round_trips,
};
use crate::{AgentCommand, ProfilerError};

/// Readings of memory for its roof.
const READINGS: u32 = 30;
/// Bytes of the buffer that is read, over the last-level cache.
const BUFFER_CACHES: u64 = 8;
/// Longest buffer.
const BUFFER_LIMIT: u64 = 1 << 30;
/// Tokens at which the runtime's rate of operations is found.
const OPERATIONS_TOKENS: usize = 512;
/// Seconds lost to other work on the machine, over those of visits that count, beyond which its noise
/// is put up with, after a share of the whole time or a few seconds: a machine that is disturbed now and
/// then never gets there, not by bad luck with its first visits either; one that is always busy soon does.
const PATIENCE_SHARE: f64 = 2.0;
const PATIENCE_SHARE_OF_LIMIT: f64 = 0.05;
const LEAST_PATIENCE_S: f64 = 5.0;
/// Pause after a disturbed visit.
const PAUSE: Duration = Duration::from_millis(500);
/// Share of the visits beside which a busy loop runs, where one is asked for.
const HOG_SHARE: f64 = 0.3;

/// A profile to be made.
#[derive(Clone, Copy)]
pub struct ProfileRequest<'a> {
    /// How to start agents on the device.
    pub agent: &'a AgentCommand,
    /// Name of the model.
    pub model_name: &'a str,
    /// Its dimensions.
    pub model: &'a ModelConfig,
    /// What was noticed about the device, in words.
    pub conditions: &'a [String],
    /// What to measure.
    pub plan: &'a ProfilePlan,
    /// Where the table goes; the journal lies beside it.
    pub out: &'a Path,
    /// Whether to go on with an unfinished profile.
    pub resume: bool,
}

/// What a journal begins with.
#[derive(Serialize)]
struct Header<'a> {
    device: &'a DeviceFingerprint,
    runtime: &'a RuntimeFingerprint,
    model: &'a ModelDescription,
    plan: &'a ProfilePlan,
}

/// Measures all blocks of a plan and writes the table.
///
/// `on_progress` is told the share that is done, and what comes next.
///
/// # Errors
/// When the agent fails or a file cannot be written. Finished visits are kept in the journal.
pub fn profile(
    request: &ProfileRequest<'_>,
    on_progress: impl FnMut(f64, &str),
) -> Result<LatencyTable, ProfilerError> {
    let table = record(request, on_progress)?.table(request);
    table.save(request.out)?;
    Ok(table)
}

/// Measures all blocks of a plan.
///
/// # Errors
/// As for [`profile`].
pub(crate) fn record(
    request: &ProfileRequest<'_>,
    mut on_progress: impl FnMut(f64, &str),
) -> Result<Recorded, ProfilerError> {
    let mut run = Run::open(request)?;
    loop {
        let placement = most_common(round_trips(&run.records));
        let Some(work) = run.next(placement.as_ref())? else {
            break;
        };
        on_progress(run.share_done(placement.as_ref()), &work.to_string());
        run.perform(work)?;
    }
    on_progress(1.0, "done");
    Ok(run.into_recorded())
}

/// What a profile has measured, and what its table says besides.
pub(crate) struct Recorded {
    /// What was asked for, fitted to the device.
    pub plan: ProfilePlan,
    pub device: DeviceFingerprint,
    pub runtime: RuntimeFingerprint,
    /// The networks that records name by their index.
    pub networks: BTreeMap<Precision, Vec<SubnetConfig>>,
    pub records: Vec<Record>,
    /// What was noticed about the device, in words.
    pub conditions: Vec<String>,
}

impl Recorded {
    /// The table of the placement in which most was timed.
    pub fn table(&self, request: &ProfileRequest<'_>) -> LatencyTable {
        self.table_in(request, most_common(round_trips(&self.records)))
    }

    fn table_in(&self, request: &ProfileRequest<'_>, placement: Option<Placement>) -> LatencyTable {
        Assembly {
            request,
            recorded: self,
            placement,
        }
        .table()
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    Roofs,
    Visit(Probe),
    Network(Precision, usize),
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Roofs => write!(f, "the device's limits"),
            Work::Visit(probe) => write!(f, "{}", probe.block),
            Work::Network(precision, index) => write!(f, "network {index} in {precision}"),
        }
    }
}

/// A profile under way.
struct Run<'a> {
    request: &'a ProfileRequest<'a>,
    agent: Agent,
    /// What was asked for, fitted to the device.
    plan: ProfilePlan,
    device: DeviceFingerprint,
    runtime: RuntimeFingerprint,
    journal: Journal,
    records: Vec<Record>,
    /// Orders of the first rounds.
    orders: Vec<Vec<Probe>>,
    networks: BTreeMap<Precision, Vec<SubnetConfig>>,
    /// Written when something is left to measure.
    bench: Option<Bench>,
    /// Whether a busy loop runs beside some of the visits.
    is_disturbed: bool,
    interference: Interference,
    cooling: Cooling,
}

impl<'a> Run<'a> {
    fn open(request: &'a ProfileRequest<'a>) -> Result<Self, ProfilerError> {
        let mut agent = Agent::start(request.agent)?;
        let inspection = agent.inspect()?;
        let Fingerprints { device, runtime } = agent.fingerprints(&inspection);
        let plan = ProfilePlan {
            last_level_cache_bytes: last_level_cache_bytes(&inspection),
            ..request.plan.clone()
        };
        let model = ModelDescription {
            name: request.model_name.to_owned(),
            dimensions: request.model.clone(),
        };
        let header = Header {
            device: &device,
            runtime: &runtime,
            model: &model,
            plan: &plan,
        };
        let folder = request.out.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| ProfilerError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let path = request.out.with_extension("samples.jsonl");
        let (journal, records) = Journal::open(&path, &header, request.resume)?;
        let orders = (0..plan.rounds).map(|round| {
            let mut order = plan.probes();
            let seed = plan.seed.wrapping_add(round as u64);
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            order
        });
        Ok(Self {
            agent,
            device,
            runtime,
            journal,
            records,
            orders: orders.collect(),
            networks: plan
                .precisions()
                .into_iter()
                .map(|precision| (precision, plan.draw_networks(precision, request.model)))
                .collect(),
            bench: None,
            is_disturbed: false,
            interference: Interference::default(),
            cooling: Cooling::new(request.agent.device().cool_down),
            plan,
            request,
        })
    }

    fn perform(&mut self, work: Work) -> Result<(), ProfilerError> {
        self.cooling.wait(&mut self.agent)?;
        let hog = self.is_beside_hog().then(Hog::start);
        let record = match work {
            Work::Roofs => Record::Roofs(self.measure_roofs()?),
            Work::Visit(probe) => Record::Visit(self.visit(probe)?),
            Work::Network(precision, index) => {
                Record::Network(self.visit_network(precision, index)?)
            }
        };
        if hog.is_some() {
            self.interference.visits += 1;
            self.interference.noticed += usize::from(record.disturbed().is_some());
        }
        drop(hog);
        self.journal.append(&record)?;
        if record.disturbed().is_some() {
            sleep(PAUSE);
        }
        self.records.push(record);
        Ok(())
    }

    /// Whether a busy loop runs beside the next visit: three in ten, in an order of their own.
    fn is_beside_hog(&self) -> bool {
        let seed = self.plan.seed ^ self.records.len() as u64;
        self.is_disturbed && ChaCha8Rng::seed_from_u64(seed).random_bool(HOG_SHARE)
    }

    /// With no patience left, disturbed visits have to do.
    fn judged(&self, passes: &[PassRecord]) -> Option<String> {
        let begin_s = LEAST_PATIENCE_S.max(PATIENCE_SHARE_OF_LIMIT * self.plan.limit_s);
        let patience_s = begin_s + PATIENCE_SHARE * self.useful_s();
        disturbance(passes, self.session()).filter(|_| self.lost_s() < patience_s)
    }

    fn work_folder(&self) -> PathBuf {
        self.request.out.with_extension("work")
    }

    /// All graphs that the rest of the profile may need.
    fn write_graphs(&self) -> Result<Bench, ProfilerError> {
        let plan = &self.plan;
        let mut bench = Bench::new(&self.work_folder(), self.request.model, plan.seed)?;
        for probe in plan.probes() {
            bench.probe(&probe, plan)?;
            bench.references(&probe, plan)?;
        }
        for precision in plan.precisions() {
            let baseline = baseline(precision, self.request.model);
            bench.network(&baseline_name(precision), &baseline)?;
            let drawn = self.networks.get(&precision).into_iter().flatten();
            for (index, subnet) in drawn.enumerate() {
                bench.network(&network_name(precision, index), subnet)?;
            }
        }
        bench.write_weights()?;
        Ok(bench)
    }

    fn bench(&mut self) -> Result<&mut Bench, ProfilerError> {
        if self.bench.is_none() {
            self.bench = Some(self.write_graphs()?);
        }
        Ok(self.bench.as_mut().expect("it was made above"))
    }

    fn session(&self) -> SessionConfig {
        SessionConfig {
            threads: self.runtime.threads,
        }
    }

    fn measure_roofs(&mut self) -> Result<RoofsRecord, ProfilerError> {
        let (plan, model) = (self.plan.clone(), self.request.model);
        let threads = self.runtime.threads;
        let buffer = BUFFER_CACHES * plan.last_level_cache_bytes;
        let buffer_bytes = buffer.clamp(1 << 26, BUFFER_LIMIT);
        let reading_ns = self.agent.bandwidth(BandwidthJob {
            threads,
            bytes: buffer_bytes,
            runs: READINGS,
        })?;
        let mut operations = Vec::new();
        for precision in plan.precisions() {
            let block = reference_block(precision, model);
            let copies = plan.reference_copies(precision, PhaseKind::Prefill, model);
            let phase = Phase::Prefill {
                batch: 1,
                seq_len: OPERATIONS_TOKENS.min(model.max_position_embeddings),
            };
            let graph = self.bench()?.chain(block, copies, plan.positions())?;
            let job = VisitJob {
                references: vec![graph.clone()],
                keeps_references: false,
                graphs: vec![graph],
                phases: vec![phase],
                pass_us: plan.pass_us.max(300_000),
                session: self.session(),
                vocab_size: model.vocab_size,
                seed: plan.seed,
            };
            let passes = job.run(&mut self.agent)?;
            let turns = passes.into_iter().flat_map(|pass| pass.durations_ns);
            let runs = turns.filter_map(|turn| turn.last().copied()).collect();
            operations.push((precision, copies as u64 * block.flops(model, &phase), runs));
        }
        Ok(RoofsRecord {
            buffer_bytes,
            reading_ns,
            operations,
        })
    }

    fn visit(&mut self, probe: Probe) -> Result<VisitRecord, ProfilerError> {
        let clock = Instant::now();
        let (plan, model) = (self.plan.clone(), self.request.model);
        let session = self.session();
        let bench = self.bench()?;
        let job = VisitJob {
            references: bench.references(&probe, &plan)?,
            keeps_references: true,
            graphs: bench.probe(&probe, &plan)?,
            phases: plan.phases(&probe),
            pass_us: plan.pass_us,
            session,
            vocab_size: model.vocab_size,
            seed: plan.seed,
        };
        let passes = job.run(&mut self.agent)?;
        Ok(VisitRecord {
            probe,
            disturbed: self.judged(&passes),
            passes,
            seconds: clock.elapsed().as_secs_f64(),
        })
    }

    fn visit_network(
        &mut self,
        precision: Precision,
        index: usize,
    ) -> Result<NetworkRecord, ProfilerError> {
        let clock = Instant::now();
        let (plan, model) = (self.plan.clone(), self.request.model);
        let session = self.session();
        let workload = plan.workload;
        let is_first = !networks(&self.records)
            .any(|network| (network.precision, network.index) == (precision, index));
        let bench = self.bench()?;
        let graph = bench.graph(&network_name(precision, index));
        let job = VisitJob {
            references: vec![bench.graph(&baseline_name(precision))],
            keeps_references: false,
            graphs: vec![graph.clone()],
            phases: network_phases(&workload).into(),
            pass_us: plan.network_pass_us,
            session,
            vocab_size: model.vocab_size,
            seed: plan.seed,
        };
        let passes = job.run(&mut self.agent)?;
        let peak = if is_first {
            let command = self.request.agent;
            peak_memory(command, graph, session, &workload, model.vocab_size)?
        } else {
            None
        };
        Ok(NetworkRecord {
            precision,
            index,
            disturbed: self.judged(&passes),
            passes,
            seconds: clock.elapsed().as_secs_f64(),
            peak_memory_bytes: peak,
        })
    }

    fn into_recorded(self) -> Recorded {
        Recorded {
            conditions: [self.request.conditions, &self.cooling.conditions()].concat(),
            plan: self.plan,
            device: self.device,
            runtime: self.runtime,
            networks: self.networks,
            records: self.records,
        }
    }
}

fn baseline_name(precision: Precision) -> String {
    format!("baseline-{precision}")
}

fn network_name(precision: Precision, index: usize) -> String {
    format!("network-{precision}-{index}")
}

/// The two phases at which a whole network is measured.
pub fn network_phases(workload: &lathe_arch::Workload) -> [Phase; 2] {
    let batch = workload.batch;
    [
        Phase::Prefill {
            batch,
            seq_len: workload.prompt_tokens,
        },
        Phase::Decode {
            batch,
            past_len: workload.mean_past_len() as usize,
        },
    ]
}

/// Largest resident memory of a network at a workload, in a process of its own; `None` where the
/// system does not tell.
pub(crate) fn peak_memory(
    command: &AgentCommand,
    model: PathBuf,
    session: SessionConfig,
    workload: &lathe_arch::Workload,
    vocab_size: usize,
) -> Result<Option<u64>, ProfilerError> {
    let [prefill, _] = network_phases(workload);
    let context = workload.prompt_tokens + workload.generated_tokens;
    let job = MemoryJob {
        model,
        session,
        passes: vec![
            (workload.batch, prefill.new_tokens(), 0),
            (workload.batch, 1, context.saturating_sub(1)),
        ],
        vocab_size,
    };
    match Agent::start(command)?.memory(job) {
        Ok(used) => Ok(Some(used.peak_bytes)),
        Err(ProfilerError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
