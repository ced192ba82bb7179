//! Random search: the control that every method must beat.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::proposals::Proposals;
use crate::{Evaluation, Genome, SearchError, Searcher, Space, Trial};

/// Draws genomes uniformly, none twice, after given first genomes.
pub struct RandomSearch {
    proposals: Proposals,
    rng: ChaCha8Rng,
}

impl RandomSearch {
    /// A random search that begins with `first`.
    ///
    /// # Errors
    /// When a first genome is not of the space.
    pub fn new(space: &Space, first: &[Genome], seed: u64) -> Result<Self, SearchError> {
        Ok(Self {
            proposals: Proposals::new(space, first)?,
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

    fn ask(&mut self) -> Option<Trial> {
        let first = self.proposals.next_first();
        first.or_else(|| self.proposals.fresh(&mut self.rng, Space::draw))
    }

    fn tell(&mut self, _evaluation: &Evaluation) {}
}
