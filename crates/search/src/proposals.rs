//! What has been proposed, and what is to be proposed first: shared by all methods.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::Rng;

use crate::variation::scatter;
use crate::{Genome, SearchError, Space, Trial};

/// Tries to find a genome that was not proposed before.
const MAX_REPEATS: usize = 10_000;
/// After so many tries in vain, one more gene is given any value.
const REPEATS_A_GENE: usize = 100;

/// Genomes of a space, none of them twice.
pub(crate) struct Proposals {
    space: Space,
    /// Fingerprints: a long search proposes more genomes than are to be kept in memory.
    seen: HashSet<u128>,
    /// Given genomes not yet proposed, the next one last.
    first: Vec<Genome>,
}

impl Proposals {
    /// Begins with `first`.
    ///
    /// # Errors
    /// When one of them is not of the space.
    pub fn new(space: &Space, first: &[Genome]) -> Result<Self, SearchError> {
        for genome in first {
            space.check(genome)?;
        }
        Ok(Self {
            space: space.clone(),
            seen: HashSet::new(),
            first: first.iter().rev().cloned().collect(),
        })
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Whether `genome` was proposed before.
    pub fn has_seen(&self, genome: &[usize]) -> bool {
        self.seen.contains(&fingerprint(genome))
    }

    /// Whether `genome` was not proposed before; from now on it was.
    pub fn is_new(&mut self, genome: &Genome) -> bool {
        self.seen.insert(fingerprint(genome))
    }

    /// The next of those that were given.
    pub fn next_first(&mut self) -> Option<Trial> {
        while let Some(genome) = self.first.pop() {
            if self.is_new(&genome) {
                return Some(Trial::full(genome));
            }
        }
        None
    }

    /// A genome of `propose` that was not proposed before. Where it gives none, more and more genes
    /// are changed at random; `None` when that does not help either.
    pub fn fresh<R: Rng>(
        &mut self,
        rng: &mut R,
        mut propose: impl FnMut(&Space, &mut R) -> Genome,
    ) -> Option<Trial> {
        for repeats in 0..MAX_REPEATS {
            let mut genome = propose(&self.space, rng);
            scatter(&self.space, &mut genome, repeats / REPEATS_A_GENE, rng);
            if self.is_new(&genome) {
                return Some(Trial::full(genome));
            }
        }
        None
    }
}

/// 128 bits: among a million genomes two are alike by chance once in 10^26 searches.
fn fingerprint(genome: &[usize]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, genome).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
