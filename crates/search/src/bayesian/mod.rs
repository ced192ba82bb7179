//! Bayesian optimisation of two objectives by expected hypervolume improvement.

mod belief;
mod candidates;
mod ehvi;
mod kernel;
mod model;
mod process;
mod search;
mod warp;

pub use search::{BayesianOptions, BayesianSearch};
