//! Problems that are nearly additive: one objective is a sum over the variables, the other nearly.

mod front;
mod model;
mod search;

pub use front::{AdditivePoint, Choice, additive_front};
pub use search::{AdditiveOptions, AdditiveSearch, Costs};
