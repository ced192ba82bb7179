//! Children of a generation, the same in NSGA-II and NSGA-III: simulated binary crossover, then
//! polynomial mutation.

use rand::{Rng, RngExt};

use crate::variation::{crossover, mutate};
use crate::{Genome, Space};

/// Probability that a child has two parents, where nothing else is said.
pub(crate) const CROSSOVER_PROBABILITY: f64 = 0.9;

/// Makes children two at a time.
pub(crate) struct Offspring {
    /// Varied while there are no parents.
    given: Vec<Genome>,
    crossover_probability: f64,
    /// One over the number of genes when absent.
    mutation_probability: Option<f64>,
    /// The other child of the last pair.
    sibling: Option<Genome>,
}

impl Offspring {
    /// Children by the usual probabilities; before there are parents, of two of `given`.
    pub fn new(given: Vec<Genome>) -> Self {
        Self {
            given,
            crossover_probability: CROSSOVER_PROBABILITY,
            mutation_probability: None,
            sibling: None,
        }
    }

    pub fn with_probabilities(self, crossover: f64, mutation: Option<f64>) -> Self {
        Self {
            crossover_probability: crossover,
            mutation_probability: mutation,
            ..self
        }
    }

    /// The next child, of two calls of `parent`. Where there are no parents yet it has two given
    /// genomes for them, and where there are none of these either it is a uniform draw.
    pub fn next<R: Rng>(
        &mut self,
        space: &Space,
        rng: &mut R,
        mut parent: impl FnMut(&mut R) -> Option<Genome>,
    ) -> Genome {
        if let Some(child) = self.sibling.take() {
            return child;
        }
        let given = &self.given;
        let one_of_given = |rng: &mut R| given[rng.random_range(0..given.len())].clone();
        let parents = match ([parent(rng), parent(rng)], given.is_empty()) {
            ([Some(a), Some(b)], _) => [a, b],
            (_, false) => [one_of_given(rng), one_of_given(rng)],
            (_, true) => return space.draw(rng),
        };
        let mut children = match rng.random_bool(self.crossover_probability) {
            true => crossover(space, [&parents[0], &parents[1]], rng),
            false => parents,
        };
        let default = 1.0 / space.cardinalities().len() as f64;
        let probability = self.mutation_probability.unwrap_or(default);
        for child in &mut children {
            mutate(space, child, probability, rng);
        }
        let [child, sibling] = children;
        self.sibling = Some(sibling);
        child
    }
}
