//! Genomes from which a search begins: the full model in every precision, what it is told to begin with,
//! what the additive model recommends, and uniform prunings.

use lathe_arch::SearchSpace;
use lathe_search::Genome;

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
