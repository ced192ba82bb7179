//! The transformer engine: f32, row-major, on faer's products and rayon.
//!
//! Everything here works on windows of the super-network's matrices, so a sub-network costs
//! what its own size costs. One level of parallelism: the rayon pool in which the caller runs.

pub(crate) mod attention;
mod cpu;
pub(crate) mod elementwise;
mod forks;
pub(crate) mod forward;
pub(crate) mod head;
pub(crate) mod matmul;
pub(crate) mod rope;

pub use cpu::Cpu;
pub use rope::RopeTable;
