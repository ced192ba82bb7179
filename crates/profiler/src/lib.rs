//! Plans what to measure, drives an agent on the device, and turns samples into a latency table.
//!
//! Blocks are priced in context: a block alone stays in the cache and looks cheaper than it is,
//! so chains of distinct copies, several times the size of the last-level cache, are timed, and
//! the price of a block is the slope between two chain lengths. All entries are visited in
//! rounds, each round in a random order of its own. Every visit is appended to a journal beside
//! the table, so that an interrupted profile goes on where it stopped.

mod agent;
mod device;
mod error;
mod journal;
mod network;
mod plan;
mod profile;
pub mod statistics;
mod validate;

pub use agent::{Agent, AgentCommand, find_agent};
pub use device::{DeviceSpec, Transport, fingerprint, last_level_cache_bytes};
pub use error::ProfilerError;
pub use network::{NetworkLatency, PhaseLatency, measure_networks};
pub use plan::{ProfilePlan, Visit};
pub use profile::{ProfileRequest, profile};
pub use validate::{Agreement, Comparison, agreement, draw_subnets, write_random_networks};
