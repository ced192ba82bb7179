//! What the agent does on the device.

mod environment;
mod generate;
mod inputs;
mod inspect;
mod measure;
mod session;

pub use generate::generate;
pub use inspect::inspect;
pub use measure::measure;
