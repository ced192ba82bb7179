//! What the device says of itself, from Linux's and Android's `/proc` and `/sys`.
//!
//! Every file is optional: what cannot be read, or reads as nonsense, stays untold.

use std::thread;
use std::time::{Duration, Instant};

use lathe_agent::{IdleWindow, Inspected, Inspection};

mod activity;
mod control_groups;
mod energy;
mod files;
mod power;
mod processors;
#[cfg(test)]
mod tests;
mod thermal;

use super::Runtime;
use activity::Ticks;
pub use energy::EnergyReading;
pub use files::SystemFiles;

/// How long the processors are watched.
const WINDOW: Duration = Duration::from_millis(200);

/// Inspects this device.
pub fn inspect(runtime: &Runtime, id: u64) -> anyhow::Result<Inspected> {
    let inspection = runtime.unbound(|| inspection(&SystemFiles::below("/"), WINDOW))?;
    Ok(Inspected {
        id,
        inspection: Box::new(inspection),
    })
}

/// Whether the kernel's processors are of another architecture than this program's: an emulator
/// such as qemu-user runs it.
pub fn is_emulated() -> bool {
    let files = SystemFiles::below("/");
    processors::told_arch(&files).is_some_and(|told| !told.contains(&std::env::consts::ARCH))
}

/// Inspects the device whose `/proc` and `/sys` are `files`.
fn inspection(files: &SystemFiles, window: Duration) -> Inspection {
    // First of all, so that reading the rest is not what the window shows.
    let idle_window = idle_window(files, window);
    Inspection {
        cpu_model: processors::model(files).unwrap_or_default(),
        os: operating_system(files),
        kernel: files.line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        virtual_machine: processors::virtual_machine(files),
        cores: processors::cores(files),
        is_smt_active: processors::is_smt_active(files),
        is_boost_enabled: processors::is_boost_enabled(files),
        cpu_quota: control_groups::cpu_quota(files),
        last_level_cache_bytes: processors::last_level_cache_bytes(files),
        memory_bytes: memory(files, "MemTotal:"),
        available_memory_bytes: available_memory_bytes(files),
        free_disk_bytes: free_disk_bytes(),
        load_1min: activity::load_1min(files),
        cpu_pressure_avg10_percent: activity::pressure_avg10_percent(files, "cpu"),
        memory_pressure_avg10_percent: activity::pressure_avg10_percent(files, "memory"),
        idle_window,
        thermal_zones: thermal::zones(files),
        battery: power::battery(files),
        energy_counters: power::energy_counters(files),
    }
}

/// Watches the processors while this process sleeps.
fn idle_window(files: &SystemFiles, window: Duration) -> Option<IdleWindow> {
    let start = Instant::now();
    let energy = EnergyReading::now(files);
    let ticks = Ticks::now(files)?;
    thread::sleep(window);
    let shares = Ticks::now(files)?.since(&ticks)?;
    let joules = EnergyReading::now(files).joules_since(&energy);
    let seconds = start.elapsed().as_secs_f64();
    Some(IdleWindow {
        package_watts: joules.map(|joules| joules / seconds),
        ..shares
    })
}

fn operating_system(files: &SystemFiles) -> String {
    let linux = files.field("/etc/os-release", "PRETTY_NAME=");
    let android = || {
        let release = files.field("/system/build.prop", "ro.build.version.release=");
        Some(format!("Android {}", release?))
    };
    let told = linux.or_else(android);
    told.unwrap_or_else(|| std::env::consts::OS.to_owned())
}

/// A field of `/proc/meminfo`, which is in kibibytes.
fn memory(files: &SystemFiles, field: &str) -> Option<u64> {
    let text = files.field("/proc/meminfo", field)?;
    let kibibytes: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The less of what the machine has and what the control groups leave.
fn available_memory_bytes(files: &SystemFiles) -> Option<u64> {
    let machine = memory(files, "MemAvailable:");
    let groups = control_groups::memory_left_bytes(files);
    machine.into_iter().chain(groups).min()
}

#[cfg(unix)]
fn free_disk_bytes() -> Option<u64> {
    let room = rustix::fs::statvfs(".").ok()?;
    room.f_bavail.checked_mul(room.f_frsize)
}

#[cfg(not(unix))]
fn free_disk_bytes() -> Option<u64> {
    None
}
