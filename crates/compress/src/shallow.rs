//! Sub-networks with whole layers gone, for a search to begin with.
//!
//! A kept block stands in for the layers that are removed behind it, so layers that are removed together
//! lose less than their blocks do one by one, and sums of block losses hardly recommend them. ShortGPT
//! (2403.03853) and SLEB (2402.09025) remove nothing else; here the rest of the time is saved in the blocks
//! that are left.

use lathe_arch::SearchSpace;
use lathe_search::{Choice, Genome, SearchError, additive_front};

use crate::windows::REMOVED;

/// At most one in this many layers is removed.
const MOST_REMOVED: usize = 4;

/// The smallest sums of losses that save `saving` (below zero, as costs are those above the full model's)
/// with about a quarter, half and all of it in whole layers: those that lose the least alone.
///
/// # Errors
/// When a variable has no choices.
pub(crate) fn shallow_genomes(
    space: &SearchSpace,
    variables: &[Vec<Choice>],
    saving: f64,
) -> Result<Vec<Genome>, SearchError> {
    if space.attention()[REMOVED].is_some() || space.mlp()[REMOVED].is_some() {
        return Ok(Vec::new());
    }
    let layers = variables.chunks_exact(2).take(space.gene_pairs());
    let removed = layers
        .map(|blocks| [0, 1].map(|of| blocks.iter().map(|block| block[REMOVED][of]).sum::<f64>()));
    let mut removed: Vec<(usize, Choice)> = removed.enumerate().collect();
    removed.sort_by(|(_, a), (_, b)| a[1].total_cmp(&b[1]));
    let mut cost = 0.0;
    let costs = removed.iter().map(|(_, layer)| {
        cost += layer[0];
        cost
    });
    let all = costs.take_while(|cost| *cost >= saving).count();
    let mut counts = vec![all.div_ceil(4), all.div_ceil(2), all];
    counts.dedup();
    counts.retain(|count| (1..=space.gene_pairs() / MOST_REMOVED).contains(count));
    let mut genomes = Vec::new();
    for count in counts {
        let mut rest = variables.to_vec();
        for (pair, _) in &removed[..count] {
            rest[2 * pair].truncate(REMOVED + 1);
            rest[2 * pair + 1].truncate(REMOVED + 1);
        }
        // Losses fall where costs rise.
        let front = additive_front(&rest)?;
        let best = front.into_iter().rfind(|point| point.cost <= saving);
        genomes.extend(best.map(|point| point.genome));
    }
    Ok(genomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::tests::space;

    /// Every block costs 1 and loses less the later it is; sizes between are linear in both.
    fn variables(space: &SearchSpace) -> Vec<Vec<Choice>> {
        let genes = space.cardinalities().into_iter().enumerate();
        let variable = |(gene, count): (usize, usize)| {
            let share = |choice: usize| 1.0 - choice as f64 / (count - 1) as f64;
            let loss = 1.0 / (1 + gene) as f64;
            (0..count)
                .map(|c| [-share(c), loss * share(c).powi(2)])
                .collect()
        };
        genes.map(variable).collect()
    }

    #[test]
    fn whole_layers_save_a_part_and_sizes_the_rest() {
        let space = space(vec![0, 1, 2, 3]);
        let variables = variables(&space);
        let genomes = shallow_genomes(&space, &variables, -9.0).unwrap();
        let removed = |genome: &Genome| -> Vec<usize> {
            let is_removed = |pair: &usize| genome[2 * pair..2 * pair + 2] == [REMOVED; 2];
            (0..space.gene_pairs()).filter(is_removed).collect()
        };
        let layers: Vec<Vec<usize>> = genomes.iter().map(removed).collect();
        assert_eq!(
            layers,
            [vec![29], vec![28, 29], vec![26, 27, 28, 29]],
            "those that lose the least, and no more than save 9 of 60"
        );
        for genome in &genomes {
            let chosen = variables.iter().zip(genome);
            let cost: f64 = chosen.map(|(choices, choice)| choices[*choice][0]).sum();
            assert!((-10.0..=-9.0).contains(&cost), "{cost}");
        }
    }

    #[test]
    fn a_space_that_keeps_all_blocks_has_none() {
        let space = space(vec![1, 2, 3]);
        let genomes = shallow_genomes(&space, &variables(&space), -9.0).unwrap();
        assert!(genomes.is_empty(), "{genomes:?}");
    }
}
