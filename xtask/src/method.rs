//! From arguments to a search method.

use anyhow::Context;
use lathe_compress::{
    BlockScores, SubnetProblem, additive_search, recommended, uninformed_genomes,
};
use lathe_search::{
    BayesianOptions, BayesianSearch, Costs, EvolutionOptions, LocalSearch, NsgaII, NsgaIII,
    NsgaIIIOptions, NsgaOptions, Problem, RandomSearch, RegularizedEvolution, Searcher,
    StratifiedOptions, StratifiedRandomSearch,
};

use crate::arguments::{Method, Search};

/// Of evolution's population, one in this many is in a sample.
const SAMPLE_SHARE: usize = 10;
/// Divergence from which on a sub-network is of no use, in nats: where EHVI's front ends.
const USELESS_DIVERGENCE: f64 = 3.0;

/// The method that was asked for. It begins with what block scores recommend where the front is wanted,
/// or without them with the ends of the space and draws from it, as many as a population has.
pub fn searcher(
    arguments: &Search,
    problem: &SubnetProblem<'_>,
    scores: Option<(&BlockScores, &Costs)>,
) -> anyhow::Result<Box<dyn Searcher>> {
    let (space, seed, population) = (problem.space(), arguments.seed, arguments.population);
    let full = problem.search_space().full_genome();
    let full_us = problem.latency_us(&full);
    let first = match scores {
        Some((scores, wanted)) => recommended(problem, scores, wanted)?,
        None => uninformed_genomes(space, population, seed),
    };
    Ok(match arguments.method {
        Method::Additive => {
            let (scores, wanted) = scores.context("the additive method needs block scores")?;
            additive_search(problem, scores, wanted, seed)?
        }
        Method::Nsga2 => {
            let options = NsgaOptions {
                population,
                first,
                ..NsgaOptions::default()
            };
            Box::new(NsgaII::new(space, options, seed)?)
        }
        Method::Nsga3 => {
            let options = NsgaIIIOptions {
                population,
                first,
                ..NsgaIIIOptions::default()
            };
            let objectives = problem.objective_names().len();
            Box::new(NsgaIII::new(space, objectives, options, seed)?)
        }
        Method::LocalSearch => Box::new(LocalSearch::new(space, &first, seed)?),
        Method::Evolution => {
            let options = EvolutionOptions {
                population,
                sample: population.div_ceil(SAMPLE_SHARE),
                first,
            };
            Box::new(RegularizedEvolution::new(space, options, seed)?)
        }
        Method::Ehvi => {
            let options = BayesianOptions {
                reference: Some([full_us, USELESS_DIVERGENCE]),
                first,
                ..BayesianOptions::default()
            };
            Box::new(BayesianSearch::new(
                space,
                Some(problem.cost()),
                options,
                seed,
            )?)
        }
        Method::Stratified => {
            let range = match scores {
                Some((_, Costs::Between(shares))) => {
                    Some(full_us * shares.start()..=full_us * shares.end())
                }
                _ => None,
            };
            let options = StratifiedOptions {
                range,
                first,
                ..StratifiedOptions::default()
            };
            Box::new(StratifiedRandomSearch::new(
                space,
                problem.cost(),
                options,
                seed,
            )?)
        }
        Method::Random => Box::new(RandomSearch::new(space, &first, seed)?),
    })
}
