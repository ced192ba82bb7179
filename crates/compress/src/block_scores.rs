//! Block scores: what the model loses when one block alone is cut.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use lathe_arch::SearchSpace;
use lathe_search::{
    Evaluation, Genome, Problem, RandomSearch, SearchError, Space, Study, StudyHeader, Trial, run,
};
use lathe_supernet::SupernetError;

use crate::windows::{REMOVED, likely_windows, window_sizes, without_window};
use crate::{Loss, Progress, SubnetProblem};

/// The shares of its sizes to which an attention and an MLP are cut; 0 removes them.
type Shares = [&'static [f64]; 2];
const COARSE: Shares = [&[0.5, 0.0], &[0.75, 0.0]];
/// Around a window: what is left there to be saved is saved in small cuts of many blocks.
const FINE: Shares = [&[0.7, 0.0], &[0.9, 0.65, 0.4, 0.0]];

/// The [`Loss`] when one gene differs from the full model, or from a network that lacks a window
/// of layers.
pub struct BlockScores {
    full: Base,
    /// Networks without a window of layers.
    without_windows: Vec<Base>,
    genes: Vec<Gene>,
}

/// A network of which one block at a time was cut.
pub(crate) struct Base {
    /// The network.
    pub genome: Genome,
    /// For each gene, its choices that were measured and what they lose more than the network does.
    losses: Vec<BTreeMap<usize, f64>>,
}

/// Cutting one block at a time: what is lost is all that is minimised.
struct OneBlock<'a> {
    problem: &'a SubnetProblem<'a>,
    loss: &'a Loss<'a>,
}

impl Problem for OneBlock<'_> {
    type Error = SupernetError;

    fn space(&self) -> &Space {
        self.problem.space()
    }

    fn objective_names(&self) -> Vec<&str> {
        self.loss.parts().iter().map(|part| part.field()).collect()
    }

    fn fingerprint(&self) -> String {
        format!(
            "blocks of {}, {}",
            self.problem.fingerprint(),
            self.loss.fingerprint()
        )
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, SupernetError> {
        let config = self.problem.search_space().decode(&trial.genome)?;
        let subnet = self.loss.supernet().cut(&config)?;
        self.loss.of(&subnet)
    }
}

impl BlockScores {
    /// Measures the blocks of the full model, or what an interrupted measurement at `path` has left. Scores
    /// of another super-network, text or space are replaced.
    ///
    /// # Errors
    /// When the file cannot be used or written.
    pub fn measure(
        problem: &SubnetProblem<'_>,
        loss: &Loss<'_>,
        path: &Path,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        let mut list = List::open(problem, loss, path)?;
        Self::of_full(problem, &mut list, progress)
    }

    /// The same for networks that are healed afterwards: also the blocks of those without a window of layers,
    /// which are several times as many.
    ///
    /// # Errors
    /// As for [`Self::measure`].
    pub fn measure_for_healing(
        problem: &SubnetProblem<'_>,
        loss: &Loss<'_>,
        path: &Path,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        let mut list = List::open(problem, loss, path)?;
        let mut scores = Self::of_full(problem, &mut list, progress)?;
        let full = problem.search_space().full_genome();
        let layer_losses = scores.layer_losses(problem.search_space());
        for size in window_sizes(problem.search_space()) {
            let windows = likely_windows(&layer_losses, size).into_iter();
            let windows = windows.map(|window| without_window(&full, &window));
            let windows = list.score(windows.collect(), "scoring windows of layers", progress)?;
            let loss = |evaluation: &Evaluation| list.blocks.loss.total(&evaluation.objectives);
            let best = windows
                .into_iter()
                .min_by(|a, b| loss(a).total_cmp(&loss(b)));
            let Some(best) = best else { continue };
            let cuts = single_cuts(problem, &best.genome, FINE);
            let label = format!("scoring blocks without {size} layers");
            let evaluations = list.score(cuts, &label, progress)?;
            let base = list.base(best.genome.clone(), &best.objectives, &evaluations);
            scores.without_windows.push(base);
        }
        Ok(scores)
    }

    fn of_full(
        problem: &SubnetProblem<'_>,
        list: &mut List<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        let full = problem.search_space().full_genome();
        let cuts = single_cuts(problem, &full, COARSE);
        let evaluations = list.score(cuts, "scoring blocks", progress)?;
        Ok(Self {
            full: list.base(full, &[], &evaluations),
            without_windows: Vec::new(),
            genes: genes(problem),
        })
    }

    /// The full model.
    pub(crate) fn full(&self) -> &Base {
        &self.full
    }

    /// Networks without a window of layers, where they were measured.
    pub(crate) fn without_windows(&self) -> &[Base] {
        &self.without_windows
    }

