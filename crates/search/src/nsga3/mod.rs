//! NSGA-III (Deb & Jain 2014, doi:10.1109/TEVC.2013.2281535): the last front is thinned by reference
//! directions, which keep three and more objectives spread where crowding does not.

mod directions;
mod hyperplane;
mod niches;
mod search;

pub use search::{NsgaIII, NsgaIIIOptions};
