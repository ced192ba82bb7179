//! Random search with as many genomes at every cost: uniform draws of many variables all cost about
//! the same, and the ends of the front are never seen.
//!
//! Costs are cut into bins of equal width, of which each takes as many genomes as the cap says; the
//! cap rises when nearly all bins are full (the sampler of whittle's super-network training, for the
//! search of 2410.06479). whittle rejects uniform draws, which in spaces of many variables never fall
//! in the outer bins, so here a draw leans to the first or the last choice of all variables.

use std::ops::RangeInclusive;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::proposals::Proposals;
use crate::{Cost, Evaluation, Genome, SearchError, Searcher, Space, Trial};

/// Draws for one genome; when none of them falls in a bin that takes it, the cap rises.
const MAX_TRIES: usize = 1000;
/// Settings of [`StratifiedRandomSearch`].
#[derive(Debug, Clone, PartialEq)]
pub struct StratifiedOptions {
    /// Bins of equal width.
    pub bins: usize,
    /// Bins that need not be full for the cap to rise.
    pub tolerance: usize,
    /// Costs among which the bins are; what lies outside is rejected. When absent, from the least to
    /// the greatest cost seen, of genomes drawn and those of all first and all last choices.
    pub range: Option<RangeInclusive<f64>>,
    /// Genomes that are evaluated first, whatever they cost.
    pub first: Vec<Genome>,
}

impl Default for StratifiedOptions {
    /// The 20 bins and the tolerance of 4 of whittle.
    fn default() -> Self {
        Self {
            bins: 20,
            tolerance: 4,
            range: None,
            first: Vec::new(),
        }
    }
}

/// The method.
pub struct StratifiedRandomSearch {
    proposals: Proposals,
    options: StratifiedOptions,
    cost: Cost,
    rng: ChaCha8Rng,
    /// The least and the greatest cost seen.
    seen: [f64; 2],
    /// Of what was proposed.
    costs: Vec<f64>,
    cap: usize,
    tries: usize,
}

impl StratifiedRandomSearch {
    /// A search of `space` by `cost`.
    ///
    /// # Errors
    /// When there are no bins, the tolerance leaves none to be filled, the range is not one, or a first
    /// genome is not of the space.
    pub fn new(
        space: &Space,
        cost: Cost,
        options: StratifiedOptions,
        seed: u64,
    ) -> Result<Self, SearchError> {
        let wrong = |option, value, reason| SearchError::Option {
            option,
            value,
            reason,
        };
        if options.bins == 0 {
            return Err(wrong("bins", "0".to_owned(), "expected at least 1"));
        }
        if options.tolerance >= options.bins {
            let value = options.tolerance.to_string();
            return Err(wrong("tolerance", value, "expected fewer than the bins"));
        }
        let is_sound = |range: &RangeInclusive<f64>| {
            range.start().is_finite() && range.end().is_finite() && !range.is_empty()
        };
        if let Some(range) = options.range.as_ref().filter(|range| !is_sound(range)) {
            let value = format!("{range:?}");
            return Err(wrong("range", value, "expected two costs, the lower first"));
        }
        let lowest = vec![0; space.cardinalities().len()];
        let highest = space.cardinalities().iter().map(|count| count - 1);
        let ends = [cost(&lowest), cost(&highest.collect::<Genome>())];
        let mut search = Self {
            proposals: Proposals::new(space, &options.first)?,
            options,
            cost,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seen: [f64::INFINITY, f64::NEG_INFINITY],
            costs: Vec::new(),
            cap: 1,
            tries: 0,
        };
        ends.into_iter().for_each(|cost| search.see(cost));
        Ok(search)
    }

    /// Draws so far, those that were rejected among them.
    pub fn tries(&self) -> usize {
        self.tries
    }

    fn see(&mut self, cost: f64) {
        if cost.is_finite() {
            self.seen = [self.seen[0].min(cost), self.seen[1].max(cost)];
        }
    }

    /// The bin of a cost, where there is one.
    fn bin(&self, cost: f64) -> Option<usize> {
        let [low, high] = match &self.options.range {
            Some(range) => [*range.start(), *range.end()],
            None => self.seen,
        };
        let bins = self.options.bins;
        let share = if high > low {
            (cost - low) / (high - low)
        } else {
            0.0
        };
        let is_inside = (low..=high).contains(&cost);
        is_inside.then(|| ((share * bins as f64) as usize).min(bins - 1))
    }