    /// What the layers lose that are removed one by one, as a sum of their blocks.
    fn layer_losses(&self, space: &SearchSpace) -> Vec<f64> {
        let of_gene = |gene| self.loss(&self.full, gene, REMOVED);
        let pairs = 0..space.gene_pairs();
        pairs
            .map(|pair| of_gene(2 * pair) + of_gene(2 * pair + 1))
            .collect()
    }

    /// What any choice of a gene of `base` loses: of its size, and on top of that of its precision, measured
    /// on the block as `base` has it.
    pub(crate) fn loss(&self, base: &Base, gene: usize, choice: usize) -> f64 {
        let measured = &base.losses[gene];
        if let Some(loss) = measured.get(&choice) {
            return *loss;
        }
        let choices = &self.genes[gene];
        let full_size = choices.full_in_precision_of(choice);
        let quantised = measured.get(&full_size).copied().unwrap_or(0.0);
        self.loss_of_size(base, gene, choices.in_most_bits(choice)) + quantised
    }

    /// Loss of a size in the most bits, between measured sizes linear in the error of the block's
    /// output: the divergence grows with the square of a small disturbance, and so does the error.
    fn loss_of_size(&self, base: &Base, gene: usize, choice: usize) -> f64 {
        let measured = &base.losses[gene];
        let choices = &self.genes[gene];
        let in_most_bits = |(other, _): &(&usize, &f64)| choices.in_most_bits(**other) == **other;
        let below = measured.range(..=choice).rev().find(in_most_bits);
        let above = measured.range(choice..).find(in_most_bits);
        match (below, above) {
            (Some((low, low_loss)), Some((high, high_loss))) => {
                let at = |choice: usize| choices.distances[choice];
                let span = at(*high) - at(*low);
                let share = if span == 0.0 {
                    0.0
                } else {
                    (at(choice) - at(*low)) / span
                };
                low_loss + share * (high_loss - low_loss)
            }
            (Some((_, loss)), None) | (None, Some((_, loss))) => *loss,
            (None, None) => 0.0,
        }
    }
}

impl Base {
    /// A network that loses `loss`, by what those of `evaluations` lose that differ from it in one gene. A cut
    /// that seems to gain gains by chance: it loses nothing, or sums of block losses would make it everywhere.
    fn of(genome: Genome, loss: f64, evaluations: impl Iterator<Item = (Genome, f64)>) -> Self {
        let mut losses: Vec<BTreeMap<usize, f64>> = genome
            .iter()
            .map(|gene| BTreeMap::from([(*gene, 0.0)]))
            .collect();
        for (cut, cut_loss) in evaluations {
            let mut pairs = cut.iter().zip(&genome).enumerate();
            if let Some((gene, (choice, _))) = pairs.find(|(_, (choice, base))| choice != base) {
                losses[gene].insert(*choice, (cut_loss - loss).max(0.0));
            }
        }
        Self { genome, losses }
    }
}

/// Genomes that are scored one after another, and kept in a study.
struct List<'a> {
    blocks: OneBlock<'a>,
    study: Study,
    genomes: Vec<Genome>,
}

impl<'a> List<'a> {
    fn open(
        problem: &'a SubnetProblem<'a>,
        loss: &'a Loss<'a>,
        path: &Path,
    ) -> anyhow::Result<Self> {
        let blocks = OneBlock { problem, loss };
        // A random search whose first genomes are all there is to evaluate is a list.
        let list = RandomSearch::new(problem.space(), &[], 0)?;
        let header = StudyHeader::of(&blocks, &list, 0);
        let study = match Study::open_or_create(path, &header, true) {
            Err(SearchError::OtherStudy { .. }) => {
                std::fs::remove_file(path).with_context(|| path.display().to_string())?;
                Study::open_or_create(path, &header, true)?
            }
            opened => opened?,
        };
        Ok(Self {
            blocks,
            study,
            genomes: Vec::new(),
        })
    }

    /// A network that loses these `objectives`, none where it is the full model, and what its cuts lose more.
    fn base(&self, genome: Genome, objectives: &[f64], cuts: &[Evaluation]) -> Base {
        let loss = self.blocks.loss;
        let cuts = cuts.iter();
        let cuts = cuts.map(|cut| (cut.genome.clone(), loss.total(&cut.objectives)));
        Base::of(genome, loss.total(objectives), cuts)
    }

