use lathe_profiler::{DeviceSpec, fingerprint};
use serde::Serialize;

use super::print_json;
use crate::arguments::Devices;
use crate::context;

/// Load per processor above which measurements are not to be trusted.
const BUSY: f64 = 0.25;

/// A device and its state.
#[derive(Serialize)]
struct Found {
    device: DeviceSpec,
    cpu_model: String,
    cores: usize,
    threads: usize,
    governor: Option<String>,
    load_per_core: Option<f64>,
    verdict: String,
}

pub fn run(arguments: &Devices) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for name in context::device_names() {
        let device = context::device(&name)?;
        let (print, _) = fingerprint(&device, "");
        let load_per_core = load().map(|load| load / print.cores as f64);
        let verdict = match (load_per_core, print.governor.as_deref()) {
            (Some(load), _) if load > BUSY => {
                format!("busy: {load:.2} running tasks a processor; close other programs")
            }
            (_, Some(governor)) if governor != "performance" => {
                format!("usable; the clock is governed by `{governor}`, so expect more noise")
            }
            _ => "fit to measure".to_owned(),
        };
        found.push(Found {
            threads: device.threads(),
            device,
            cpu_model: print.cpu_model,
            cores: print.cores,
            governor: print.governor,
            load_per_core,
            verdict,
        });
    }
    if arguments.json {
        return print_json(&found);
    }
    for found in found {
        println!(
            "{}: {}, {} processors, {} threads: {}",
            found.device.name, found.cpu_model, found.cores, found.threads, found.verdict
        );
    }
    Ok(())
}

/// Tasks that ran or waited during the last minute, on average.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
