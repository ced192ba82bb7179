//! NSGA-II and NSGA-III on problems of the literature made discrete, and NSGA-II on additive ones:
//! prints every run's front and hypervolume as JSON lines. `benches/against_pymoo.py` holds them against
//! pymoo's.
//!
//! ```text
//! cargo run --release -p lathe-search --example known_fronts -- 5000 10
//! ```

use std::ops::ControlFlow;

mod known;

use known::{Discrete, Known};
use lathe_search::{
    NsgaII, NsgaIII, NsgaIIIOptions, NsgaOptions, SearchError, Searcher, Space, Study, hypervolume,
    pareto_front, run,
};

/// Members of the populations.
const POPULATION: usize = 100;

/// The methods that pymoo has too.
#[derive(Debug, Clone, Copy)]
enum Method {
    NsgaII,
    NsgaIII,
}

impl Method {
    /// Those that are held against pymoo's on `known`.
    fn on(known: Known) -> &'static [Self] {
        match known {
            Known::Zdt(1) | Known::Dtlz2 => &[Self::NsgaII, Self::NsgaIII],
            Known::Zdt(_) | Known::Blocks | Known::Knapsack => &[Self::NsgaII],
        }
    }

    fn searcher(self, known: Known, seed: u64) -> Result<Box<dyn Searcher>, SearchError> {
        let space = Space::new(known.cardinalities())?;
        Ok(match self {
            Self::NsgaII => {
                let options = NsgaOptions {
                    population: POPULATION,
                    ..NsgaOptions::default()
                };
                Box::new(NsgaII::new(&space, options, seed)?)
            }
            Self::NsgaIII => {
                let options = NsgaIIIOptions {
                    population: POPULATION,
                    ..NsgaIIIOptions::default()
                };
                let objectives = known.reference().len();
                Box::new(NsgaIII::new(&space, objectives, options, seed)?)
            }
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse());
    let evaluations: usize = arguments.next().transpose()?.unwrap_or(5000);
    let seeds: usize = arguments.next().transpose()?.unwrap_or(10);
    for known in Known::ALL {
        let mut problem = Discrete::new(known)?;
        for method in Method::on(known) {
            for seed in 1..=seeds as u64 {
                let mut searcher = method.searcher(known, seed)?;
                let mut study = Study::in_memory(&problem, &*searcher, seed)?;
                run(
                    &mut problem,
                    &mut *searcher,
                    &mut study,
                    evaluations,
                    |_| ControlFlow::Continue(()),
                )?;
                let front = pareto_front(&study.evaluations()?);
                let points: Vec<&[f64]> = front.iter().map(|e| &e.objectives[..]).collect();
                let line = serde_json::json!({
                    "problem": known.name(),
                    "method": searcher.name(),
                    "seed": seed,
                    "reference": known.reference(),
                    "hypervolume": hypervolume(&points, &known.reference()),
                    "front": front,
                });
                println!("{line}");
            }
        }
    }
    Ok(())
}