    /// Scores of `genomes`, which no list before has had.
    fn score(
        &mut self,
        genomes: Vec<Genome>,
        label: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Evaluation>> {
        let before = self.genomes.len();
        let total = genomes.len();
        self.genomes.extend(genomes);
        let mut list = RandomSearch::new(self.blocks.problem.space(), &self.genomes, 0)?;
        let budget = self.genomes.len();
        progress(label, 0, total);
        run(&mut self.blocks, &mut list, &mut self.study, budget, |p| {
            progress(label, (p.index + 1).saturating_sub(before), total);
            ControlFlow::Continue(())
        })?;
        let mut evaluations = self.study.evaluations()?;
        evaluations.truncate(budget);
        Ok(evaluations.split_off(before.min(evaluations.len())))
    }
}

/// What the choices of one gene are.
struct Gene {
    /// Choices that remove the block: one at most, the first.
    removed: usize,
    /// Precisions of each size.
    precisions: usize,
    /// How far each choice is from the full block: the error of its output.
    distances: Vec<f64>,
}

impl Gene {
    /// The same size in the most bits.
    fn in_most_bits(&self, choice: usize) -> usize {
        if choice < self.removed {
            return choice;
        }
        let sizes = (choice - self.removed) / self.precisions;
        self.removed + sizes * self.precisions + self.precisions - 1
    }

    /// The full size in the same precision.
    fn full_in_precision_of(&self, choice: usize) -> usize {
        let count = self.distances.len();
        if choice < self.removed {
            return count - 1;
        }
        count - self.precisions + (choice - self.removed) % self.precisions
    }

    /// The choice of `share` of the sizes, the removed block counting as size 0.
    fn of_size(&self, share: f64) -> usize {
        let sizes = (self.distances.len() - self.removed) / self.precisions;
        let largest = sizes + self.removed - 1;
        let size = (largest as f64 * share) as usize;
        if size < self.removed {
            return 0;
        }
        self.removed + (size - self.removed) * self.precisions + self.precisions - 1
    }
}

/// The genes of a problem. Where the super-network knows no errors, choices are as far from the
/// full block as they are many.
fn genes(problem: &SubnetProblem<'_>) -> Vec<Gene> {
    let space = problem.search_space();
    let supernet = problem.supernet();
    let precisions = space.precisions().len();
    let gene = |removed: bool, errors: Vec<Option<f64>>| {
        let steps = (0..errors.len()).rev().map(|steps| steps as f64);
        let errors = errors.iter().copied().collect::<Option<Vec<f64>>>();
        Gene {
            removed: usize::from(removed),
            precisions,
            distances: errors.unwrap_or_else(|| steps.collect()),
        }
    };
    let mut genes = Vec::new();
    // Errors of layers that one gene decides add up.
    let sum = |pair: usize, error: &dyn Fn(usize) -> Option<f64>| -> Option<f64> {
        space.layers_of(pair).map(error).sum()
    };
    for pair in 0..space.gene_pairs() {
        let attention = space.attention().iter().map(|choice| {
            // Errors are known of whole groups only.
            let kv_heads = choice.map_or(Some(0), |attention| {
                let is_whole = attention.heads_per_group() == problem.model().heads_per_group();
                is_whole.then_some(attention.kv_heads)
            });
            let kv_heads = kv_heads?;
            sum(pair, &|layer| supernet.attention_error(layer, kv_heads))
        });
        genes.push(gene(space.attention()[0].is_none(), attention.collect()));
        let mlp = space.mlp().iter().map(|choice| {
            let width = choice.map_or(0, |mlp| mlp.intermediate_size);
            sum(pair, &|layer| supernet.mlp_error(layer, width))
        });
        genes.push(gene(space.mlp()[0].is_none(), mlp.collect()));
    }
    if precisions > 1 {
        genes.push(gene(false, vec![None; precisions]));
    }
    genes
}

/// One block of `base` cut to `shares` of its sizes; and one block, or both ends, in each lower precision.
fn single_cuts(problem: &SubnetProblem<'_>, base: &[usize], shares: Shares) -> Vec<Genome> {
    let full = problem.search_space().full_genome();
    let mut genomes = Vec::new();
    for (index, gene) in genes(problem).iter().enumerate() {
        if base[index] != full[index] {
            continue;
        }
        let sizes = shares[index % 2].iter().map(|share| gene.of_size(*share));
        let last = gene.distances.len() - 1;
        let lower_precisions = gene.distances.len() - gene.precisions..last;
        for choice in sizes.chain(lower_precisions) {
            let mut genome = base.to_vec();
            genome[index] = choice;
            if genome != base && !genomes.contains(&genome) {
                genomes.push(genome);
            }
        }
    }
    genomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_seems_to_gain_loses_nothing() {
        let cuts = [(vec![1, 3], 0.7), (vec![2, 1], 0.48)];
        let base = Base::of(vec![2, 3], 0.5, cuts.into_iter());
        let losses = base.losses;
        assert!((losses[0][&1] - 0.2).abs() < 1e-12 && losses[0][&2] == 0.0);
        assert_eq!(losses[1], BTreeMap::from([(1, 0.0), (3, 0.0)]));
    }
}
