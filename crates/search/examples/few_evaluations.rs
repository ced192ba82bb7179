//! Every method but the additive, which is told what to expect, where evaluations are few: medians over
//! seeds of the hypervolumes, and what choosing a genome takes.
//!
//! ```text
//! cargo run --release -p lathe-search --example few_evaluations -- 100 10
//! ```

mod known;

use std::ops::ControlFlow;
use std::time::Instant;

use known::{Discrete, Known};
use lathe_search::{
    BayesianOptions, BayesianSearch, Cost, EvolutionOptions, LocalSearch, NsgaII, NsgaIII,
    NsgaIIIOptions, NsgaOptions, Problem, RandomSearch, RegularizedEvolution, SearchError,
    Searcher, StratifiedOptions, StratifiedRandomSearch, Study, hypervolume, run,
};

/// A point that a few evaluations are better than, for the problems of two objectives.
fn reference(known: Known) -> Option<Vec<f64>> {
    match known {
        Known::Zdt(_) => Some(vec![1.1, 6.0]),
        Known::Blocks | Known::Knapsack => Some(known.reference()),
        Known::Dtlz2 => None,
    }
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Random,
    Stratified,
    LocalSearch,
    Evolution,
    NsgaII,
    NsgaIII,
    Ehvi,
    EhviOfKnownCost,
}

impl Method {
    const ALL: [Self; 8] = [
        Self::Random,
        Self::Stratified,
        Self::LocalSearch,
        Self::Evolution,
        Self::NsgaII,
        Self::NsgaIII,
        Self::Ehvi,
        Self::EhviOfKnownCost,
    ];

    fn searcher(self, problem: &Discrete, seed: u64) -> Result<Box<dyn Searcher>, SearchError> {
        let space = problem.space();
        let known = problem.known;
        let cost: Cost = Box::new(move |genome| known.objectives(genome)[0]);
        Ok(match self {
            Self::Random => Box::new(RandomSearch::new(space, &[], seed)?),
            Self::Stratified => {
                let options = StratifiedOptions::default();
                Box::new(StratifiedRandomSearch::new(space, cost, options, seed)?)
            }
            Self::LocalSearch => Box::new(LocalSearch::new(space, &[], seed)?),
            Self::Evolution => {
                let options = EvolutionOptions {
                    population: 24,
                    sample: 3,
                    first: Vec::new(),
                };
                Box::new(RegularizedEvolution::new(space, options, seed)?)
            }
            Self::NsgaII => Box::new(NsgaII::new(space, NsgaOptions::default(), seed)?),
            Self::NsgaIII => {
                let objectives = problem.objective_names().len();
                let options = NsgaIIIOptions::default();
                Box::new(NsgaIII::new(space, objectives, options, seed)?)
            }
            Self::Ehvi | Self::EhviOfKnownCost => {
                let cost = matches!(self, Self::EhviOfKnownCost).then_some(cost);
                let options = BayesianOptions::default();
                Box::new(BayesianSearch::new(space, cost, options, seed)?)
            }
        })
    }
}

/// Of an even number, the upper one of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse());
    let evaluations: usize = arguments.next().transpose()?.unwrap_or(100);
    let seeds: usize = arguments.next().transpose()?.unwrap_or(10);
    println!("{evaluations} evaluations, median of {seeds} seeds");
    print!("{:<18}", "");
    let problems: Vec<(Known, Vec<f64>)> = Known::ALL
        .into_iter()
        .filter_map(|known| Some((known, reference(known)?)))
        .collect();
    for (known, _) in &problems {
        print!("{:>14}", known.name());
    }
    println!("{:>14}", "ms a choice");
    for method in Method::ALL {
        print!("{:<18}", format!("{method:?}"));
        let clock = Instant::now();
        for (known, reference) in &problems {
            let mut problem = Discrete::new(*known)?;
            let mut volumes = Vec::new();
            for seed in 1..=seeds as u64 {
                let mut searcher = method.searcher(&problem, seed)?;
                let mut study = Study::in_memory(&problem, &*searcher, seed)?;
                run(
                    &mut problem,
                    &mut *searcher,
                    &mut study,
                    evaluations,
                    |_| ControlFlow::Continue(()),
                )?;
                let all = study.evaluations()?;
                let points: Vec<&[f64]> = all.iter().map(|e| &e.objectives[..]).collect();
                volumes.push(hypervolume(&points, reference));
            }
            print!("{:>14.2}", median(volumes));
        }
        let choices = (evaluations * seeds * problems.len()) as f64;
        println!("{:>14.3}", 1000.0 * clock.elapsed().as_secs_f64() / choices);
    }
    Ok(())
}
