//! What the agent does on the device.

mod affinity;
mod bandwidth;
mod environment;
mod generate;
mod inputs;
mod inspect;
mod measure;
mod memory;
mod session;

pub use affinity::bind;
pub use bandwidth::bandwidth;
pub use generate::generate;
pub use inspect::inspect;
pub use measure::{Kept, measure};
pub use memory::memory;
pub use session::optimize;
