//! Visits: what is timed, how it is recorded, and which visits count.

use std::path::PathBuf;

use lathe_agent::{Environment, MeasureJob, Pass, SessionConfig};
use lathe_arch::{Phase, Precision};
use lathe_latency::Placement;
use serde::{Deserialize, Serialize};

use crate::ProfilerError;
use crate::agent::Agent;
use crate::plan::Probe;
use crate::warmup::warmup_length;

/// What the agent's threads waited for a processor, as a share of a pass, above which other work is
/// taken to have run: they are no more than the processors. How long others waited (pressure stall
/// information) is no sign of it: beside threads that never rest, whatever wakes up waits.
/// A busy loop beside one of eight threads costs them 6 % in the mean.
const RUN_DELAY_LIMIT: f64 = 0.025;
/// Microseconds of such waiting, in the sum over the threads, that are none: two ticks of the scheduler
/// (250 Hz). What a quiet system does of itself in a short pass hits a turn or two of it.
const TICKS_OF_SCHEDULER_US: u64 = 8_000;
/// Share of a pass that the hypervisor took away, likewise.
const STEAL_LIMIT: f64 = 0.05;
/// The kernel counts stolen time in hundredths of a second.
const TICK_US: f64 = 10_000.0;
/// Passes shorter than this many microseconds tell nothing about shares of time.
const SHORTEST_JUDGED_US: u64 = 30_000;
/// Turns of a pass at least.
const MIN_TURNS: u32 = 5;
/// Turns in a placement without which a pass tells nothing about it.
const COUNTED_TURNS: usize = 3;
/// Turns of a pass at most.
const MAX_TURNS: u32 = 1000;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// The device's limits.
    Roofs(RoofsRecord),
    /// A visit to a block.
    Visit(VisitRecord),
    /// A visit to a whole network.
    Network(NetworkRecord),
}

impl Record {
    /// Why it does not count, if it does not.
    pub fn disturbed(&self) -> Option<&str> {
        match self {
            Record::Roofs(_) => None,
            Record::Visit(visit) => visit.disturbed.as_deref(),
            Record::Network(network) => network.disturbed.as_deref(),
        }
    }

    /// Wall time of a visit.
    pub fn seconds(&self) -> f64 {
        match self {
            Record::Roofs(_) => 0.0,
            Record::Visit(visit) => visit.seconds,
            Record::Network(network) => network.seconds,
        }
    }
}

/// Visits to blocks that count.
pub(crate) fn visits(records: &[Record]) -> impl Iterator<Item = &VisitRecord> {
    records.iter().filter_map(|record| match record {
        Record::Visit(visit) if visit.disturbed.is_none() => Some(visit),
        Record::Roofs(_) | Record::Visit(_) | Record::Network(_) => None,
    })
}

/// Visits to networks that count.
pub(crate) fn networks(records: &[Record]) -> impl Iterator<Item = &NetworkRecord> {
    records.iter().filter_map(|record| match record {
        Record::Network(network) if network.disturbed.is_none() => Some(network),
        Record::Roofs(_) | Record::Visit(_) | Record::Network(_) => None,
    })
}

/// The device's limits as timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoofsRecord {
    /// Bytes of the buffer that was read.
    pub buffer_bytes: u64,
    /// Each reading of it, in nanoseconds.
    pub reading_ns: Vec<u64>,
    /// Operations of a chain, and each run of it in nanoseconds, by precision.
    pub operations: Vec<(Precision, u64, Vec<u64>)>,
}

/// A visit to a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VisitRecord {
    pub probe: Probe,
    /// Turns of reference, filler if any, shorter chain and longer chain.
    pub passes: Vec<PassRecord>,
    /// Wall time with loading.
    pub seconds: f64,
    /// Why it does not count.
    pub disturbed: Option<String>,
}

/// A visit to a whole network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub precision: Precision,
    /// Index among the networks of this precision.
    pub index: usize,
    /// Turns of reference and network, for prefill and decode.
    pub passes: Vec<PassRecord>,
    /// Wall time with loading.
    pub seconds: f64,
    /// Largest resident memory in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    pub disturbed: Option<String>,
}

/// The turns at one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PassRecord {
    pub phase: Phase,
    /// `[turn][graph]` in nanoseconds; the reference is the first graph.
    pub durations_ns: Vec<Vec<u64>>,
    /// Round trips between the processors around the turns, in nanoseconds; empty where unknown.
    pub round_trips_ns: Vec<u64>,
    pub environment: Environment,
}

