//! From a plan to a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lathe_agent::{BandwidthJob, MemoryJob, SessionConfig};
use lathe_arch::{ModelConfig, Phase, Precision, SubnetConfig};
use lathe_latency::{
    DeviceFingerprint, LatencyTable, ModelDescription, PhaseKind, Repeatability, RuntimeFingerprint,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::agent::Agent;
use crate::bench::Bench;
use crate::journal::Journal;
use crate::plan::{Probe, ProfilePlan, baseline, reference_block};
use crate::price::shares_of_visits;
use crate::statistics::{median, median_ci95, quantile};
use crate::table::Assembly;
use crate::visit::{
    NetworkRecord, PassRecord, Record, RoofsRecord, VisitJob, VisitRecord, disturbance, networks,
    visits,
};
use crate::{AgentCommand, DeviceSpec, ProfilerError, device};

/// Readings of memory for its roof.
const READINGS: u32 = 30;
/// Bytes of the buffer that is read, over the last-level cache.
const BUFFER_CACHES: u64 = 8;
/// Longest buffer.
const BUFFER_LIMIT: u64 = 1 << 30;
/// Tokens at which the runtime's rate of operations is found.
const OPERATIONS_TOKENS: usize = 512;
/// Seconds lost to other work on the machine, after which its noise is put up with: this share of
/// the time for blocks, and a few seconds.
const PATIENCE_SHARE: f64 = 0.4;
const PATIENCE_S: f64 = 5.0;
/// Pause after a disturbed visit.
const PAUSE: Duration = Duration::from_secs(1);
/// Visits of one block at most.
const MOST_VISITS: usize = 40;

/// A profile to be made.
pub struct ProfileRequest<'a> {
    /// How to start the agent.
    pub agent: &'a AgentCommand,
    /// The device.
    pub device: &'a DeviceSpec,
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
    mut on_progress: impl FnMut(f64, &str),
) -> Result<LatencyTable, ProfilerError> {
    let mut run = Run::open(request)?;
    while let Some(work) = run.next() {
        on_progress(run.share_done(), &work.to_string());
        run.perform(work)?;
    }
    on_progress(1.0, "done");
    let table = run.assemble();
    table.save(request.out)?;
    Ok(table)
}

/// Makes two profiles of the same plan, visit by visit in turn, each with an agent, orders and a
/// journal of its own; writes the first as a table that says how far they differ (A/A).
///
/// # Errors
/// As for [`profile`].
pub fn profile_twice(
    request: &ProfileRequest<'_>,
    mut on_progress: impl FnMut(f64, &str),
) -> Result<LatencyTable, ProfilerError> {
    let again_plan = ProfilePlan {
        seed: request.plan.seed.wrapping_add(1_000_000),
        ..request.plan.clone()
    };
    let again_out = request.out.with_extension("again.yaml");
    let again = ProfileRequest {
        plan: &again_plan,
        out: &again_out,
        ..*request
    };
    let mut runs = [Run::open(request)?, Run::open(&again)?];
    loop {
        let mut is_done = true;
        for index in 0..2 {
            let share = (runs[0].share_done() + runs[1].share_done()) / 2.0;
            if let Some(work) = runs[index].next() {
                is_done = false;
                on_progress(share, &work.to_string());
                runs[index].perform(work)?;
            }
        }
        if is_done {
            break;
        }
    }
    on_progress(1.0, "done");
    let [mut table, other] = runs.map(|run| run.assemble());
    table.protocol.repeatability = Some(repeatability(&table, &other));
    table.save(request.out)?;
    Ok(table)
}

