//! From a plan to a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lathe_agent::{MeasureJob, SessionConfig};
use lathe_arch::{BlockShape, LayerConfig, ModelConfig, Phase, SUBNET_VERSION, SubnetConfig};
use lathe_latency::{
    DeviceFingerprint, Entry, LatencyStatistics, LatencyTable, ModelDescription, Protocol,
    RuntimeFingerprint, TABLE_VERSION,
};
use lathe_onnx::{
    BlockKind, Chain, LogitRows, Network, TensorRole, WeightSource, chain_data_bytes, write_chain,
    write_network_graph, write_random_data,
};
use serde::Serialize;

use crate::agent::Agent;
use crate::journal::{Journal, VisitRecord};
use crate::plan::{ProfilePlan, Visit};
use crate::statistics::{median, median_absolute_deviation, median_ci95, quantile};
use crate::{AgentCommand, DeviceSpec, ProfilerError, device};

/// Weights that all measured graphs share.
const WEIGHTS_FILE: &str = "weights.data";

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
/// `on_progress` is told visits done, visits in all, and the block that comes next.
///
/// # Errors
/// When the agent fails or a file cannot be written. Finished visits are kept in the journal.
pub fn profile(
    request: &ProfileRequest<'_>,
    mut on_progress: impl FnMut(usize, usize, &str),
) -> Result<LatencyTable, ProfilerError> {
    let mut agent = Agent::start(request.agent)?;
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
    make_folder(folder)?;
    let journal_path = request.out.with_extension("samples.jsonl");
    let (mut journal, mut records) =
        Journal::open::<_, VisitRecord>(&journal_path, &header, request.resume)?;
    let done: BTreeSet<(usize, BlockShape)> = records
        .iter()
        .map(|record| (record.round, record.block))
        .collect();
    let visits = request.plan.visits();
    let is_open = |visit: &&Visit| !done.contains(&(visit.round, visit.block));
    let left: Vec<&Visit> = visits.iter().filter(is_open).collect();
    if !left.is_empty() {
        let bench = Bench::set_up(request, &request.out.with_extension("work"))?;
        for visit in left {
            on_progress(records.len(), visits.len(), &visit.block.to_string());
            let record = bench.visit(&mut agent, visit)?;
            journal.append(&record)?;
            records.push(record);
        }
        bench.clear_away();
    }
    on_progress(visits.len(), visits.len(), "done");
    let plan = request.plan;
    let table = LatencyTable {
        version: TABLE_VERSION,
        device,
        runtime,
        model,
        protocol: Protocol {
            rounds: plan.rounds,
            seed: plan.seed,
            last_level_cache_bytes: plan.last_level_cache_bytes,
        },
        entries: entries(plan, request.model, &records),
    };
    table.save(request.out)?;
    Ok(table)
}

fn make_folder(folder: &Path) -> Result<(), ProfilerError> {
    fs::create_dir_all(folder).map_err(|source| ProfilerError::Io {
        path: folder.to_owned(),
        source,
    })
}

/// The network without blocks has no biases, and its matrices lie in the shared file.
struct NoWeights;

impl WeightSource for NoWeights {
    fn tensor(&self, _role: TensorRole) -> Vec<f32> {
        Vec::new()
    }

    fn output_bias(&self, _layer: usize, _block: BlockKind) -> Option<Vec<f32>> {
        None
    }
}

/// The graphs to be timed, written once.
struct Bench<'a> {
    request: &'a ProfileRequest<'a>,
    folder: PathBuf,
}

impl<'a> Bench<'a> {
    /// Writes all graphs and the weights they share.
    fn set_up(request: &'a ProfileRequest<'a>, folder: &Path) -> Result<Self, ProfilerError> {
        make_folder(folder)?;
        let bench = Self {
            request,
            folder: folder.to_owned(),
        };
        let mut largest = 0;
        for block in &request.plan.shapes {
            for copies in bench.copies(block) {
                largest = largest.max(bench.write_graph(block, copies)?);
            }
        }
        let weights = bench.folder.join(WEIGHTS_FILE);
        write_random_data(&weights, largest, request.plan.seed)?;
        Ok(bench)
    }

    /// Copies in each graph of a block: two chains, or the empty network alone.
    fn copies(&self, block: &BlockShape) -> Vec<usize> {
        match block {
            BlockShape::EmbeddingAndHead => vec![0],
            BlockShape::Attention(_) | BlockShape::Mlp(_) => self
                .request
                .plan
                .chain_lengths(block, self.request.model)
                .to_vec(),
        }
    }

    fn graph_path(&self, block: &BlockShape, copies: usize) -> PathBuf {
        let name = match block {
            BlockShape::EmbeddingAndHead => "embedding-head".to_owned(),
            BlockShape::Attention(a) => format!("attention-{}-{}", a.heads, a.kv_heads),
            BlockShape::Mlp(m) => format!("mlp-{}", m.intermediate_size),
        };
        self.folder.join(format!("{name}-{copies}.onnx"))
    }

