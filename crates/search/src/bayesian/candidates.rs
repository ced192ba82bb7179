//! Where the improvement of the front is looked for: around the front, then around the best found.

use rand::{Rng, RngExt};

use super::belief::Belief;
use crate::local::neighbour;
use crate::proposals::Proposals;
use crate::variation::{crossover, mutate};
use crate::{Genome, Space};

/// Candidates around the front, and then around the best so far.
const CANDIDATES: [usize; 4] = [320, 96, 96, 96];
/// Candidates around which the next ones are.
const BEAM: usize = 8;

/// Of the candidates that were not proposed before, the one with the greatest expected improvement.
pub(super) fn best_candidate(
    proposals: &Proposals,
    belief: &Belief<'_>,
    rng: &mut impl Rng,
) -> Option<Genome> {
    let mut beam: Vec<(f64, Genome)> = Vec::new();
    for count in CANDIDATES {
        let best: Vec<Genome> = beam.iter().map(|(_, genome)| genome.clone()).collect();
        let around = if best.is_empty() {
            belief.front()
        } else {
            &best
        };
        let drawn = (0..count).map(|_| candidate(proposals.space(), around, rng));
        let mut new: Vec<Genome> = drawn.collect();
        new.sort_unstable();
        new.dedup();
        new.retain(|genome| !proposals.has_seen(genome) && !best.contains(genome));
        beam.extend(belief.improvements(&new).into_iter().zip(new));
        beam.sort_by(|a, b| b.0.total_cmp(&a.0));
        beam.truncate(BEAM);
    }
    let best = beam.into_iter().next();
    best.map(|(_, genome)| genome)
}

/// A neighbour of one of `around`, a mutated crossing of two, or one time in eight a draw.
fn candidate(space: &Space, around: &[Genome], rng: &mut impl Rng) -> Genome {
    let [a, b] = [0, 1].map(|_| &around[rng.random_range(0..around.len())]);
    match rng.random_range(0..8) {
        0 => space.draw_leaning(rng),
        1..=4 => neighbour(space, a.clone(), rng),
        _ => {
            let [mut child, _] = crossover(space, [a, b], rng);
            mutate(space, &mut child, 1.0 / a.len() as f64, rng);
            child
        }
    }
}
