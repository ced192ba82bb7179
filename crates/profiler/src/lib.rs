//! Plans what to measure, drives an agent on the device, and turns samples into a latency table.
//!
//! Blocks are priced in context: a block alone stays in the cache and looks cheaper than it is, so
//! chains of distinct copies are timed, in turns with a reference chain that empties the caches,
//! and a price is the slope between two chain lengths as a share of that reference. Whole networks
//! are measured beside a baseline network in the same way; they calibrate the sums and validate
//! them. Every visit is appended to a journal beside the table, so that an interrupted profile goes
//! on where it stopped.

mod agent;
mod agreement;
mod bench;
mod cooling;
mod deviation;
mod device;
mod draw;
mod error;
mod held_out;
mod hog;
mod journal;
mod network;
mod placement;
mod plan;
mod preflight;
mod price;
mod profile;
mod smooth;
mod split;
pub mod statistics;
mod structure;
mod table;
mod transport;
mod units;
mod visit;
mod warmup;

pub use agent::{Agent, AgentCommand, Link, find_agent};
pub use agreement::{Agreement, Comparison, agreement};
pub use device::{
    AdbSpec, CoolDown, DeviceSpec, ExecutionProvider, Fingerprints, SshSpec, TransportSpec,
};
pub use draw::draw_subnets;
pub use error::ProfilerError;
pub use held_out::{
    Elsewhere, HeldOut, Measured, MeasuredNetwork, MeasuredPhase, NaiveSums, PLACEMENT_PATIENCE,
};
pub use lathe_agent::{Inspection, SessionConfig, ThermalZone};
pub use network::{NetworkLatency, PhaseLatency, measure_networks};
pub use plan::{Probe, ProfilePlan};
pub use preflight::{Finding, Preflight, Severity, Verdict, preflight, processor_list};
pub use profile::{ProfileRequest, SecondProfile, network_phases, profile, profile_twice};
pub use split::{SplitProfile, SplitRequest, profile_split};
pub use structure::{Structure, check_structure};
pub use transport::{OnSending, TransportError, own_target};
pub use units::{UnitDifference, unit_difference};
