//! Two profiles of the same plan, and how far they differ.

use lathe_latency::{Entry, EntryDifference, LatencyTable, Repeatability};

use super::{ProfileRequest, Run};
use crate::ProfilerError;
use crate::placement::most_common;
use crate::plan::ProfilePlan;
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

/// How far the prices of two tables differ. One factor for all prices is taken out: the machine's
/// speed over the whole profile.
fn repeatability(one: &LatencyTable, other: &LatencyTable) -> Repeatability {
    let same = |entry: &Entry| {
        let mut others = other.entries.iter();
        others.find(|e| e.block == entry.block && e.phase == entry.phase)
    };
    let both = one.entries.iter().filter_map(|e| Some((e, same(e)?)));
    let both: Vec<(&Entry, &Entry)> = both.collect();
    let prices = |(a, b): &(&Entry, &Entry)| a.price_us / b.price_us;
    let medians = |(a, b): &(&Entry, &Entry)| a.latency.median_us / b.latency.median_us;
    let raw = differences(&both.iter().map(medians).collect::<Vec<f64>>());
    let smoothed = differences(&both.iter().map(prices).collect::<Vec<f64>>());
    let named = both.iter().zip(&smoothed);
    let mut differences: Vec<EntryDifference> = named
        .map(|((entry, _), &share)| EntryDifference {
            block: entry.block,
            phase: entry.phase,
            share,
        })
        .collect();
    differences.sort_by(|a, b| b.share.total_cmp(&a.share));
    differences.truncate(NAMED);
    Repeatability {
        entries: smoothed.len(),
        median: median(&smoothed),
        p95: quantile(&smoothed, 0.95),
        worst: quantile(&smoothed, 1.0),
        raw_median: median(&raw),
        raw_p95: quantile(&raw, 0.95),
        most_different: differences,
        interference: None,
    }
}

/// How far each ratio is from their common level, as a share of it.
fn differences(ratios: &[f64]) -> Vec<f64> {
    let level = median(ratios);
    let shares = ratios.iter().map(|ratio| (ratio / level - 1.0).abs());
    shares.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_that_all_prices_share_is_no_difference() {
        let apart = differences(&[1.2, 1.2, 1.2, 1.26, 1.2]);
        let expected = [0.0, 0.0, 0.0, 0.05, 0.0];
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
        assert!(apart.iter().zip(&expected).all(close), "{apart:?}");
    }
}
