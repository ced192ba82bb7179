//! What the agent does on the device.

mod environment;
mod generate;
mod inputs;
mod measure;
mod session;

pub use generate::generate;
pub use measure::measure;
