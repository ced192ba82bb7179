//! What a profile does next, and when it is complete.

use std::collections::BTreeMap;

use lathe_arch::Precision;
use lathe_latency::Placement;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{PAUSE, Run, Work};
use crate::ProfilerError;
use crate::deviation::{Deviations, Z95};
use crate::placement::around;
use crate::plan::Probe;
use crate::price::shares_of_visits;
use crate::smooth::{Noisy, smooth};
use crate::statistics::{mean, median};
use crate::visit::{Record, counts, networks, visits};

/// Visits of one block at most.
const MOST_VISITS: usize = 64;

/// Visits that count in a placement.
struct Tally<'p> {
    placement: Option<&'p Placement>,
    probes: BTreeMap<Probe, usize>,
    networks: BTreeMap<(Precision, usize), usize>,
}

impl Run<'_> {
    /// Seconds spent on visits to blocks that count.
    fn spent_s(&self, placement: Option<&Placement>) -> f64 {
        let there = visits(&self.records).filter(|visit| counts(&visit.passes, placement));
        there.map(|visit| visit.seconds).sum()
    }

    /// Seconds spent on anything, with the pauses after disturbed visits.
    fn all_s(&self) -> f64 {
        self.useful_s() + self.lost_s()
    }

    /// Seconds of visits that were not disturbed.
    pub(super) fn useful_s(&self) -> f64 {
        let useful = self.records.iter().filter(|r| r.disturbed().is_none());
        useful.map(Record::seconds).sum()
    }

    /// Seconds lost to visits that were disturbed, and to the pauses after them.
    pub(super) fn lost_s(&self) -> f64 {
        let disturbed = self.records.iter().filter(|r| r.disturbed().is_some());
        disturbed.map(|r| r.seconds() + PAUSE.as_secs_f64()).sum()
    }

    pub(super) fn share_done(&self, placement: Option<&Placement>) -> f64 {
        let tally = self.tally(placement);
        let work = (self.share_of_blocks(&tally) + self.share_of_networks(&tally)) / 2.0;
        let time = self.all_s() / self.plan.limit_s.max(1e-9);
        work.max(time).min(1.0)
    }

    /// What was visited in `placement`, and how often.
    fn tally<'p>(&self, placement: Option<&'p Placement>) -> Tally<'p> {
        let drawn = self.networks.iter().flat_map(|(&precision, drawn)| {
            (0..drawn.len()).map(move |index| ((precision, index), 0))
        });
        let probes = self.plan.probes().into_iter();
        let mut tally = Tally {
            placement,
            probes: probes.map(|probe| (probe, 0)).collect(),
            networks: drawn.collect(),
        };
        for visit in visits(&self.records).filter(|visit| counts(&visit.passes, placement)) {
            *tally.probes.entry(visit.probe).or_default() += 1;
        }
        for visit in networks(&self.records).filter(|visit| counts(&visit.passes, placement)) {
            *tally
                .networks
                .entry((visit.precision, visit.index))
                .or_default() += 1;
        }
        tally
    }

    /// Share of the visits to blocks that have to be made, or of the time for them.
    fn share_of_blocks(&self, tally: &Tally<'_>) -> f64 {
        let plan = &self.plan;
        let made = tally
            .probes
            .values()
            .map(|visits| (*visits).min(plan.rounds));
        let first = plan.rounds * tally.probes.len();
        let first_share = made.sum::<usize>() as f64 / first.max(1) as f64;
        let time_share = self.spent_s(tally.placement) / plan.budget_s.max(1e-9);
        time_share.min(first_share).min(1.0)
    }

    fn share_of_networks(&self, tally: &Tally<'_>) -> f64 {
        let wanted = self.plan.network_visits;
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
    pub(super) fn next(
        &mut self,
        placement: Option<&Placement>,
    ) -> Result<Option<Work>, ProfilerError> {
        if !self.records.iter().any(|r| matches!(r, Record::Roofs(_))) {
            return Ok(Some(Work::Roofs));
        }
        if self.all_s() >= self.plan.limit_s {
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
        if self.spent_s(tally.placement) >= self.plan.budget_s {
            return None;
        }
        self.least_known(tally).map(Work::Visit)
    }

    /// The network with the fewest visits, in an order of its own.
    fn next_network(&self, tally: &Tally<'_>) -> Option<Work> {
        let visits = &tally.networks;
        let wanted = self.plan.network_visits;
        let mut order: Vec<(Precision, usize)> = visits.keys().copied().collect();
        let done = visits.values().min().copied().unwrap_or(0);
        let seed = self.plan.seed.wrapping_add(done as u64);
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let open = order.into_iter().filter(|key| visits[key] < wanted);
        let fewest = open.min_by_key(|key| visits[key]);
        fewest.map(|(precision, index)| Work::Network(precision, index))
    }

    /// The probe at which a second of measuring takes most from the squared error of a price that is
    /// not known well enough.
    fn least_known(&self, tally: &Tally<'_>) -> Option<Probe> {
        let plan = &self.plan;
        let shares = shares_of_visits(&self.records, plan, self.request.model, tally.placement);
        let deviations = Deviations::of(&shares);
        let noisy: Vec<Noisy> = shares
            .iter()
            .map(|((probe, phase), visits)| {
                let share = median(&visits.concat());
                Noisy {
                    block: probe.block,
                    phase: *phase,
                    price: share,
                    error: share.abs() * deviations.error(probe, *phase, visits),
                }
            })
            .collect();
        let mut errors: BTreeMap<Probe, f64> = BTreeMap::new();
        for ((probe, _), smoothed) in shares.keys().zip(smooth(&noisy)) {
            let error = smoothed.error / smoothed.price.abs().max(f64::MIN_POSITIVE);
            let widest = errors.entry(*probe).or_default();
            *widest = widest.max(error);
        }
        let seconds = self.seconds_of_visits();
        let gain = |probe: &Probe, error: f64| {
            let count = tally.probes[probe] as f64;
            error.powi(2) / (count + 1.0) / seconds.get(probe).copied().unwrap_or(1.0)
        };
        let open = errors.into_iter().filter(|(probe, error)| {
            Z95 * error > plan.target && tally.probes[probe] < MOST_VISITS
        });
        let best = open.max_by(|a, b| gain(&a.0, a.1).total_cmp(&gain(&b.0, b.1)));
        best.map(|(probe, _)| probe)
    }

    /// What a visit to each block takes on average.
    fn seconds_of_visits(&self) -> BTreeMap<Probe, f64> {
        let mut all: BTreeMap<Probe, Vec<f64>> = BTreeMap::new();
        for visit in visits(&self.records) {
            all.entry(visit.probe).or_default().push(visit.seconds);
        }
        let means = all.into_iter();
        means
            .map(|(probe, seconds)| (probe, mean(&seconds).max(1e-3)))
            .collect()
    }
}
