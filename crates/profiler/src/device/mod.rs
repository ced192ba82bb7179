//! Devices: what `devices/*.yaml` says, and what the device says of itself.

mod fingerprint;
mod names;
mod spec;

pub use fingerprint::Fingerprints;
pub(crate) use fingerprint::{last_level_cache_bytes, runs_natively, threads};
pub use spec::{AdbSpec, CoolDown, DeviceSpec, ExecutionProvider, SshSpec, TransportSpec};