impl PassRecord {
    /// The turns after the warm-up in microseconds: those in `placement`, or all where there is
    /// none or the device does not tell.
    pub fn turns_us(&self, placement: Option<&Placement>) -> Vec<Vec<f64>> {
        let graphs = self.durations_ns.first().map_or(0, Vec::len);
        let is_there = |turn: usize| placement.is_none_or(|at| self.is_in(at, turn));
        let turns = self.durations_ns.iter().enumerate();
        let turns: Vec<&Vec<u64>> = turns
            .filter(|(index, turn)| turn.len() == graphs && is_there(*index))
            .map(|(_, turn)| turn)
            .collect();
        let series =
            |graph: usize| -> Vec<f64> { turns.iter().map(|turn| turn[graph] as f64).collect() };
        let warm = (0..graphs).map(|graph| warmup_length(&series(graph))).max();
        let turns = turns.iter().skip(warm.unwrap_or(0));
        turns
            .map(|turn| turn.iter().map(|ns| *ns as f64 / 1000.0).collect())
            .collect()
    }

    /// Whether the processors were in `placement` before and after a turn; a device that does not tell
    /// is taken to have one placement.
    fn is_in(&self, placement: &Placement, turn: usize) -> bool {
        let around = self.round_trips_ns.get(turn..=turn + 1);
        around.is_none_or(|around| around.iter().all(|ns| placement.holds(*ns)))
    }

    /// Leaves the turns in `placement`, and no round trips.
    pub fn keep(&mut self, placement: &Placement) {
        let turns = std::mem::take(&mut self.durations_ns);
        let turns = turns.into_iter().enumerate();
        let there = turns.filter(|(turn, _)| self.is_in(placement, *turn));
        self.durations_ns = there.map(|(_, turn)| turn).collect();
        self.round_trips_ns.clear();
    }

    /// What says that other work ran meanwhile, beside a session of so many threads.
    pub fn disturbance(&self, threads: usize) -> Option<String> {
        let environment = &self.environment;
        let wall_us = environment.wall_us as f64;
        if environment.wall_us < SHORTEST_JUDGED_US {
            return None;
        }
        let run_delay = environment.run_delay_us;
        let run_delay =
            run_delay.filter(|us| us.saturating_mul(threads as u64) > TICKS_OF_SCHEDULER_US);
        let run_delay = run_delay.map(|us| us as f64 / wall_us);
        let steal = environment
            .steal_ticks
            .map(|ticks| ticks as f64 * TICK_US / wall_us);
        for (what, share, limit) in [
            ("threads waited for a processor", run_delay, RUN_DELAY_LIMIT),
            ("the hypervisor took time away", steal, STEAL_LIMIT),
        ] {
            if let Some(share) = share.filter(|share| *share > limit) {
                let percent = 100.0 * share;
                return Some(format!("{}: {what} for {percent:.0} % of it", self.phase));
            }
        }
        None
    }
}

/// The graphs of a visit and how they take turns.
pub(crate) struct VisitJob {
    /// What opens every turn: the reference, and a filler where one is needed.
    pub references: Vec<PathBuf>,
    /// Whether they stay loaded for the next visit. A session is a percent or two faster or slower
    /// for as long as it lives, by where its weights happen to lie in memory. A share of a reference
    /// times the latency of the same reference is free of that; a share that is compared with those
    /// of another process is not, and needs a new session each time.
    pub keeps_references: bool,
    /// What is measured.
    pub graphs: Vec<PathBuf>,
    /// Phases at which all of them take turns.
    pub phases: Vec<Phase>,
    /// Microseconds of turns for each phase.
    pub pass_us: u64,
    pub session: SessionConfig,
    pub vocab_size: usize,
    pub seed: u64,
}

