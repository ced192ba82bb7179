//! Genomes from which a search begins: the full model in every precision, what it is told to begin with,
//! what the additive model recommends, and uniform prunings; or without any knowledge of the model, ends
//! of the space and draws from it.

use lathe_arch::SearchSpace;
use lathe_search::{Genome, Space};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// First genomes, the full model first, none twice.
pub(crate) fn first_genomes(
    space: &SearchSpace,
    told: &[Genome],
    recommended: &[Genome],
) -> Vec<Genome> {
    let full = space.full_genome();
    // Of one size, choices follow each other by precision.
    let precisions = space.precisions().len();
    let in_all_precisions = (0..precisions).map(|fewer_bits| {
        let genes = full.iter().map(|gene| gene - fewer_bits);
        genes.collect::<Genome>()
    });
    let widths = space.mlp().len();
    let uniform = (widths / 2..widths - 1)
        .rev()
        .skip(precisions - 1)
        .step_by(precisions)
        .map(|width| uniform(space, &full, width));
    let all = in_all_precisions
        .chain(told.iter().chain(recommended).cloned())
        .chain(uniform);
    let mut unique = Vec::new();
    for genome in all {
        if !unique.contains(&genome) {
            unique.push(genome);
        }
    }
    unique
}

/// `count` first genomes for whom nothing is known of the model: the largest, the smallest and the middle
/// one, as whittle's searchers begin, and uniform draws.
pub fn uninformed_genomes(space: &Space, count: usize, seed: u64) -> Vec<Genome> {
    let all = |gene: fn(usize) -> usize| space.cardinalities().iter().map(|c| gene(*c)).collect();
    let ends = [all(|count| count - 1), all(|_| 0), all(|count| count / 2)];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let drawn = std::iter::repeat_with(|| space.draw(&mut rng));
    ends.into_iter().chain(drawn).take(count).collect()
}

/// The full attention with the same MLP choice in every layer.
fn uniform(space: &SearchSpace, full: &[usize], mlp: usize) -> Genome {
    let mut genome = full.to_vec();
    for gene in genome[..2 * space.gene_pairs()]
        .iter_mut()
        .skip(1)
        .step_by(2)
    {
        *gene = mlp;
    }
    genome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowing_nothing_a_search_begins_with_the_ends_of_the_space_and_its_own_draws() {
        let space = Space::new(vec![3, 5, 2]).expect("a space");
        let first = uninformed_genomes(&space, 6, 1);
        assert_eq!(first[..3], [vec![2, 4, 1], vec![0, 0, 0], vec![1, 2, 1]]);
        assert_eq!(first.len(), 6);
        assert!(first.iter().all(|genome| space.check(genome).is_ok()));
        assert_eq!(first, uninformed_genomes(&space, 6, 1));
        assert_ne!(first, uninformed_genomes(&space, 6, 2));
    }
}
