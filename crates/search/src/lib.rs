//! Multi-objective optimisation of discrete problems whose evaluations are expensive.
//!
//! A [`Problem`] maps a genome (one choice per variable) to objectives, all minimised. A
//! [`Searcher`] proposes genomes and is told their objectives; [`run`] drives one against the
//! other and keeps every evaluation in a [`Study`], a crash-safe file from which an interrupted
//! run goes on with the very same sequence.
//!
//! ```
//! use std::convert::Infallible;
//! use std::ops::ControlFlow;
//! use lathe_search::{NsgaII, NsgaOptions, Problem, Space, Study, Trial, pareto_front, run};
//!
//! /// Choose one of four sizes for ten parts: large ones cost time, small ones cost quality.
//! struct Sizes(Space);
//!
//! impl Problem for Sizes {
//!     type Error = Infallible;
//!     fn space(&self) -> &Space { &self.0 }
//!     fn objective_names(&self) -> Vec<&str> { vec!["time", "loss"] }
//!     fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, Infallible> {
//!         let time: usize = trial.genome.iter().sum();
//!         let loss: f64 = trial.genome.iter().enumerate().map(|(i, g)| (i as f64) / (1.0 + *g as f64)).sum();
//!         Ok(vec![time as f64, loss])
//!     }
//! }
//!
//! let mut problem = Sizes(Space::new(vec![4; 10])?);
//! let mut searcher = NsgaII::new(problem.space(), NsgaOptions::default(), 1)?;
//! let mut study = Study::in_memory(&problem, &searcher, 1)?;
//! run(&mut problem, &mut searcher, &mut study, 100, |_| ControlFlow::Continue(()))?;
//! assert!(pareto_front(&study.evaluations()?).len() > 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod additive;
mod attainment;
mod bayesian;
mod cost;
mod error;
mod evolution;
mod halving;
mod hypervolume;
mod in_turn;
mod local;
mod nsga2;
mod nsga3;
mod offspring;
mod pareto;
mod problem;
mod proposals;
mod random;
mod run;
mod space;
mod stratified;
mod study;
mod variation;

pub use additive::{AdditiveOptions, AdditivePoint, AdditiveSearch, Choice, Costs, additive_front};
pub use attainment::attainment_front;
pub use bayesian::{BayesianOptions, BayesianSearch};
pub use cost::Cost;
pub use error::SearchError;
pub use evolution::{EvolutionOptions, RegularizedEvolution};
pub use halving::{HalvingOptions, SuccessiveHalving};
pub use hypervolume::hypervolume;
pub use in_turn::InTurn;
pub use local::LocalSearch;
pub use nsga2::{NsgaII, NsgaOptions};
pub use nsga3::{NsgaIII, NsgaIIIOptions};
pub use pareto::{crowding_distance, dominates, knee_point, non_dominated_sort, pareto_front};
pub use problem::{Evaluation, Fidelity, Problem, Searcher, Trial};
pub use random::RandomSearch;
pub use run::{Progress, run};
pub use space::{Genome, Space};
pub use stratified::{StratifiedOptions, StratifiedRandomSearch};
pub use study::{Record, Study, StudyHeader};
