//! Whole networks that a table has not seen, measured beside its baseline network, and what other
//! predictors make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lathe_agent::{MeasureJob, Pass, SessionConfig};
use lathe_arch::{BlockShape, LogitRows, Phase, Precision, SubnetConfig, Workload};
use lathe_latency::{LatencyTable, Placement};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::bench::Bench;
use crate::journal::Journal;
use crate::plan::baseline;
use crate::price::shares;
use crate::profile::{network_phases, peak_memory};
use crate::statistics::{mean, median, median_ci95};
use crate::table::baseline_us;
use crate::visit::{NetworkRecord, PassRecord, Record, VisitJob, counts, disturbance, networks};
use crate::{AgentCommand, ProfilerError};

/// Microseconds of turns for each phase of a visit.
const PASS_US: u64 = 450_000;
/// Visits that are made again at most because other work ran meanwhile, for each network.
const REPEATED_VISITS: usize = 3;
/// How long a visit waits for the processors to be where they were for the table.
pub const PLACEMENT_PATIENCE: Duration = Duration::from_secs(90);
/// How often that is looked at.
const PLACEMENT_PAUSE: Duration = Duration::from_millis(200);
/// Copies whose difference the differencing predictor takes, as NVIDIA's Puzzle does.
const DIFFERENCED_COPIES: usize = 10;
/// Runs of the lone-block and differencing predictors, one after another.
const LONE_TURNS: u32 = 30;

/// Networks to be measured.
pub struct HeldOut<'a> {
    /// How to start the agent.
    pub agent: &'a AgentCommand,
    /// The table that is to be judged.
    pub table: &'a LatencyTable,
    /// The networks; each runs beside the baseline in the precision of its LM head.
    pub subnets: &'a [SubnetConfig],
    /// When a network runs.
    pub workload: Workload,
    /// Visits to each.
    pub rounds: usize,
    /// Seed of the orders.
    pub seed: u64,
    /// How long a visit waits for the processors to be where they were for the table: usually
    /// [`PLACEMENT_PATIENCE`].
    pub patience: Duration,
    /// Begins the names of the files made meanwhile, and of nothing else.
    pub work: &'a Path,
}

/// What was measured, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The networks, in the order asked for.
    pub networks: Vec<MeasuredNetwork>,
    /// Set when the processors did not come back to where they were for the table, so that turns
    /// of any placement were taken.
    pub elsewhere: Option<Elsewhere>,
}

/// Processors that stay farther apart, or closer, than they were for a table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Round trip of a cache line between them now, in nanoseconds.
    pub here_ns: f64,
    /// And when the table was made.
    pub table_ns: f64,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the processors are {:.0} ns apart and do not stay at the {:.0} ns at which the table \
             was made: the machine has been moved, and errors may be its doing; measure again \
             later, or profile anew",
            self.here_ns, self.table_ns
        )
    }
}

/// Which placement of the processors counts.
struct Whereabouts<'a> {
    /// The table's, or any when that is `None`.
    placement: Option<&'a Placement>,
    patience: Duration,
    elsewhere: Option<Elsewhere>,
}

impl<'a> Whereabouts<'a> {
    fn of(held_out: &HeldOut<'a>) -> Self {
        Self {
            placement: held_out.table.protocol.placement.as_ref(),
            patience: held_out.patience,
            elsewhere: None,
        }
    }

    /// Takes in visits of an interrupted measurement: those that were made elsewhere go on counting.
    fn resume(&mut self, records: &[Record]) {
        let elsewhere = networks(records).find(|visit| !counts(&visit.passes, self.placement));
        if let Some(visit) = elsewhere {
            let trips = visit.passes.iter().flat_map(|pass| &pass.round_trips_ns);
            let trips: Vec<f64> = trips.map(|ns| *ns as f64).collect();
            self.give_up(median(&trips));
        }
    }

    /// Waits until the processors are where they were for the table. `lost` is the time for which
    /// they were not. When it is longer than the patience, any placement counts from then on: a
    /// measurement that says so is worth more than none.
    fn wait(
        &mut self,
        agent: &mut Agent,
        session: SessionConfig,
        lost: &mut Duration,
    ) -> Result<(), ProfilerError> {
        while let Some(placement) = self.placement
            && let Some(here_ns) = agent.round_trip_ns(session)?
        {
            if *lost > self.patience {
                self.give_up(here_ns as f64);
            } else if placement.holds(here_ns) {
                break;
            } else {
                sleep(PLACEMENT_PAUSE);
                *lost += PLACEMENT_PAUSE;
            }
        }
        Ok(())
    }

