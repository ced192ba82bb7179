//! What the agent does on the device.

mod affinity;
mod bandwidth;
mod environment;
mod generate;
mod inputs;
mod inspect;
mod limits;
mod measure;
mod memory;
mod provider;
mod round_trip;
mod session;

pub use affinity::bind;
pub use bandwidth::bandwidth;
pub use generate::generate;
pub use inspect::{inspect, is_emulated};
pub use limits::{end_with_reader, limit_memory};
pub use measure::{Kept, measure};
pub use memory::memory;
pub use provider::Provider;
pub use round_trip::round_trip;
pub use session::optimize;

use ort::environment::Environment;

/// What all jobs share.
pub struct Runtime {
    /// ONNX Runtime.
    pub environment: Environment,
    /// What runs the operators.
    pub provider: Provider,
    /// Processors that threads are bound to, one each; empty where the system binds none.
    pub processors: Vec<usize>,
}

impl Runtime {
    /// Binds this thread to the first of the processors that this process may use; the runtime's
    /// own threads get the others.
    ///
    /// # Errors
    /// When the system does not grant that.
    pub fn bound(environment: Environment, provider: Provider) -> anyhow::Result<Self> {
        let runtime = Self {
            environment,
            provider,
            processors: affinity::allowed(),
        };
        affinity::bind(runtime.first())?;
        Ok(runtime)
    }

    fn first(&self) -> &[usize] {
        &self.processors[..self.processors.len().min(1)]
    }

    /// Does something as this process was before its thread was bound.
    fn unbound<T>(&self, act: impl FnOnce() -> T) -> anyhow::Result<T> {
        affinity::bind(&self.processors)?;
        let done = act();
        affinity::bind(self.first())?;
        Ok(done)
    }
}
