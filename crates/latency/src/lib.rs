//! The latency table: what every block of a search space costs on one device, and the sum that
//! predicts a sub-network. Needs neither ONNX Runtime nor a tensor library.
//!
//! ```no_run
//! use lathe_arch::{SubnetConfig, Workload};
//! use lathe_latency::LatencyTable;
//!
//! let table = LatencyTable::load("runs/local/table.yaml".as_ref())?;
//! let subnet = SubnetConfig::full(&table.model.dimensions);
//! let prediction = table.predict(&subnet, &Workload::default())?;
//! println!("{:.1} ms per token", prediction.tpot_us / 1000.0);
//! # Ok::<(), lathe_latency::LatencyError>(())
//! ```

mod calibration;
mod error;
mod file;
mod least_squares;
mod memory;
mod predict;
mod space;
mod table;

pub use calibration::{Calibration, CalibrationPoint, PhaseKind};
pub use error::LatencyError;
pub use memory::{MemoryModel, MemoryPoint, context_bytes};
pub use predict::Prediction;
pub use space::SpacePrices;
pub use table::{
    Baseline, Bound, DeviceFingerprint, Entry, EntryDifference, Interference, LatencyStatistics,
    LatencyTable, ModelDescription, Placement, Protocol, Reference, Repeatability, Roof,
    RuntimeFingerprint, TABLE_VERSION,
};