    fn give_up(&mut self, here_ns: f64) {
        self.elsewhere = self.placement.take().map(|placement| Elsewhere {
            here_ns,
            table_ns: placement.round_trip_ns,
        });
    }
}

/// One network as measured, in units of the table's baseline network: free of what the machine's
/// speed did since.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredNetwork {
    /// Prefill and decode.
    pub phases: [MeasuredPhase; 2],
    /// Largest resident memory in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// One phase of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredPhase {
    /// Median over all turns of all visits, in microseconds.
    pub median_us: f64,
    /// 95 % confidence interval of that median.
    pub ci95_us: [f64; 2],
    /// Medians of the single visits: what the network differs by from itself.
    pub visits_us: Vec<f64>,
    /// The baseline's latency now over that of the table, less 1.
    pub drift: f64,
}

/// What a lone run of each block, and the difference of ten copies, predict for a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NaiveSums {
    /// Sums of blocks timed alone, back to back: `[prefill, decode]`.
    pub lone_us: [f64; 2],
    /// Sums of differences between chains of 11 copies and 1, one after the other.
    pub differenced_us: [f64; 2],
}

#[derive(Serialize)]
struct Header<'a> {
    table: &'a LatencyTable,
    subnets: &'a [SubnetConfig],
    workload: Workload,
    rounds: usize,
    seed: u64,
}