impl VisitJob {
    /// Takes the turns.
    pub fn run(self, agent: &mut Agent) -> Result<Vec<PassRecord>, ProfilerError> {
        let references = self.references.len();
        let graphs = references + self.graphs.len();
        let passes = self.phases.iter().map(|phase| Pass {
            models: (0..graphs).collect(),
            batch: phase.batch(),
            new_tokens: phase.new_tokens(),
            past_tokens: phase.past_tokens(),
            min_turns: MIN_TURNS,
            max_turns: MAX_TURNS,
            budget_us: self.pass_us,
        });
        let job = MeasureJob {
            passes: passes.collect(),
            models: self.references.into_iter().chain(self.graphs).collect(),
            keep: match self.keeps_references {
                true => (0..references).collect(),
                false => Vec::new(),
            },
            session: self.session,
            vocab_size: self.vocab_size,
            seed: self.seed,
        };
        let (samples, _) = agent.measure(job)?;
        let records = samples.into_iter().zip(&self.phases);
        Ok(records
            .map(|(samples, phase)| PassRecord {
                phase: *phase,
                durations_ns: samples.durations_ns,
                round_trips_ns: samples.round_trips_ns,
                environment: samples.environment,
            })
            .collect())
    }
}

/// Whether all of `passes` have turns enough in `placement`.
pub(crate) fn counts(passes: &[PassRecord], placement: Option<&Placement>) -> bool {
    let is_enough = |pass: &PassRecord| pass.turns_us(placement).len() >= COUNTED_TURNS;
    passes.iter().all(is_enough)
}

/// Round trips around all turns of visits that count.
pub(crate) fn round_trips(records: &[Record]) -> impl Iterator<Item = u64> + '_ {
    let passes = visits(records)
        .flat_map(|visit| &visit.passes)
        .chain(networks(records).flat_map(|visit| &visit.passes));
    passes.flat_map(|pass| pass.round_trips_ns.iter().copied())
}

/// The first reason why passes do not count.
pub(crate) fn disturbance(passes: &[PassRecord], session: SessionConfig) -> Option<String> {
    let threads = session.threads;
    passes.iter().find_map(|pass| pass.disturbance(threads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::around;

    fn pass(environment: Environment) -> PassRecord {
        PassRecord {
            phase: Phase::Decode {
                batch: 1,
                past_len: 0,
            },
            durations_ns: vec![
                vec![9000, 5000],
                vec![1000, 2000],
                vec![1100, 2100],
                vec![1000, 2000],
                vec![1000, 2050],
                vec![1000, 2000],
                vec![1050, 2000],
                vec![1000, 2000],
            ],
            round_trips_ns: vec![80, 80, 80, 80, 80, 340, 340, 80, 80],
            environment,
        }
    }

    #[test]
    fn other_work_is_noticed() {
        let quiet = Environment {
            wall_us: 200_000,
            run_delay_us: Some(3_000),
            steal_ticks: Some(0),
            involuntary_switches: Some(9),
            energy_uj: None,
        };
        assert_eq!(pass(quiet).disturbance(2), None);
        let busy = Environment {
            run_delay_us: Some(90_000),
            ..quiet
        };
        assert!(pass(busy).disturbance(2).unwrap().contains("45 %"));
        // A tick of each thread, whatever share of a short pass that is.
        let ticked = |run_delay_us| Environment {
            wall_us: 100_000,
            run_delay_us: Some(run_delay_us),
            ..quiet
        };
        assert_eq!(pass(ticked(4_000)).disturbance(2), None);
        assert!(pass(ticked(6_000)).disturbance(2).is_some());
        // A busy loop beside one of eight threads, in a quick profile.
        let short = Environment {
            wall_us: 60_000,
            ..ticked(3_600)
        };
        assert!(pass(short).disturbance(8).is_some());
        let stolen = Environment {
            steal_ticks: Some(3),
            ..quiet
        };
        assert!(pass(stolen).disturbance(2).unwrap().contains("hypervisor"));
        let silent = Environment {
            run_delay_us: None,
            steal_ticks: None,
            ..quiet
        };
        assert_eq!(pass(silent).disturbance(2), None);
    }

    #[test]
    fn the_slow_first_turn_is_left_out() {
        let turns = pass(Environment::default()).turns_us(None);
        assert_eq!(turns.len(), 7);
        assert_eq!(turns[0], [1.0, 2.0]);
    }

    #[test]
    fn turns_count_where_both_their_ends_are() {
        let pass = pass(Environment::default());
        let (near, far) = (around(82), around(350));
        // Of eight turns one is the warm-up and three have an end elsewhere.
        assert_eq!(pass.turns_us(Some(&near)).len(), 4);
        assert_eq!(pass.turns_us(Some(&far)), [[1.0, 2.0]]);
        let passes = [pass];
        assert!(counts(&passes, Some(&near)) && counts(&passes, None));
        assert!(!counts(&passes, Some(&far)));
    }
}
