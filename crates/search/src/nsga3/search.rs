//! The method: children as NSGA-II has them, of parents met at random; survivors by fronts and then
//! by niches.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::directions::{das_dennis, direction_count, partitions_within};
use super::hyperplane::Hyperplane;
use super::niches::{Niche, pick};
use crate::offspring::Offspring;
use crate::proposals::Proposals;
use crate::{Evaluation, Genome, SearchError, Searcher, Space, Trial, non_dominated_sort};

/// Settings of [`NsgaIII`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NsgaIIIOptions {
    /// Members of the population.
    pub population: usize,
    /// Steps of a reference direction's coordinates between 0 and 1. When absent, the most that give
    /// no more directions than the population has members.
    pub partitions: Option<usize>,
    /// Genomes of the first population. What is missing is filled with variations of these, or
    /// with uniform draws when there are none.
    pub first: Vec<Genome>,
}

impl Default for NsgaIIIOptions {
    fn default() -> Self {
        Self {
            population: 24,
            partitions: None,
            first: Vec::new(),
        }
    }
}

/// The method.
pub struct NsgaIII {
    proposals: Proposals,
    options: NsgaIIIOptions,
    directions: Vec<Vec<f64>>,
    rng: ChaCha8Rng,
    offspring: Offspring,
    hyperplane: Hyperplane,
    parents: Vec<Evaluation>,
    /// Parents that have yet to have a child, the next one last.
    order: Vec<usize>,
    /// Evaluated in this generation.
    children: Vec<Evaluation>,
}

impl NsgaIII {
    /// A search of `space` for the front of `objectives` objectives.
    ///
    /// # Errors
    /// When there are no objectives, an option is out of range, or a first genome is not of the
    /// space.
    pub fn new(
        space: &Space,
        objectives: usize,
        options: NsgaIIIOptions,
        seed: u64,
    ) -> Result<Self, SearchError> {
        let wrong = |option, value: usize, reason| SearchError::Option {
            option,
            value: value.to_string(),
            reason,
        };
        if objectives == 0 {
            return Err(wrong("objectives", 0, "expected at least 1"));
        }
        let population = options.population;
        if population < 2 {
            return Err(wrong("population", population, "expected at least 2"));
        }
        let partitions = options.partitions;
        let partitions = partitions.unwrap_or_else(|| partitions_within(objectives, population));
        if partitions == 0 {
            return Err(wrong("partitions", 0, "expected at least 1"));
        }
        if direction_count(objectives, partitions) > population {
            let reason = "expected no more reference directions than members of the population";
            return Err(wrong("partitions", partitions, reason));
        }
        Ok(Self {
            proposals: Proposals::new(space, &options.first)?,
            directions: das_dennis(objectives, partitions),
            rng: ChaCha8Rng::seed_from_u64(seed),
            offspring: Offspring::new(options.first.clone()),
            options,
            hyperplane: Hyperplane::default(),
            parents: Vec::new(),
            order: Vec::new(),
            children: Vec::new(),
        })
    }

    /// Parents and children become the next parents: whole fronts while these fit, and of the next
    /// front who fills the niches.
    fn select(&mut self) {
        let mut all = std::mem::take(&mut self.parents);
        all.append(&mut self.children);
        self.order.clear();
        let objectives: Vec<&[f64]> = all.iter().map(|e| &e.objectives[..]).collect();
        let fronts = non_dominated_sort(&objectives);
        let mut survivors: Vec<usize> = Vec::new();
        let mut last: &[usize] = &[];
        for front in &fronts {
            if survivors.len() + front.len() > self.options.population {
                last = front;
                break;
            }
            survivors.extend(front);
        }
        let considered = survivors.iter().chain(last);
        let points: Vec<&[f64]> = considered.map(|at| objectives[*at]).collect();
        let of_first = fronts.iter().take(1).flatten();
        let first_front: Vec<&[f64]> = of_first.map(|at| objectives[*at]).collect();
        self.hyperplane.update(&points, &first_front);
        let niche = |at: &usize| {
            let normalised = self.hyperplane.normalised(objectives[*at]);
            Niche::of(&normalised, &self.directions)
        };
        let mut counts = vec![0; self.directions.len()];
        for at in &survivors {
            counts[niche(at).direction] += 1;
        }
        let candidates: Vec<Niche> = last.iter().map(niche).collect();
        let wanted = self.options.population - survivors.len();
        let picked = pick(&candidates, counts, wanted, &mut self.rng);
        survivors.extend(picked.into_iter().map(|at| last[at]));
        self.parents = survivors.into_iter().map(|at| all[at].clone()).collect();
    }
}

