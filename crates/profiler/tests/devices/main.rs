//! Real devices: sshd and adbd on this machine, each in a network of its own, and all that can
//! befall them in the middle of a profile.
//!
//! They need root and the programs that `.ci/run` installs. Where those are missing the tests say
//! so and pass, unless `LATHE_REQUIRE_DEVICES` is set.
#![cfg(target_os = "linux")]

mod adb;
mod adbd;
mod agents;
mod equal;
mod network;
mod short;
mod split;
mod ssh;
mod sshd;
