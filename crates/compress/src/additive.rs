//! The default search: block scores and the table's prices, whose sums recommend sub-networks.
//!
//! Losses do not really add up (joint damage is larger), so these sub-networks are where a search
//! begins, not where it ends.

use lathe_arch::SearchSpace;
use lathe_search::{
    AdditiveOptions, AdditiveSearch, Choice, Costs, Genome, InTurn, Searcher, additive_front,
};

use crate::block_scores::Base;
use crate::first::first_genomes;
use crate::shallow::shallow_genomes;
use crate::windows::REMOVED;
use crate::{BlockScores, SubnetProblem};

/// Sub-networks are recommended at multiples of one part in this many of the full model's latency.
const STEPS: usize = 20;

/// Shares of the full model's latency between which a search looks by default: sizes alone are of
/// no use below a half, precision halves that once more.
pub fn default_shares(space: &SearchSpace) -> Costs {
    let [least, most] = range(space);
    Costs::Between(least..=most)
}

fn range(space: &SearchSpace) -> [f64; 2] {
    match space.precisions().len() {
        1 => [0.5, 0.97],
        _ => [0.25, 0.97],
    }
}

/// Shares where three in four evaluations go to one of the full model's latency, and a little below it
/// for when measurements say that it has to be less; the others go along the front.
pub(crate) fn shares_near(share: f64, space: &SearchSpace) -> Costs {
    let below = 0.97 * share;
    let [few, most] = range(space).map(|end| (end + share) / 2.0);
    Costs::At(vec![share, below, share, few, share, below, share, most])
}

/// Sub-networks from which other methods may begin: what the block scores recommend.
///
/// # Errors
/// Never for a space that has choices.
pub fn recommended(
    problem: &SubnetProblem<'_>,
    scores: &BlockScores,
    wanted: &Costs,
) -> anyhow::Result<Vec<Genome>> {
    let weights = vec![1.0; problem.device_count()];
    Ok(additive_options(problem, scores, wanted, &weights)?.first)
}

/// The default method on `problem`: of several devices, one search for each and one for all alike take
/// turns.
///
/// # Errors
/// Never for a space that has choices.
pub fn additive_search(
    problem: &SubnetProblem<'_>,
    scores: &BlockScores,
    wanted: &Costs,
    seed: u64,
) -> anyhow::Result<Box<dyn Searcher>> {
    let searchers = weightings(problem.device_count())
        .into_iter()
        .map(|weights| {
            let options = additive_options(problem, scores, wanted, &weights)?;
            let weights = problem.loss().weights().to_vec();
            let search = AdditiveSearch::new(options, seed)?.weighing(weights)?;
            let search: Box<dyn Searcher> = Box::new(search);
            anyhow::Ok(search)
        });
    let mut searchers = searchers.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(match searchers.len() {
        1 => searchers.remove(0),
        _ => Box::new(InTurn::new(searchers)?),
    })
}

/// All devices alike, then each alone.
fn weightings(devices: usize) -> Vec<Vec<f64>> {
    let mut all = vec![vec![1.0; devices]];
    if devices > 1 {
        all.extend((0..devices).map(|device| {
            (0..devices)
                .map(|other| f64::from(u8::from(other == device)))
                .collect()
        }));
    }
    all
}

/// What [`lathe_search::AdditiveSearch`] needs of a problem: prices and expected losses of every
/// choice, and first genomes, the smallest sums of losses where the front is `wanted` among them:
/// at latencies that are given as shares of the full model's. Of several devices, the price is the mean
/// of these shares by `weights`.
///
/// # Errors
/// Never for a space that has choices.
fn additive_options(
    problem: &SubnetProblem<'_>,
    scores: &BlockScores,
    wanted: &Costs,
    weights: &[f64],
) -> anyhow::Result<AdditiveOptions> {
    let space = problem.search_space();
    let full = space.full_genome();
    let full_us = problem.cost_us(&full, weights);
    let variables_around = |base: &Base| -> Vec<Vec<Choice>> {
        let of_gene = |(gene, count): (usize, usize)| {
            let cost = |choice: usize| {
                let mut genome = full.clone();
                genome[gene] = choice;
                problem.cost_us(&genome, weights) - full_us
            };
            // What a network lacks stays away.
            let is_gone = base.genome[gene] == REMOVED && full[gene] != REMOVED;
            let choices = if is_gone { 0..REMOVED + 1 } else { 0..count };
            let choices = choices.map(|c| [cost(c), scores.loss(base, gene, c)]);
            choices.collect()
        };
        let genes = space.cardinalities().into_iter().enumerate();
        genes.map(of_gene).collect()
    };
    let variables = variables_around(scores.full());
    let front = additive_front(&variables)?;
    let saving = |share: f64| (share - 1.0) * full_us;
    let shares: Vec<f64> = match wanted {
        Costs::Between(shares) => {
            let steps = (1..STEPS).rev().map(|step| step as f64 / STEPS as f64);
            steps.filter(|share| shares.contains(share)).collect()
        }
        Costs::At(shares) => shares.clone(),
    };
    // Some shares are wanted more often than others.
    let of_share = |(at, share)| (!shares[..at].contains(share)).then(|| saving(*share));
    let savings: Vec<f64> = shares.iter().enumerate().filter_map(of_share).collect();
    let mut recommended: Vec<Genome> = Vec::new();
    for saving in &savings {
        let best = front.iter().rfind(|point| point.cost <= *saving);
        recommended.extend(best.map(|point| point.genome.clone()));
    }
    for saving in &savings {
        recommended.extend(shallow_genomes(space, &variables, *saving)?);
    }
    for base in scores.without_windows() {
        let front = additive_front(&variables_around(base))?;
        let dearest = front.last().map_or(0.0, |point| point.cost);
        for saving in savings.iter().filter(|saving| **saving <= dearest) {
            let best = front.iter().rfind(|point| point.cost <= *saving);
            recommended.extend(best.map(|point| point.genome.clone()));
        }
    }
    let cheapest = front.first().map_or(0.0, |point| point.cost);
    Ok(AdditiveOptions {
        first: first_genomes(space, problem.first(), &recommended),
        variables,
        costs: match wanted {
            Costs::Between(shares) => {
                let least = saving(*shares.start()).max(cheapest);
                Costs::Between(least..=saving(*shares.end()).max(least))
            }
            Costs::At(shares) => Costs::At(shares.iter().map(|share| saving(*share)).collect()),
        },
    })
}