impl HeldOut<'_> {
    /// Measures all networks, in rounds of random order. An interrupted measurement goes on where
    /// it stopped.
    ///
    /// `on_progress` is told visits done and visits in all.
    ///
    /// # Errors
    /// When the table lacks a reference, the agent fails or the disk does not take the files.
    pub fn measure(
        &self,
        mut on_progress: impl FnMut(usize, usize),
    ) -> Result<Measured, ProfilerError> {
        let journal_path = self.work.with_added_extension("samples.jsonl");
        let header = Header {
            table: self.table,
            subnets: self.subnets,
            workload: self.workload,
            rounds: self.rounds,
            seed: self.seed,
        };
        let (mut journal, mut records) = match Journal::open(&journal_path, &header, true) {
            // The measurement of another table or seed was not finished: this one replaces it.
            Err(ProfilerError::OtherJournal { path }) => {
                std::fs::remove_file(&path).map_err(|source| ProfilerError::Io { path, source })?;
                Journal::open(&journal_path, &header, true)?
            }
            opened => opened?,
        };
        let mut agent = Agent::start(self.agent)?;
        let (bench, graphs) = self.write_graphs()?;
        let mut order: Vec<usize> = (0..self.subnets.len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let total = self.rounds * order.len();
        let mut whereabouts = Whereabouts::of(self);
        whereabouts.resume(&records);
        for round in 0..self.rounds {
            order.shuffle(&mut rng);
            for &index in &order {
                let visits = networks(&records).filter(|visit| visit.index == index);
                if visits.count() > round {
                    continue;
                }
                on_progress(networks(&records).count(), total);
                let is_first = !networks(&records).any(|visit| visit.index == index);
                let visit = (index, round, is_first);
                let record = self.visit(&mut agent, &graphs, visit, &mut whereabouts)?;
                journal.append(&record)?;
                records.push(record);
            }
        }
        drop((journal, bench));
        std::fs::remove_file(&journal_path).map_err(|source| ProfilerError::Io {
            path: journal_path,
            source,
        })?;
        let networks = (0..self.subnets.len())
            .map(|index| self.network(index, &records, whereabouts.placement))
            .collect::<Result<_, _>>()?;
        Ok(Measured {
            networks,
            elsewhere: whereabouts.elsewhere,
        })
    }

    fn write_graphs(&self) -> Result<(Bench, Graphs), ProfilerError> {
        let model = &self.table.model.dimensions;
        let mut bench = Bench::new(&self.work.with_added_extension("work"), model, self.seed)?;
        let mut baselines = BTreeMap::new();
        for subnet in self.subnets {
            let precision = subnet.head_precision;
            let baseline = baseline(precision, model);
            let name = format!("baseline-{precision}");
            baselines.insert(precision, bench.network(&name, &baseline)?);
        }
        let subnets = self.subnets.iter().enumerate();
        let networks = subnets.map(|(index, s)| bench.network(&format!("network-{index}"), s));
        let networks = networks.collect::<Result<_, _>>()?;
        bench.write_weights()?;
        Ok((
            bench,
            Graphs {
                baselines,
                networks,
            },
        ))
    }

    fn session(&self) -> SessionConfig {
        SessionConfig {
            threads: self.table.runtime.threads,
        }
    }

    fn no_reference(&self, precision: Precision) -> ProfilerError {
        ProfilerError::NoReference {
            precision,
            workload: self.workload.to_string(),
        }
    }

    fn visit(
        &self,
        agent: &mut Agent,
        graphs: &Graphs,
        (index, round, is_first): (usize, usize, bool),
        whereabouts: &mut Whereabouts<'_>,
    ) -> Result<Record, ProfilerError> {
        let clock = Instant::now();
        let precision = self.subnets[index].head_precision;
        let session = self.session();
        let vocab_size = self.table.model.dimensions.vocab_size;
        let graph = &graphs.networks[index];
        let job = || VisitJob {
            references: vec![graphs.baselines[&precision].clone()],
            keeps_references: false,
            graphs: vec![graph.clone()],
            phases: network_phases(&self.workload).into(),
            pass_us: PASS_US,
            session,
            vocab_size,
            seed: round as u64,
        };
        let mut repeated = 0;
        let mut lost = Duration::ZERO;
        let passes = loop {
            whereabouts.wait(agent, session, &mut lost)?;
            let begun = Instant::now();
            let passes = job().run(agent)?;
            let is_there = counts(&passes, whereabouts.placement);
            if is_there && (disturbance(&passes, session).is_none() || repeated >= REPEATED_VISITS)
            {
                break passes;
            }
            // Processors that are never there for long would keep this from ending.
            match is_there {
                true => repeated += 1,
                false => lost += begun.elapsed(),
            }
        };
        let peak_memory_bytes = if is_first {
            peak_memory(
                self.agent,
                graph.clone(),
                session,
                &self.workload,
                vocab_size,
            )?
        } else {
            None
        };
        Ok(Record::Network(NetworkRecord {
            precision,
            index,
            passes,
            seconds: clock.elapsed().as_secs_f64(),
            peak_memory_bytes,
            disturbed: None,
        }))
    }

    fn network(
        &self,
        index: usize,
        records: &[Record],
        placement: Option<&Placement>,
    ) -> Result<MeasuredNetwork, ProfilerError> {
        let records = networks(records).filter(|visit| visit.index == index);
        let records: Vec<&NetworkRecord> = records.collect();
        let precision = self.subnets[index].head_precision;
        let phase = |at: usize| -> Result<MeasuredPhase, ProfilerError> {
            let passes: Vec<&PassRecord> =
                records.iter().filter_map(|r| r.passes.get(at)).collect();
            let phase = network_phases(&self.workload)[at];
            let level_us = baseline_us(self.table, precision, phase, &self.workload)
                .ok_or_else(|| self.no_reference(precision))?;
            let scaled = |pass: &PassRecord| -> Vec<f64> {
                shares(pass, [0, 1], placement)
                    .iter()
                    .map(|s| s * level_us)
                    .collect()
            };
            let all: Vec<f64> = passes.iter().flat_map(|pass| scaled(pass)).collect();
            let turns = passes.iter().flat_map(|pass| pass.turns_us(placement));
            let references: Vec<f64> = turns.filter_map(|turn| turn.first().copied()).collect();
            Ok(MeasuredPhase {
                median_us: median(&all),
                ci95_us: median_ci95(&all),
                visits_us: passes.iter().map(|pass| median(&scaled(pass))).collect(),
                drift: median(&references) / level_us - 1.0,
            })
        };
        Ok(MeasuredNetwork {
            phases: [phase(0)?, phase(1)?],
            peak_memory_bytes: records.iter().find_map(|r| r.peak_memory_bytes),
        })
    }

    /// What lone blocks and differenced chains predict for each network, measured now, and where
    /// the processors were if not where they were for the table.
    ///
    /// # Errors
    /// When the agent fails or the disk does not take the files.
    pub fn naive_sums(
        &self,
        mut on_progress: impl FnMut(usize, usize),
    ) -> Result<(Vec<NaiveSums>, Option<Elsewhere>), ProfilerError> {
        let model = &self.table.model.dimensions;
        let mut bench = Bench::new(
            &self.work.with_added_extension("naive.work"),
            model,
            self.seed,
        )?;
        let mut agent = Agent::start(self.agent)?;
        let shapes: BTreeSet<BlockShape> = self.subnets.iter().flat_map(blocks).collect();
        let phases = network_phases(&self.workload);
        let positions = self.workload.prompt_tokens + self.workload.generated_tokens;
        let mut graphs = BTreeMap::new();
        for &shape in &shapes {
            graphs.insert(
                shape,
                match shape {
                    BlockShape::EmbeddingAndHead(head) => {
                        vec![bench.ends(head.precision, head.logit_rows)?]
                    }
                    BlockShape::Attention(_) | BlockShape::Mlp(_) => vec![
                        bench.chain(shape, 1, positions)?,
                        bench.chain(shape, 1 + DIFFERENCED_COPIES, positions)?,
                    ],
                },
            );
        }
        bench.write_weights()?;
        let mut whereabouts = Whereabouts::of(self);
        let mut prices: BTreeMap<BlockShape, NaiveSums> = BTreeMap::new();
        for (done, shape) in shapes.iter().enumerate() {
            on_progress(done, shapes.len());
            let mut latencies = Vec::new();
            for graph in &graphs[shape] {
                latencies.push(self.alone_us(&mut agent, graph, &phases, &mut whereabouts)?);
            }
            let one = latencies[0];
            let differenced_us = match latencies.get(1) {
                Some(many) => {
                    [0, 1].map(|at| (many[at].mean - one[at].mean) / DIFFERENCED_COPIES as f64)
                }
                None => one.map(|latency| latency.mean),
            };
            prices.insert(
                *shape,
                NaiveSums {
                    lone_us: one.map(|latency| latency.median),
                    differenced_us,
                },
            );
        }
        let sum = |subnet: &SubnetConfig| {
            let mut sums = NaiveSums {
                lone_us: [0.0; 2],
                differenced_us: [0.0; 2],
            };
            for shape in blocks(subnet) {
                let price = &prices[&shape];
                for at in 0..2 {
                    sums.lone_us[at] += price.lone_us[at];
                    sums.differenced_us[at] += price.differenced_us[at];
                }
            }
            sums
        };
        let sums = self.subnets.iter().map(sum).collect();
        Ok((sums, whereabouts.elsewhere))
    }

    /// Latencies of a graph run again and again by itself.
    fn alone_us(
        &self,
        agent: &mut Agent,
        graph: &Path,
        phases: &[Phase; 2],
        whereabouts: &mut Whereabouts<'_>,
    ) -> Result<[Alone; 2], ProfilerError> {
        let passes = phases.iter().map(|phase| Pass {
            models: vec![0],
            batch: phase.batch(),
            new_tokens: phase.new_tokens(),
            past_tokens: phase.past_tokens(),
            min_turns: LONE_TURNS,
            max_turns: LONE_TURNS,
            budget_us: 0,
        });
        // Other tools know nothing of placements; they are given the right one to begin in.
        let mut lost = Duration::ZERO;
        whereabouts.wait(agent, self.session(), &mut lost)?;
        let (samples, _) = agent.measure(MeasureJob {
            models: vec![graph.to_owned()],
            keep: Vec::new(),
            session: self.session(),
            passes: passes.collect(),
            vocab_size: self.table.model.dimensions.vocab_size,
            seed: self.seed,
        })?;
        let alone = |at: usize| {
            let turns = samples.get(at).map_or(&[][..], |s| &s.durations_ns);
            let runs: Vec<f64> = turns
                .iter()
                .flatten()
                .map(|ns| *ns as f64 / 1000.0)
                .collect();
            Alone {
                median: median(&runs),
                mean: mean(&runs),
            }
        };
        Ok([alone(0), alone(1)])
    }
}

#[derive(Clone, Copy)]
struct Alone {
    median: f64,
    mean: f64,
}

struct Graphs {
    baselines: BTreeMap<Precision, PathBuf>,
    networks: Vec<PathBuf>,
}

/// The blocks of a network and its ends.
fn blocks(subnet: &SubnetConfig) -> impl Iterator<Item = BlockShape> + '_ {
    subnet
        .blocks()
        .chain(std::iter::once(subnet.head(LogitRows::Last)))
}
