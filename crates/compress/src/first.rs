//! Genomes from which a search begins: the full model, what the additive model recommends, and
//! uniform prunings.

use lathe_arch::SearchSpace;
use lathe_search::Genome;

/// First genomes, the full model first, none twice.
pub fn first_genomes(space: &SearchSpace, recommended: &[Genome]) -> Vec<Genome> {
    let full = space.full_genome();
    let widths = space.mlp().len();
    let uniform = (widths / 2..widths - 1)
        .rev()
        .map(|width| uniform(&full, width));
    let all = std::iter::once(full.clone())
        .chain(recommended.iter().cloned())
        .chain(uniform);
    let mut unique = Vec::new();
    for genome in all {
        if !unique.contains(&genome) {
            unique.push(genome);
        }
    }
    unique
}

/// The full attention with the same MLP choice in every layer.
fn uniform(full: &[usize], mlp: usize) -> Genome {
    let pairs = full.chunks_exact(2);
    pairs.flat_map(|pair| [pair[0], mlp]).collect()
}