/// How far the prices of two tables differ. The level of the references is taken out: it is the
/// machine's speed over the whole profile, the same for all prices.
fn repeatability(one: &LatencyTable, other: &LatencyTable) -> Repeatability {
    let level = |precision: Precision, phase: Phase| {
        let at = |table: &LatencyTable| {
            crate::price::reference_us(&table.protocol.references, precision, phase)
        };
        Some(at(one)? / at(other)?)
    };
    let (mut prices, mut raw) = (Vec::new(), Vec::new());
    for entry in &one.entries {
        let mut others = other.entries.iter();
        let same = others.find(|e| e.block == entry.block && e.phase == entry.phase);
        let Some((same, level)) = same.zip(level(entry.block.precision(), entry.phase)) else {
            continue;
        };
        let difference = |a: f64, b: f64| (a / (b * level) - 1.0).abs();
        prices.push(difference(entry.price_us, same.price_us));
        raw.push(difference(entry.latency.median_us, same.latency.median_us));
    }
    Repeatability {
        entries: prices.len(),
        median: median(&prices),
        p95: quantile(&prices, 0.95),
        worst: quantile(&prices, 1.0),
        raw_median: median(&raw),
        raw_p95: quantile(&raw, 0.95),
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
    device: DeviceFingerprint,
    runtime: RuntimeFingerprint,
    journal: Journal,
    records: Vec<Record>,
    /// Orders of the first rounds.
    orders: Vec<Vec<Probe>>,
    networks: BTreeMap<Precision, Vec<SubnetConfig>>,
    /// Written when something is left to measure.
    bench: Option<Bench>,
}

impl<'a> Run<'a> {
    fn open(request: &'a ProfileRequest<'a>) -> Result<Self, ProfilerError> {
        let agent = Agent::start(request.agent)?;
        let (device, runtime) = device::fingerprint(request.device, &agent.hello().runtime_build);
        let model = ModelDescription {
            name: request.model_name.to_owned(),
            dimensions: request.model.clone(),
        };
        let header = Header {
            device: &device,
            runtime: &runtime,
            model: &model,
            plan: request.plan,
        };
        let folder = request.out.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| ProfilerError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let path = request.out.with_extension("samples.jsonl");
        let (journal, records) = Journal::open(&path, &header, request.resume)?;
        let plan = request.plan;
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
            request,
        })
    }

    /// Seconds spent on visits to blocks that count.
    fn spent_s(&self) -> f64 {
        visits(&self.records).map(|visit| visit.seconds).sum()
    }

    /// Seconds lost to visits that were disturbed, and to the pauses after them.
    fn lost_s(&self) -> f64 {
        let disturbed = self.records.iter().filter(|r| r.disturbed().is_some());
        disturbed.map(|r| r.seconds() + PAUSE.as_secs_f64()).sum()
    }

    fn share_done(&self) -> f64 {
        (self.share_of_blocks() + self.share_of_networks()) / 2.0
    }

    /// Share of the time for blocks that is used; less than 1 while the first rounds are open.
    fn share_of_blocks(&self) -> f64 {
        let visits = visits(&self.records).count() as f64;
        let first: usize = self.orders.iter().map(Vec::len).sum();
        let first_share = visits / first.max(1) as f64;
        let time_share = self.spent_s() / self.request.plan.budget_s.max(1e-9);
        time_share.min(first_share).min(1.0)
    }

    fn share_of_networks(&self) -> f64 {
        let drawn: usize = self.networks.values().map(Vec::len).sum();
        let all = drawn * self.request.plan.network_visits;
        if all == 0 {
            return 1.0;
        }
        networks(&self.records).count() as f64 / all as f64
    }

    /// The next piece of work: the limits, then blocks and networks side by side.
    fn next(&self) -> Option<Work> {
        if !self.records.iter().any(|r| matches!(r, Record::Roofs(_))) {
            return Some(Work::Roofs);
        }
        let block = self.next_block();
        if block.is_none() || self.share_of_networks() < self.share_of_blocks() {
            return self.next_network().or(block);
        }
        block
    }

    /// The next visit to a block: the first rounds in their random orders, then whatever price is
    /// known least.
    fn next_block(&self) -> Option<Work> {
        let mut counts: BTreeMap<Probe, usize> = BTreeMap::new();
        for visit in visits(&self.records) {
            *counts.entry(visit.probe).or_default() += 1;
        }
        for (round, order) in self.orders.iter().enumerate() {
            let is_open = |probe: &&Probe| counts.get(probe).copied().unwrap_or(0) <= round;
            if let Some(probe) = order.iter().find(is_open) {
                return Some(Work::Visit(*probe));
            }
        }
        if self.spent_s() >= self.request.plan.budget_s {
            return None;
        }
        self.least_known(&counts).map(Work::Visit)
    }

    /// The network with the fewest visits, in an order of its own.
    fn next_network(&self) -> Option<Work> {
        let mut visits: BTreeMap<(Precision, usize), usize> = BTreeMap::new();
        for (&precision, drawn) in &self.networks {
            visits.extend((0..drawn.len()).map(|index| ((precision, index), 0)));
        }
        for network in networks(&self.records) {
            let key = (network.precision, network.index);
            *visits.entry(key).or_default() += 1;
        }
        let wanted = self.request.plan.network_visits;
        let mut order: Vec<(Precision, usize)> = visits.keys().copied().collect();
        let done = visits.values().min().copied().unwrap_or(0);
        let seed = self.request.plan.seed.wrapping_add(done as u64);
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let open = order.into_iter().filter(|key| visits[key] < wanted);
        let fewest = open.min_by_key(|key| visits[key]);
        fewest.map(|(precision, index)| Work::Network(precision, index))
    }

    /// The probe whose widest interval is the furthest beyond the target, if one is.
    fn least_known(&self, visits: &BTreeMap<Probe, usize>) -> Option<Probe> {
        let plan = self.request.plan;
        let mut widest: BTreeMap<Probe, f64> = BTreeMap::new();
        for ((probe, _), shares) in &shares_of_visits(&self.records, plan, self.request.model) {
            let [low, high] = median_ci95(shares);
            let width = (high - low) / 2.0 / median(shares).abs().max(f64::MIN_POSITIVE);
            let widest = widest.entry(*probe).or_default();
            *widest = widest.max(width);
        }
        let open = widest.into_iter().filter(|(probe, width)| {
            *width > plan.target && visits.get(probe).copied().unwrap_or(0) < MOST_VISITS
        });
        let worst = open.max_by(|a, b| a.1.total_cmp(&b.1));
        worst.map(|(probe, _)| probe)
    }

    fn perform(&mut self, work: Work) -> Result<(), ProfilerError> {
        let record = match work {
            Work::Roofs => Record::Roofs(self.measure_roofs()?),
            Work::Visit(probe) => Record::Visit(self.visit(probe)?),
            Work::Network(precision, index) => {
                Record::Network(self.visit_network(precision, index)?)
            }
        };
        self.journal.append(&record)?;
        if record.disturbed().is_some() {
            sleep(PAUSE);
        }
        self.records.push(record);
        Ok(())
    }

    /// With no patience left, disturbed visits have to do.
    fn judged(&self, passes: &[PassRecord]) -> Option<String> {
        let patience_s = PATIENCE_S + PATIENCE_SHARE * self.request.plan.budget_s;
        disturbance(passes).filter(|_| self.lost_s() < patience_s)
    }

    fn work_folder(&self) -> PathBuf {
        self.request.out.with_extension("work")
    }

    /// All graphs that the rest of the profile may need.
    fn write_graphs(&self) -> Result<Bench, ProfilerError> {
        let plan = self.request.plan;
        let mut bench = Bench::new(&self.work_folder(), self.request.model, plan.seed)?;
        for probe in plan.probes() {
            bench.probe(&probe, plan)?;
        }
        for precision in plan.precisions() {
            for kind in [PhaseKind::Prefill, PhaseKind::Decode] {
                bench.reference(precision, kind, plan)?;
            }
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
            threads: self.request.device.threads(),
        }
    }

    fn measure_roofs(&mut self) -> Result<RoofsRecord, ProfilerError> {
        let (plan, model) = (self.request.plan, self.request.model);
        let threads = self.request.device.threads();
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
                graphs: vec![graph],
                phases: vec![(phase, 0)],
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
        let (plan, model) = (self.request.plan, self.request.model);
        let session = self.session();
        let bench = self.bench()?;
        let job = VisitJob {
            references: vec![bench.reference(probe.block.precision(), probe.kind, plan)?],
            graphs: bench.probe(&probe, plan)?,
            phases: plan
                .phases(&probe)
                .into_iter()
                .map(|phase| (phase, 0))
                .collect(),
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
        let (plan, model) = (self.request.plan, self.request.model);
        let session = self.session();
        let workload = plan.workload;
        let is_first = !networks(&self.records)
            .any(|network| (network.precision, network.index) == (precision, index));
        let bench = self.bench()?;
        let graph = bench.graph(&network_name(precision, index));
        let job = VisitJob {
            references: vec![bench.graph(&baseline_name(precision))],
            graphs: vec![graph.clone()],
            phases: network_phases(&workload).map(|phase| (phase, 0)).into(),
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

    fn assemble(&self) -> LatencyTable {
        Assembly {
            request: self.request,
            device: &self.device,
            runtime: &self.runtime,
            networks: &self.networks,
            records: &self.records,
        }
        .table()
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