    /// Genomes in every bin.
    fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.options.bins];
        for bin in self.costs.iter().filter_map(|cost| self.bin(*cost)) {
            counts[bin] += 1;
        }
        counts
    }

    /// A draw of which the bin has room.
    fn accepted(&mut self) -> Option<Genome> {
        for _ in 0..MAX_TRIES {
            self.tries += 1;
            let genome = self.proposals.space().draw_leaning(&mut self.rng);
            if self.proposals.has_seen(&genome) {
                continue;
            }
            let cost = (self.cost)(&genome);
            self.see(cost);
            let counts = self.counts();
            let has_room = self.bin(cost).is_some_and(|bin| counts[bin] < self.cap);
            if has_room && self.proposals.is_new(&genome) {
                return Some(genome);
            }
        }
        None
    }

    /// Keeps the cost of what is proposed, and raises the cap when nearly all bins are full.
    fn count(&mut self, genome: &Genome) {
        let cost = (self.cost)(genome);
        self.see(cost);
        self.costs.push(cost);
        let full = self
            .counts()
            .iter()
            .filter(|count| **count >= self.cap)
            .count();
        if full + self.options.tolerance >= self.options.bins {
            self.cap += 1;
        }
    }
}

impl Searcher for StratifiedRandomSearch {
    fn name(&self) -> &'static str {
        "stratified"
    }

    fn options(&self) -> String {
        format!("{:?}", self.options)
    }

    fn ask(&mut self) -> Option<Trial> {
        let given = self.proposals.next_first();
        let trial = match given.or_else(|| self.accepted().map(Trial::full)) {
            Some(trial) => trial,
            None => {
                self.cap += 1;
                self.proposals
                    .fresh(&mut self.rng, |space, rng| space.draw_leaning(rng))?
            }
        };
        self.count(&trial.genome);
        Some(trial)
    }

    fn tell(&mut self, _evaluation: &Evaluation) {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::RandomSearch;

    fn cost(genome: &[usize]) -> f64 {
        let each = genome.iter().enumerate();
        each.map(|(i, size)| (1 + i % 3) as f64 * *size as f64)
            .sum()
    }

    /// Genomes in each of 20 bins of the cost, of 100.
    fn bins(space: &Space, searcher: &mut dyn Searcher) -> Vec<usize> {
        let most = cost(&vec![8; space.cardinalities().len()]);
        let mut bins = vec![0; 20];
        for _ in 0..100 {
            let share = cost(&searcher.ask().unwrap().genome) / most;
            bins[((20.0 * share) as usize).min(19)] += 1;
        }
        bins
    }

    #[test]
    fn bins_fill_evenly_where_uniform_draws_fill_the_middle() {
        let space = Space::new(vec![9; 60]).unwrap();
        for seed in 0..3 {
            let mut random = RandomSearch::new(&space, &[], seed).unwrap();
            let random = bins(&space, &mut random);
            assert!(random.iter().filter(|count| **count > 0).count() < 8);
            let options = StratifiedOptions::default();
            let mut search =
                StratifiedRandomSearch::new(&space, Box::new(cost), options, seed).unwrap();
            let ours = bins(&space, &mut search);
            println!("{ours:?} after {} draws, {random:?}", search.tries());
            assert!(ours.iter().all(|count| (2..=7).contains(count)));
            assert!(search.tries() >= 100);
        }
    }

    #[test]
    fn only_the_given_range_is_filled() {
        let space = Space::new(vec![9; 60]).unwrap();
        let first = vec![vec![8; 60]];
        let options = StratifiedOptions {
            range: Some(100.0..=300.0),
            first: first.clone(),
            ..StratifiedOptions::default()
        };
        let mut search = StratifiedRandomSearch::new(&space, Box::new(cost), options, 1).unwrap();
        assert_eq!(
            search.ask().map(|trial| trial.genome).as_ref(),
            first.first()
        );
        for _ in 0..60 {
            let cost = cost(&search.ask().unwrap().genome);
            assert!((100.0..=300.0).contains(&cost));
        }
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        let space = Space::new(vec![3, 2, 1]).unwrap();
        let options = StratifiedOptions::default();
        let cost: Cost = Box::new(|_| 1.0);
        let mut search = StratifiedRandomSearch::new(&space, cost, options, 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(Trial { genome, .. }) = search.ask() {
            assert!(seen.insert(genome));
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn wrong_options_are_named() {
        let space = Space::new(vec![3]).unwrap();
        let with = |options| {
            let search = StratifiedRandomSearch::new(&space, Box::new(cost), options, 1);
            search.err().unwrap().to_string()
        };
        let default = StratifiedOptions::default;
        let bins = 0;
        assert!(with(StratifiedOptions { bins, ..default() }).contains("bins"));
        let tolerance = 20;
        assert!(
            with(StratifiedOptions {
                tolerance,
                ..default()
            })
            .contains("tolerance")
        );
        let range = Some(2.0..=1.0);
        assert!(with(StratifiedOptions { range, ..default() }).contains("range"));
        let first = vec![vec![3]];
        assert!(with(StratifiedOptions { first, ..default() }).contains("[3]"));
    }
}