    fn write_graph(&self, block: &BlockShape, copies: usize) -> Result<u64, ProfilerError> {
        let model = self.request.model;
        let path = self.graph_path(block, copies);
        if matches!(block, BlockShape::EmbeddingAndHead) {
            let nothing = LayerConfig {
                attention: None,
                mlp: None,
            };
            let empty = SubnetConfig {
                version: SUBNET_VERSION,
                model: self.request.model_name.to_owned(),
                layers: vec![nothing; model.num_hidden_layers],
            };
            let network = Network {
                model,
                subnet: &empty,
                weights: &NoWeights,
                logit_rows: LogitRows::Last,
            };
            return Ok(write_network_graph(&path, &network, WEIGHTS_FILE)?);
        }
        let chain = Chain {
            model,
            block: *block,
            copies,
            positions: self.request.plan.positions(),
        };
        write_chain(&path, &chain, WEIGHTS_FILE)?;
        Ok(chain_data_bytes(&chain)?)
    }

    /// Times the graphs of one block; both chains in one visit, so that they share whatever the
    /// machine is doing.
    fn visit(&self, agent: &mut Agent, visit: &Visit) -> Result<VisitRecord, ProfilerError> {
        let mut durations_ns = Vec::new();
        let mut environment = lathe_agent::Environment::default();
        for copies in self.copies(&visit.block) {
            let (samples, measured) = agent.measure(MeasureJob {
                model: self.graph_path(&visit.block, copies),
                session: SessionConfig {
                    threads: self.request.device.threads(),
                },
                passes: self.request.plan.passes(&visit.block),
                vocab_size: self.request.model.vocab_size,
                seed: self.request.plan.seed,
            })?;
            durations_ns.push(samples.into_iter().map(|s| s.durations_ns).collect());
            environment = measured.environment;
        }
        Ok(VisitRecord {
            round: visit.round,
            block: visit.block,
            durations_ns,
            environment,
        })
    }

    /// The graphs are of no use once all is measured; what cannot be deleted does no harm.
    fn clear_away(&self) {
        let _left = fs::remove_dir_all(&self.folder);
    }
}

/// One entry for each block and phase.
fn entries(plan: &ProfilePlan, model: &ModelConfig, records: &[VisitRecord]) -> Vec<Entry> {
    let mut by_block: BTreeMap<BlockShape, Vec<&VisitRecord>> = BTreeMap::new();
    for record in records {
        by_block.entry(record.block).or_default().push(record);
    }
    let blocks = by_block.iter().flat_map(|(block, records)| {
        let phases = plan.phases(block).into_iter().enumerate();
        phases.map(|(index, phase)| entry(plan, model, block, phase, index, records))
    });
    blocks.collect()
}

fn entry(
    plan: &ProfilePlan,
    model: &ModelConfig,
    block: &BlockShape,
    phase: Phase,
    index: usize,
    records: &[&VisitRecord],
) -> Entry {
    let lengths = match block {
        BlockShape::EmbeddingAndHead => [0, 1],
        BlockShape::Attention(_) | BlockShape::Mlp(_) => plan.chain_lengths(block, model),
    };
    let prices: Vec<f64> = records
        .iter()
        .map(|record| price_us(record, index, lengths))
        .collect();
    let mut latency = LatencyStatistics {
        median_us: median(&prices),
        min_us: quantile(&prices, 0.0),
        p90_us: quantile(&prices, 0.9),
        mad_us: median_absolute_deviation(&prices),
        ci95_us: median_ci95(&prices),
        samples: prices.len(),
    };
    let mut flags = Vec::new();
    if latency.median_us <= 0.0 {
        // A slope below the noise: the block costs less than can be measured here.
        latency.median_us = 1e-3;
        flags.push("below the noise".to_owned());
    }
    let footprint_bytes = lengths[1] as u64 * block.weight_bytes(model);
    let is_chain = !matches!(block, BlockShape::EmbeddingAndHead);
    if is_chain && footprint_bytes < 4 * plan.last_level_cache_bytes {
        flags.push("footprint below four times the last-level cache".to_owned());
    }
    if latency.half_width_us() > 0.05 * latency.median_us {
        flags.push("noisy: the confidence interval is wider than 5 % on either side".to_owned());
    }
    Entry {
        block: *block,
        phase,
        latency,
        copies: lengths[1],
        footprint_bytes,
        flags,
    }
}

/// The slope between the two chains of a visit, or the time of the one graph there is.
fn price_us(record: &VisitRecord, phase: usize, lengths: [usize; 2]) -> f64 {
    let chain_us = |chain: &Vec<Vec<u64>>| {
        let runs = chain.get(phase).map_or(&[][..], Vec::as_slice);
        let runs: Vec<f64> = runs.iter().map(|ns| *ns as f64 / 1000.0).collect();
        median(&runs)
    };
    match &record.durations_ns[..] {
        [short, long] => (chain_us(long) - chain_us(short)) / (lengths[1] - lengths[0]) as f64,
        [only] => chain_us(only),
        _ => 0.0,
    }
}