/// A parent at random, but all have a child before one has two.
fn parent(parents: &[Evaluation], order: &mut Vec<usize>, rng: &mut ChaCha8Rng) -> Option<Genome> {
    if order.is_empty() {
        order.extend(0..parents.len());
        order.shuffle(rng);
    }
    order.pop().map(|at| parents[at].genome.clone())
}

impl Searcher for NsgaIII {
    fn name(&self) -> &'static str {
        "nsga3"
    }

    fn options(&self) -> String {
        format!("{:?}", self.options)
    }

    fn ask(&mut self) -> Option<Trial> {
        if let Some(genome) = self.proposals.next_first() {
            return Some(genome);
        }
        if self.children.len() >= self.options.population {
            self.select();
        }
        let Self {
            parents,
            order,
            offspring,
            ..
        } = self;
        self.proposals.fresh(&mut self.rng, |space, rng| {
            offspring.next(space, rng, |rng| parent(parents, order, rng))
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.children.push(evaluation.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_bounds_of_every_gene_are_proposed() {
        let space = Space::new(vec![3, 9, 2, 5]).unwrap();
        let options = NsgaIIIOptions {
            population: 8,
            first: vec![vec![1, 4, 0, 2]],
            ..NsgaIIIOptions::default()
        };
        let mut searcher = NsgaIII::new(&space, 2, options, 1).unwrap();
        let mut reached = vec![BTreeSet::new(); 4];
        for index in 0..200 {
            let Some(Trial { genome, .. }) = searcher.ask() else {
                break;
            };
            for (gene, reached) in genome.iter().zip(&mut reached) {
                reached.insert(*gene);
            }
            let objectives = vec![f64::from(index % 7), f64::from(index % 5)];
            searcher.tell(&Trial::full(genome).with_objectives(objectives));
        }
        for (reached, count) in reached.iter().zip(space.cardinalities()) {
            assert!(reached.contains(&0) && reached.contains(&(count - 1)));
        }
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        let space = Space::new(vec![3, 2, 1]).unwrap();
        let mut searcher = NsgaIII::new(&space, 3, NsgaIIIOptions::default(), 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(Trial { genome, .. }) = searcher.ask() {
            assert!(seen.insert(genome.clone()));
            let objectives = genome.iter().map(|g| *g as f64).collect();
            searcher.tell(&Trial::full(genome).with_objectives(objectives));
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn survivors_stand_in_all_niches_of_the_front() {
        let space = Space::new(vec![101; 2]).unwrap();
        let options = NsgaIIIOptions {
            population: 11,
            ..NsgaIIIOptions::default()
        };
        let mut searcher = NsgaIII::new(&space, 2, options, 1).unwrap();
        // Crowded at one end of the line from (0, 1) to (1, 0), in other units on both axes.
        for at in (0..=10).map(|at| 10 * at).chain(91..100) {
            let x = at as f64 / 100.0;
            let objectives = vec![1000.0 * x, 0.01 * (1.0 - x)];
            searcher.tell(&Trial::full(vec![at, 0]).with_objectives(objectives));
        }
        searcher.select();
        let mut kept: Vec<usize> = searcher.parents.iter().map(|e| e.genome[0]).collect();
        kept.sort_unstable();
        assert_eq!(kept, (0..=10).map(|at| 10 * at).collect::<Vec<_>>());
    }

    #[test]
    fn wrong_options_are_named() {
        let space = Space::new(vec![3]).unwrap();
        let with = |objectives, population, partitions| {
            let options = NsgaIIIOptions {
                population,
                partitions,
                first: Vec::new(),
            };
            let searcher = NsgaIII::new(&space, objectives, options, 1);
            searcher
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(with(2, 1, None).contains("population"));
        assert!(with(3, 24, Some(0)).contains("partitions"));
        assert!(with(3, 24, Some(6)).contains("directions"));
        assert!(with(0, 24, None).contains("objectives"));
        assert!(with(3, 24, Some(5)).is_empty());
    }
}
