//! Two profiles of the same plan, and how far they differ.

use lathe_arch::{Phase, Precision};
use lathe_latency::{EntryDifference, LatencyTable, Repeatability};

use super::{ProfileRequest, Run};
use crate::ProfilerError;
use crate::placement::most_common;
use crate::plan::ProfilePlan;
use crate::price::reference_us;
use crate::statistics::{median, quantile};
use crate::visit::round_trips;

/// Entries that are named because their prices differ most.
const NAMED: usize = 3;

/// What becomes of the second of two profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondProfile {
    /// Nothing: the two differ by the noise of the measurement.
    Undisturbed,
    /// A busy loop runs beside three in ten of its visits.
    Disturbed,
}

/// Makes two profiles of the same plan, visit by visit in turn, each with an agent, orders and a
/// journal of its own; writes the first as a table that says how far they differ (A/A).
///
/// # Errors
/// As for `profile`.
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
            let shares = runs
                .each_ref()
                .map(|run| run.share_done(placement.as_ref()));
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
    let [mut table, other] = runs.map(|run| {
        let request = run.request;
        run.into_recorded().table_in(request, placement)
    });
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
        let at = |table: &LatencyTable| reference_us(&table.protocol.references, precision, phase);
        Some(at(one)? / at(other)?)
    };
    let (mut differences, mut raw) = (Vec::new(), Vec::new());
    for entry in &one.entries {
        let mut others = other.entries.iter();
        let same = others.find(|e| e.block == entry.block && e.phase == entry.phase);
        let Some((same, level)) = same.zip(level(entry.block.precision(), entry.phase)) else {
            continue;
        };
        let difference = |a: f64, b: f64| (a / (b * level) - 1.0).abs();
        differences.push(EntryDifference {
            block: entry.block,
            phase: entry.phase,
            share: difference(entry.price_us, same.price_us),
        });
        raw.push(difference(entry.latency.median_us, same.latency.median_us));
    }
    let prices: Vec<f64> = differences.iter().map(|entry| entry.share).collect();
    differences.sort_by(|a, b| b.share.total_cmp(&a.share));
    differences.truncate(NAMED);
    Repeatability {
        entries: prices.len(),
        median: median(&prices),
        p95: quantile(&prices, 0.95),
        worst: quantile(&prices, 1.0),
        raw_median: median(&raw),
        raw_p95: quantile(&raw, 0.95),
        most_different: differences,
        interference: None,
    }
}
