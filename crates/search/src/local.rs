//! Local search on the Pareto front: neighbours of its members (as Klein et al. 2024, 2405.02267,
//! search sub-networks).

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::proposals::Proposals;
use crate::{Evaluation, Genome, SearchError, Searcher, Space, Trial, dominates};

/// Changes one variable of a member of the front, or two of them at once: half of the changes are to
/// the next value, half to any, and a second variable goes the other way, so that what one gives
/// another may take.
pub struct LocalSearch {
    proposals: Proposals,
    rng: ChaCha8Rng,
    /// What nothing dominates so far.
    front: Vec<Evaluation>,
}

impl LocalSearch {
    /// A search of `space` that begins with `first`, or where that is empty with a uniform draw.
    ///
    /// # Errors
    /// When a first genome is not of the space.
    pub fn new(space: &Space, first: &[Genome], seed: u64) -> Result<Self, SearchError> {
        Ok(Self {
            proposals: Proposals::new(space, first)?,
            rng: ChaCha8Rng::seed_from_u64(seed),
            front: Vec::new(),
        })
    }
}

/// A neighbour of `genome`.
pub(crate) fn neighbour(space: &Space, mut genome: Genome, rng: &mut impl Rng) -> Genome {
    let counts = space.cardinalities();
    let index = rng.random_range(0..counts.len());
    let (before, count) = (genome[index], counts[index]);
    if count == 1 {
        return genome;
    }
    genome[index] = match rng.random_bool(0.5) {
        true => stepped(before, count, rng.random_bool(0.5)),
        false => (before + rng.random_range(1..count)) % count,
    };
    if rng.random_bool(0.5) {
        let other = rng.random_range(0..counts.len());
        if other != index && counts[other] > 1 {
            genome[other] = stepped(genome[other], counts[other], genome[index] < before);
        }
    }
    genome
}

/// One step up or down, inwards at the ends.
fn stepped(gene: usize, count: usize, up: bool) -> usize {
    match (gene, up) {
        (0, _) => 1,
        (gene, true) if gene + 1 < count => gene + 1,
        (gene, _) => gene - 1,
    }
}

impl Searcher for LocalSearch {
    fn name(&self) -> &'static str {
        "local-search"
    }

    fn options(&self) -> String {
        String::new()
    }

    fn ask(&mut self) -> Option<Trial> {
        if let Some(trial) = self.proposals.next_first() {
            return Some(trial);
        }
        let front = &self.front;
        self.proposals.fresh(&mut self.rng, |space, rng| {
            if front.is_empty() {
                return space.draw(rng);
            }
            let member = &front[rng.random_range(0..front.len())];
            neighbour(space, member.genome.clone(), rng)
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        let new = &evaluation.objectives;
        let is_covered =
            |old: &Evaluation| old.objectives == *new || dominates(&old.objectives, new);
        if !self.front.iter().any(is_covered) {
            self.front.retain(|old| !dominates(new, &old.objectives));
            self.front.push(evaluation.clone());
        }
    }
}
