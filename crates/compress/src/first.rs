//! Genomes from which a search begins: the full model in every precision, what the additive model
//! recommends, networks without a run of whole layers, and uniform prunings.

use lathe_arch::SearchSpace;
use lathe_search::Genome;

/// One in this many layers may be in a run that is removed at first.
const RUN_SHARE: usize = 5;

/// First genomes, the full model first, none twice. `removal_loss` is what the model loses without
/// the block of a gene.
pub(crate) fn first_genomes(
    space: &SearchSpace,
    recommended: &[Genome],
    removal_loss: impl Fn(usize) -> f64,
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
        .chain(recommended.iter().cloned())
        .chain(without_runs(space, &full, removal_loss))
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

/// The full model without two and more layers that follow each other, those with the smallest sum of
/// losses. Together they lose less than that sum, because the block before stands in for all of
/// them: a model of sums would not come to them.
fn without_runs(
    space: &SearchSpace,
    full: &[usize],
    removal_loss: impl Fn(usize) -> f64,
) -> Vec<Genome> {
    let layers = space.gene_pairs();
    let is_removable = space.attention()[0].is_none() && space.mlp()[0].is_none();
    if !is_removable || layers < space.layers() {
        return Vec::new();
    }
    let losses: Vec<f64> = (0..layers)
        .map(|layer| removal_loss(2 * layer) + removal_loss(2 * layer + 1))
        .collect();
    let without = |length: usize| {
        let sums = losses.windows(length).map(|run| run.iter().sum::<f64>());
        let (start, _) = sums.enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let mut genome = full.to_vec();
        genome[2 * start..2 * (start + length)].fill(0);
        Some(genome)
    };
    (2..=layers / RUN_SHARE).filter_map(without).collect()
}

#[cfg(test)]
mod tests {
    use lathe_arch::{ModelConfig, SpaceSpec};

    use super::*;

    #[test]
    fn the_cheapest_runs_of_layers_are_removed() {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let cheap = |gene: usize| if (20..26).contains(&gene) { 0.1 } else { 1.0 };
        let genomes = first_genomes(&space, &[], cheap);
        let removed = |genome: &Genome| -> Vec<usize> {
            let layers = genome.chunks_exact(2).enumerate();
            let gone = layers.filter(|(_, genes)| *genes == [0, 0]);
            gone.map(|(layer, _)| layer).collect()
        };
        let runs: Vec<Vec<usize>> = genomes
            .iter()
            .map(removed)
            .filter(|run| !run.is_empty())
            .collect();
        let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 3, 4, 5, 6]);
        assert_eq!(runs[1], [10, 11, 12]);
        assert!(runs[4].contains(&10) && runs[4].contains(&12));
    }
}
