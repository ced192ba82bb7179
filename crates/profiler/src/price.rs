//! From turns to prices: shares of the reference's latency, times that latency.

use std::collections::BTreeMap;

use lathe_arch::{ModelConfig, Phase, Precision};
use lathe_latency::{LatencyStatistics, Placement, Reference};

use crate::plan::{Probe, ProfilePlan, kind};
use crate::statistics::{median, median_absolute_deviation, median_ci95, quantile};
use crate::visit::{PassRecord, Record, visits};

/// The phase at which a reference chain runs when a block is at `phase`: it has no KV cache, so
/// the depth makes no difference to it.
pub(crate) fn reference_phase(phase: Phase) -> Phase {
    match phase {
        Phase::Prefill { .. } => phase,
        Phase::Decode { batch, .. } => Phase::Decode { batch, past_len: 0 },
    }
}

/// Latencies of whatever opened the turns of passes, in microseconds: in `placement`, or wherever
/// the processors were where nothing was timed there.
pub(crate) fn opening_latencies_us<'a>(
    passes: impl Iterator<Item = (Precision, Phase, &'a PassRecord)>,
    placement: Option<&Placement>,
) -> BTreeMap<(Precision, Phase), Vec<f64>> {
    let passes: Vec<_> = passes.collect();
    let collect = |placement: Option<&Placement>| {
        let mut all: BTreeMap<(Precision, Phase), Vec<f64>> = BTreeMap::new();
        for (precision, phase, pass) in &passes {
            let turns = pass.turns_us(placement);
            let latencies = turns.iter().filter_map(|turn| turn.first().copied());
            all.entry((*precision, *phase))
                .or_default()
                .extend(latencies);
        }
        all
    };
    let mut latencies = collect(None);
    if placement.is_some() {
        let there = collect(placement).into_iter();
        latencies.extend(there.filter(|(_, latencies)| !latencies.is_empty()));
    }
    latencies
}

/// The latency of a reference chain at `phase`: measured, or on the line between measured prompts.
pub(crate) fn reference_us(
    references: &[Reference],
    precision: Precision,
    phase: Phase,
) -> Option<f64> {
    let asked = reference_phase(phase);
    let mut alike: Vec<(usize, f64)> = references
        .iter()
        .filter(|r| {
            r.precision == precision
                && kind(&r.phase) == kind(&asked)
                && r.phase.batch() == asked.batch()
        })
        .map(|r| (r.phase.new_tokens(), r.median_us))
        .collect();
    alike.sort_by_key(|(tokens, _)| *tokens);
    let tokens = asked.new_tokens();
    let above = alike.iter().find(|(at, _)| *at >= tokens)?;
    if above.0 == tokens {
        return Some(above.1);
    }
    let below = alike.iter().rev().find(|(at, _)| *at < tokens)?;
    let share = (tokens - below.0) as f64 / (above.0 - below.0) as f64;
    Some(below.1 + share * (above.1 - below.1))
}

/// Latency of one copy as a share of the reference's, turn by turn: the slope between the two last
/// graphs, or the last one alone where the shorter chain has no copies.
pub(crate) fn shares(
    pass: &PassRecord,
    lengths: [usize; 2],
    placement: Option<&Placement>,
) -> Vec<f64> {
    let turns = pass.turns_us(placement);
    let copies = (lengths[1] - lengths[0]).max(1) as f64;
    let share = |turn: &Vec<f64>| match (turn.as_slice(), lengths) {
        // What stands between is a filler.
        ([reference, .., only], [0, _]) => Some(only / reference),
        ([reference, .., short, long], _) => Some((long - short) / copies / reference),
        _ => None,
    };
    turns.iter().filter_map(share).collect()
}

/// Shares of a reference, visit by visit.
pub(crate) type VisitShares = Vec<Vec<f64>>;

/// The shares in `placement` of all visits that count, by what was visited and at which phase.
pub(crate) fn shares_of_visits(
    records: &[Record],
    plan: &ProfilePlan,
    model: &ModelConfig,
    placement: Option<&Placement>,
) -> BTreeMap<(Probe, Phase), VisitShares> {
    let mut all: BTreeMap<(Probe, Phase), VisitShares> = BTreeMap::new();
    for visit in visits(records) {
        let lengths = plan.chain_lengths(&visit.probe, model);
        for pass in &visit.passes {
            let shares = shares(pass, lengths, placement);
            if !shares.is_empty() {
                let key = (visit.probe, pass.phase);
                all.entry(key).or_default().push(shares);
            }
        }
    }
    all
}

/// Statistics of a price from its shares of a reference.
pub(crate) fn statistics(shares: &[f64], reference_us: f64) -> LatencyStatistics {
    let prices: Vec<f64> = shares.iter().map(|share| share * reference_us).collect();
    LatencyStatistics {
        median_us: median(&prices),
        min_us: quantile(&prices, 0.0),
        p90_us: quantile(&prices, 0.9),
        mad_us: median_absolute_deviation(&prices),
        ci95_us: median_ci95(&prices),
        samples: prices.len(),
    }
}

#[cfg(test)]
mod tests {
    use lathe_agent::Environment;

    use super::*;

    fn prefill(seq_len: usize) -> Phase {
        Phase::Prefill { batch: 1, seq_len }
    }

    #[test]
    fn a_slower_machine_does_not_change_a_share() {
        let turn = |speed: u64| vec![4000 * speed, 1000 * speed, 9000 * speed];
        let pass = PassRecord {
            phase: prefill(8),
            durations_ns: (0..12).map(|i| turn(1 + i % 3)).collect(),
            round_trips_ns: Vec::new(),
            environment: Environment::default(),
        };
        let shares = shares(&pass, [2, 10], None);
        assert_eq!(shares.len(), 12);
        assert!(shares.iter().all(|share| (share - 0.25).abs() < 1e-12));
        assert_eq!(statistics(&shares, 400.0).median_us, 100.0);
    }

    #[test]
    fn references_between_prompts_are_interpolated() {
        let reference = |tokens, median_us| Reference {
            precision: Precision::F32,
            phase: prefill(tokens),
            copies: 3,
            median_us,
            samples: 4,
        };
        let references = [reference(32, 10.0), reference(128, 40.0)];
        let at = |tokens| reference_us(&references, Precision::F32, prefill(tokens));
        assert_eq!(at(128), Some(40.0));
        assert_eq!(at(80), Some(25.0));
        assert_eq!(at(16), None);
        assert_eq!(
            reference_us(&references, Precision::Int8, prefill(32)),
            None
        );
    }

    #[test]
    fn levels_are_those_of_a_placement_where_it_was_seen() {
        let pass = |tokens, round_trip_ns, ns| PassRecord {
            phase: prefill(tokens),
            durations_ns: vec![vec![ns, 1]; 4],
            round_trips_ns: vec![round_trip_ns; 5],
            environment: Environment::default(),
        };
        let passes = [
            pass(32, 80, 10_000),
            pass(32, 350, 30_000),
            pass(128, 350, 50_000),
        ];
        let all = passes.iter().map(|pass| (Precision::F32, pass.phase, pass));
        let near = crate::placement::around(80);
        let levels = opening_latencies_us(all, Some(&near));
        assert_eq!(levels[&(Precision::F32, prefill(32))], [10.0; 4]);
        // At 128 tokens nothing was timed there.
        assert_eq!(levels[&(Precision::F32, prefill(128))], [50.0; 4]);
    }
}
