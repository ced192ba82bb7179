//! Random search: the control that every method must beat.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Evaluation, Genome, SearchError, Searcher, Space};

/// Draws in a row that may repeat earlier genomes before the space counts as exhausted.
const MAX_REPEATS: usize = 10_000;

/// Draws genomes uniformly, none twice, after given first genomes.
pub struct RandomSearch {
    space: Space,
    first: Vec<Genome>,
    seen: BTreeSet<Genome>,
    rng: ChaCha8Rng,
}

impl RandomSearch {
    /// A random search that begins with `first`.
    ///
    /// # Errors
    /// When a first genome is not of the space.
    pub fn new(space: &Space, first: &[Genome], seed: u64) -> Result<Self, SearchError> {
        for genome in first {
            space.check(genome)?;
        }
        Ok(Self {
            space: space.clone(),
            first: first.iter().rev().cloned().collect(),
            seen: BTreeSet::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        })
    }
}

impl Searcher for RandomSearch {
    fn name(&self) -> &'static str {
        "random"
    }

    fn options(&self) -> String {
        String::new()
    }

    fn ask(&mut self) -> Option<Genome> {
        while let Some(genome) = self.first.pop() {
            if self.seen.insert(genome.clone()) {
                return Some(genome);
            }
        }
        for _ in 0..MAX_REPEATS {
            let genome = self.space.draw(&mut self.rng);
            if self.seen.insert(genome.clone()) {
                return Some(genome);
            }
        }
        None
    }

    fn tell(&mut self, _evaluation: &Evaluation) {}
}
