//! From a plan to a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lathe_agent::{BandwidthJob, MemoryJob, SessionConfig};
use lathe_arch::{ModelConfig, Phase, Precision, SubnetConfig};
use lathe_latency::{
    DeviceFingerprint, Interference, LatencyTable, ModelDescription, PhaseKind, Placement, Repeatability,
    RuntimeFingerprint,
};
use rand::{RngExt, SeedableRng};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::agent::Agent;
use crate::bench::Bench;
use crate::hog::Hog;
use crate::journal::Journal;
use crate::placement::{around, most_common};
use crate::plan::{Probe, ProfilePlan, baseline, reference_block};
use crate::price::shares_of_visits;
use crate::statistics::{median, median_ci95, quantile};
use crate::table::Assembly;
use crate::visit::{
    NetworkRecord, PassRecord, Record, RoofsRecord, VisitJob, VisitRecord, counts, disturbance,
    networks, round_trips, visits,
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
/// the longest time that the profile may take, and a few seconds.
const PATIENCE_SHARE: f64 = 0.5;
const PATIENCE_S: f64 = 5.0;
/// Pause after a disturbed visit.
const PAUSE: Duration = Duration::from_secs(1);
/// Share of the visits beside which a busy loop runs, where one is asked for.
const HOG_SHARE: f64 = 0.3;
/// Visits of one block at most.
const MOST_VISITS: usize = 10;

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

/// What becomes of the second of two profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondProfile {
    /// Nothing: the two differ by the noise of the measurement.
    Undisturbed,
    /// A busy loop runs beside three in ten of its visits.
    Disturbed,
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
    loop {
        let placement = most_common(round_trips(&run.records));
        let Some(work) = run.next(placement.as_ref())? else {
            break;
        };
        on_progress(run.share_done(placement.as_ref()), &work.to_string());
        run.perform(work)?;
    }
    on_progress(1.0, "done");
    let table = run.assemble(most_common(round_trips(&run.records)));
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
    second: SecondProfile,
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
    runs[1].is_disturbed = second == SecondProfile::Disturbed;
    let placement_of = |runs: &[Run<'_>; 2]| {
        let trips = runs.iter().flat_map(|run| round_trips(&run.records));
        most_common(trips)
    };
    loop {
        let mut is_done = true;
        for index in 0..2 {
            let placement = placement_of(&runs);
            let shares = runs.each_ref().map(|run| run.share_done(placement.as_ref()));
            if let Some(work) = runs[index].next(placement.as_ref())? {
                is_done = false;
                on_progress((shares[0] + shares[1]) / 2.0, &work.to_string());
                runs[index].perform(work)?;
            }
        }
        if is_done {
            break;
        }
    }
    on_progress(1.0, "done");
    let placement = placement_of(&runs);
    let interference = runs[1].interference;
    let [mut table, other] = runs.map(|run| run.assemble(placement));
    table.protocol.repeatability = Some(Repeatability {
        interference: (second == SecondProfile::Disturbed).then_some(interference),
        ..repeatability(&table, &other)
    });
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
        interference: None,
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

/// Visits that count in a placement.
struct Tally<'p> {
    placement: Option<&'p Placement>,
    probes: BTreeMap<Probe, usize>,
    networks: BTreeMap<(Precision, usize), usize>,
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
    /// Whether a busy loop runs beside some of the visits.
    is_disturbed: bool,
    interference: Interference,
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
            is_disturbed: false,
            interference: Interference::default(),
            request,
        })
    }

    /// Seconds spent on visits to blocks that count.
    fn spent_s(&self, placement: Option<&Placement>) -> f64 {
        let there = visits(&self.records).filter(|visit| counts(&visit.passes, placement));
        there.map(|visit| visit.seconds).sum()
    }

    /// Seconds spent on anything, with the pauses after disturbed visits.
    fn all_s(&self) -> f64 {
        let useful = self.records.iter().filter(|r| r.disturbed().is_none());
        useful.map(Record::seconds).sum::<f64>() + self.lost_s()
    }

    /// Seconds lost to visits that were disturbed, and to the pauses after them.
    fn lost_s(&self) -> f64 {
        let disturbed = self.records.iter().filter(|r| r.disturbed().is_some());
        disturbed.map(|r| r.seconds() + PAUSE.as_secs_f64()).sum()
    }

    fn share_done(&self, placement: Option<&Placement>) -> f64 {
        let tally = self.tally(placement);
        let work = (self.share_of_blocks(&tally) + self.share_of_networks(&tally)) / 2.0;
        let time = self.all_s() / self.request.plan.limit_s.max(1e-9);
        work.max(time).min(1.0)
    }

    /// What was visited in `placement`, and how often.
    fn tally<'p>(&self, placement: Option<&'p Placement>) -> Tally<'p> {
        let drawn = self.networks.iter().flat_map(|(&precision, drawn)| {
            (0..drawn.len()).map(move |index| ((precision, index), 0))
        });
        let probes = self.request.plan.probes().into_iter();
        let mut tally = Tally {
            placement,
            probes: probes.map(|probe| (probe, 0)).collect(),
            networks: drawn.collect(),
        };
        for visit in visits(&self.records).filter(|visit| counts(&visit.passes, placement)) {
            *tally.probes.entry(visit.probe).or_default() += 1;
        }
        for visit in networks(&self.records).filter(|visit| counts(&visit.passes, placement)) {
            *tally.networks.entry((visit.precision, visit.index)).or_default() += 1;
        }
        tally
    }

    /// Share of the visits to blocks that have to be made, or of the time for them.
    fn share_of_blocks(&self, tally: &Tally<'_>) -> f64 {
        let plan = self.request.plan;
        let made = tally.probes.values().map(|visits| (*visits).min(plan.rounds));
        let first = plan.rounds * tally.probes.len();
        let first_share = made.sum::<usize>() as f64 / first.max(1) as f64;
        let time_share = self.spent_s(tally.placement) / plan.budget_s.max(1e-9);
        time_share.min(first_share).min(1.0)
    }

    fn share_of_networks(&self, tally: &Tally<'_>) -> f64 {
        let wanted = self.request.plan.network_visits;
        let made = tally.networks.values().map(|visits| (*visits).min(wanted));
        match wanted * tally.networks.len() {
            0 => 1.0,
            all => made.sum::<usize>() as f64 / all as f64,
        }
    }

    /// The next piece of work; `None` when the profile of `placement` is complete, or its time over.
    ///
    /// While the processors are elsewhere, the work is what their present placement lacks: it may
    /// yet become the more common one.
    fn next(&mut self, placement: Option<&Placement>) -> Result<Option<Work>, ProfilerError> {
        if !self.records.iter().any(|r| matches!(r, Record::Roofs(_))) {
            return Ok(Some(Work::Roofs));
        }
        if self.all_s() >= self.request.plan.limit_s {
            return Ok(self.never_visited());
        }
        let Some(work) = self.next_in(&self.tally(placement)) else {
            return Ok(None);
        };
        let Some(now_ns) = self.agent.round_trip_ns(self.session())? else {
            return Ok(Some(work));
        };
        if placement.is_some_and(|placement| placement.holds(now_ns)) {
            return Ok(Some(work));
        }
        let present = around(now_ns);
        Ok(self.next_in(&self.tally(Some(&present))).or(Some(work)))
    }

    /// What was not visited at all, wherever the processors were.
    fn never_visited(&self) -> Option<Work> {
        let tally = self.tally(None);
        let first = self.orders.first().into_iter().flatten();
        let mut probes = first.filter(|probe| tally.probes[*probe] == 0);
        let mut networks = tally.networks.iter().filter(|(_, visits)| **visits == 0);
        let network = |(&(precision, index), _)| Work::Network(precision, index);
        let probe = probes.next().copied().map(Work::Visit);
        probe.or_else(|| networks.next().map(network))
    }

    /// What a placement lacks: blocks and networks side by side.
    fn next_in(&self, tally: &Tally<'_>) -> Option<Work> {
        let block = self.next_block(tally);
        if block.is_none() || self.share_of_networks(tally) < self.share_of_blocks(tally) {
            return self.next_network(tally).or(block);
        }
        block
    }

    /// The next visit to a block: the first rounds in their random orders, then whatever price is
    /// known least.
    fn next_block(&self, tally: &Tally<'_>) -> Option<Work> {
        for (round, order) in self.orders.iter().enumerate() {
            let is_open = |probe: &&Probe| tally.probes[*probe] <= round;
            if let Some(probe) = order.iter().find(is_open) {
                return Some(Work::Visit(*probe));
            }
        }
        if self.spent_s(tally.placement) >= self.request.plan.budget_s {
            return None;
        }
        self.least_known(tally).map(Work::Visit)
    }

    /// The network with the fewest visits, in an order of its own.
    fn next_network(&self, tally: &Tally<'_>) -> Option<Work> {
        let visits = &tally.networks;
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
    fn least_known(&self, tally: &Tally<'_>) -> Option<Probe> {
        let plan = self.request.plan;
        let shares = shares_of_visits(&self.records, plan, self.request.model, tally.placement);
        let mut widest: BTreeMap<Probe, f64> = BTreeMap::new();
        for ((probe, _), visits) in &shares {
            let shares = &visits.concat();
            let [low, high] = median_ci95(shares);
            let width = (high - low) / 2.0 / median(shares).abs().max(f64::MIN_POSITIVE);
            let widest = widest.entry(*probe).or_default();
            *widest = widest.max(width);
        }
        let open = widest.into_iter().filter(|(probe, width)| {
            *width > plan.target && tally.probes[probe] < MOST_VISITS
        });
        let worst = open.max_by(|a, b| a.1.total_cmp(&b.1));
        worst.map(|(probe, _)| probe)
    }

    fn perform(&mut self, work: Work) -> Result<(), ProfilerError> {
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
        let seed = self.request.plan.seed ^ self.records.len() as u64;
        self.is_disturbed && ChaCha8Rng::seed_from_u64(seed).random_bool(HOG_SHARE)
    }

    /// With no patience left, disturbed visits have to do.
    fn judged(&self, passes: &[PassRecord]) -> Option<String> {
        let patience_s = PATIENCE_S + PATIENCE_SHARE * self.request.plan.limit_s;
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
        let (plan, model) = (self.request.plan, self.request.model);
        let session = self.session();
        let bench = self.bench()?;
        let job = VisitJob {
            references: bench.references(&probe, plan)?,
            graphs: bench.probe(&probe, plan)?,
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

    fn assemble(&self, placement: Option<Placement>) -> LatencyTable {
        Assembly {
            request: self.request,
            placement,
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
