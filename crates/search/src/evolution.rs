//! Regularised evolution (Real et al. 2019, 1802.01548) for several objectives: the best of a sample
//! has a child, and the oldest dies, however good it is.

use std::collections::VecDeque;

use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::proposals::Proposals;
use crate::variation::scatter;
use crate::{
    Evaluation, Genome, SearchError, Searcher, Space, Trial, crowding_distance, non_dominated_sort,
};

/// Settings of [`RegularizedEvolution`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvolutionOptions {
    /// Members of the population.
    pub population: usize,
    /// Members among which a parent is chosen.
    pub sample: usize,
    /// Genomes of the first population; what is missing is drawn uniformly.
    pub first: Vec<Genome>,
}

impl Default for EvolutionOptions {
    /// The population of 100 and the sample of 10 of Syne Tune's multi-objective version.
    fn default() -> Self {
        Self {
            population: 100,
            sample: 10,
            first: Vec::new(),
        }
    }
}

/// The method. Of a sample, the best is on the lowest front of the population, and loneliest there.
pub struct RegularizedEvolution {
    proposals: Proposals,
    options: EvolutionOptions,
    rng: ChaCha8Rng,
    /// The oldest first.
    population: VecDeque<Evaluation>,
}

impl RegularizedEvolution {
    /// A search of `space`.
    ///
    /// # Errors
    /// When an option is out of range or a first genome is not of the space.
    pub fn new(space: &Space, options: EvolutionOptions, seed: u64) -> Result<Self, SearchError> {
        if !(1..=options.population).contains(&options.sample) {
            return Err(SearchError::Option {
                option: "sample",
                value: options.sample.to_string(),
                reason: "expected at least 1, and at most the population",
            });
        }
        Ok(Self {
            proposals: Proposals::new(space, &options.first)?,
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            population: VecDeque::new(),
        })
    }

    fn parent(&mut self) -> Option<Genome> {
        let all = self.population.len();
        if all < self.options.population {
            return None;
        }
        let objectives = self.population.iter().map(|e| &e.objectives[..]);
        let places = places(&objectives.collect::<Vec<_>>());
        let drawn = sample(&mut self.rng, all, self.options.sample);
        let best = drawn.iter().min_by_key(|at| places[*at])?;
        Some(self.population[best].genome.clone())
    }
}

/// Where each stands when all are sorted by front and then by crowding, the loneliest first.
pub(crate) fn places(objectives: &[&[f64]]) -> Vec<usize> {
    let mut places = vec![0; objectives.len()];
    let mut next = 0;
    for front in non_dominated_sort(objectives) {
        let points: Vec<&[f64]> = front.iter().map(|at| objectives[*at]).collect();
        let mut lonely: Vec<_> = crowding_distance(&points).into_iter().zip(front).collect();
        lonely.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, at) in lonely {
            places[at] = next;
            next += 1;
        }
    }
    places
}

impl Searcher for RegularizedEvolution {
    fn name(&self) -> &'static str {
        "evolution"
    }

    fn options(&self) -> String {
        format!("{:?}", self.options)
    }

    fn ask(&mut self) -> Option<Trial> {
        if let Some(trial) = self.proposals.next_first() {
            return Some(trial);
        }
        let Some(parent) = self.parent() else {
            return self.proposals.fresh(&mut self.rng, Space::draw);
        };
        self.proposals.fresh(&mut self.rng, |space, rng| {
            let mut child = parent.clone();
            let genes = 1 + usize::from(rng.random_bool(0.5));
            scatter(space, &mut child, genes, rng);
            child
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.population.push_back(evaluation.clone());
        if self.population.len() > self.options.population {
            self.population.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_dies() {
        let space = Space::new(vec![5; 4]).unwrap();
        let options = EvolutionOptions {
            population: 4,
            sample: 2,
            first: vec![vec![0; 4]],
        };
        let mut evolution = RegularizedEvolution::new(&space, options, 1).unwrap();
        for _ in 0..6 {
            let trial = evolution.ask().unwrap();
            // The first is the best there is.
            let objectives = vec![trial.genome.iter().sum::<usize>() as f64];
            evolution.tell(&trial.with_objectives(objectives));
        }
        assert_eq!(evolution.population.len(), 4);
        let best = evolution.population.iter().any(|e| e.genome == [0; 4]);
        assert!(!best);
    }

    #[test]
    fn a_sample_larger_than_the_population_is_refused() {
        let space = Space::new(vec![5]).unwrap();
        let options = EvolutionOptions {
            population: 3,
            sample: 4,
            first: Vec::new(),
        };
        let refused = RegularizedEvolution::new(&space, options, 1).err().unwrap();
        assert!(refused.to_string().contains("sample"));
    }
}
