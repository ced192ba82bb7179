use std::panic::resume_unwind;

use lathe_fetch::Cache;
use lathe_profiler::{
    Agent, DeviceSpec, Inspection, Preflight, SessionConfig, ThermalZone, Verdict,
};
use lathe_profiler::{preflight, processor_list};
use serde::Serialize;

use super::print_json;
use crate::arguments::Devices;
use crate::context;

/// A device in `devices/`.
#[derive(Serialize)]
struct Found {
    name: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    State(Box<State>),
    /// Why its state is not known.
    Error(String),
}

#[derive(Serialize)]
struct State {
    device: DeviceSpec,
    threads: usize,
    runtime_build: String,
    /// Whether the processor is emulated.
    emulated: bool,
    /// Round trip of a cache line between the processors in nanoseconds.
    round_trip_ns: Option<u64>,
    verdict: Verdict,
    #[serde(flatten)]
    preflight: Preflight,
}

pub fn run(arguments: &Devices) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let names = match &arguments.devices[..] {
        [] => context::device_names(),
        named => named.to_vec(),
    };
    // At once: each that cannot be reached takes its time.
    let found: Vec<Found> = std::thread::scope(|scope| {
        let find = |name: String| scope.spawn(|| find(&cache, arguments, name));
        let threads: Vec<_> = names.into_iter().map(find).collect();
        let found = threads.into_iter().map(|thread| thread.join());
        found
            .map(|found| found.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    if arguments.json {
        print_json(&found)?;
    } else {
        found.iter().for_each(print);
    }
    let is_lost = |found: &&Found| matches!(found.outcome, Outcome::Error(_));
    let lost = found.iter().filter(is_lost).count();
    // Of all that are described, some are not at hand at any time.
    let is_answered = match arguments.devices.is_empty() {
        true => lost < found.len(),
        false => lost == 0,
    };
    anyhow::ensure!(
        is_answered,
        "{lost} of {} devices cannot be inspected",
        found.len()
    );
    Ok(())
}

fn find(cache: &Cache, arguments: &Devices, name: String) -> Found {
    let outcome = match inspect(cache, arguments, &name) {
        Ok(state) => Outcome::State(Box::new(state)),
        Err(error) => Outcome::Error(format!("{error:#}")),
    };
    Found { name, outcome }
}

fn inspect(cache: &Cache, arguments: &Devices, name: &str) -> anyhow::Result<State> {
    let device = context::device(name)?;
    let command = context::agent_on(cache, &device, &arguments.programs)?;
    let mut agent = Agent::start(&command)?;
    let inspection = agent.inspect()?;
    let threads = agent.threads();
    let preflight = preflight(&inspection, threads, None);
    Ok(State {
        threads,
        runtime_build: agent.hello().runtime_build.clone(),
        emulated: agent.fingerprints(&inspection).device.emulated,
        round_trip_ns: agent.round_trip_ns(SessionConfig { threads })?,
        verdict: preflight.verdict(),
        preflight,
        device,
    })
}

fn print(found: &Found) {
    let state = match &found.outcome {
        Outcome::State(state) => state,
        Outcome::Error(error) => return println!("{}: cannot be inspected: {error}\n", found.name),
    };
    println!("{}: {}", found.name, state.verdict);
    let inspection = &state.preflight.inspection;
    for (label, text) in [
        ("processor", processor(inspection)),
        ("fast cores", fast_cores(state)),
        ("distance", distance(state)),
        ("clock", clock(inspection)),
        ("memory", memory(inspection)),
        ("system", system(inspection)),
        ("runtime", runtime(state)),
        ("activity", activity(inspection)),
        ("heat", heat(inspection)),
        ("energy", energy(inspection)),
    ] {
        println!("  {label:11} {text}");
    }
    for finding in &state.preflight.findings {
        println!("  {:11} {}", finding.severity.to_string(), finding.what);
        println!("  {:11} -> {}", "", finding.remedy);
    }
    println!();
}

/// What is told, with commas; `untold` when nothing is.
fn told<const N: usize>(parts: [Option<String>; N]) -> String {
    let told: Vec<String> = parts.into_iter().flatten().collect();
    match told.is_empty() {
        true => "untold".to_owned(),
        false => told.join(", "),
    }
}

fn processor(inspection: &Inspection) -> String {
    let model = Some(inspection.cpu_model.clone()).filter(|model| !model.is_empty());
    let usable = inspection.usable_cores().count();
    let count = match inspection.cores.len() {
        0 => None,
        all if all == usable => Some(format!("{all} processors")),
        all => Some(format!("{usable} of {all} processors usable")),
    };
    let quota = inspection.cpu_quota;
    let cache = inspection.last_level_cache_bytes;
    told([
        model,
        count,
        quota.map(|quota| format!("limited to the time of {quota:.1}")),
        cache.map(|bytes| format!("last-level cache {} MiB", bytes >> 20)),
    ])
}

fn fast_cores(state: &State) -> String {
    let cores = processor_list(&state.preflight.fastest_cores);
    let cores = Some(cores).filter(|cores| !cores.is_empty());
    told([cores, Some(format!("for {} threads", state.threads))])
}

/// How far apart the processors are: a virtual machine's are moved between the host's cores.
fn distance(state: &State) -> String {
    let trip = state.round_trip_ns;
    told([trip.map(|ns| format!("a cache line comes back from another processor in {ns} ns"))])
}

fn clock(inspection: &Inspection) -> String {
    let cores = || inspection.usable_cores();
    let ghz = |khz: u64| khz as f64 / 1e6;
    let now = cores().filter_map(|core| core.now_khz).max().map(ghz);
    let max = cores().filter_map(|core| core.max_khz).max().map(ghz);
    let mut governors: Vec<&str> = cores()
        .filter_map(|core| core.governor.as_deref())
        .collect();
    governors.sort_unstable();
    governors.dedup();
    let governors = Some(governors.join(" and ")).filter(|names| !names.is_empty());
    let switch = |name: &str, is_on: bool| format!("{name} {}", if is_on { "on" } else { "off" });
    told([
        now.map(|now| format!("{now:.2} GHz now")),
        max.map(|max| format!("{max:.2} GHz at most")),
        governors.map(|names| format!("governor {names}")),
        inspection
            .is_boost_enabled
            .map(|is_on| switch("boost", is_on)),
        inspection.is_smt_active.map(|is_on| switch("SMT", is_on)),
    ])
}

fn memory(inspection: &Inspection) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let all = inspection.memory_bytes.map(gib);
    let available = inspection.available_memory_bytes.map(gib);
    let disk = inspection.free_disk_bytes.map(gib);
    told([
        all.map(|all| format!("{all:.1} GiB")),
        available.map(|available| format!("{available:.1} GiB available")),
        disk.map(|disk| format!("{disk:.1} GiB of disk free")),
    ])
}

fn system(inspection: &Inspection) -> String {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let machine = inspection.virtual_machine.as_ref();
    told([
        some(&inspection.os),
        some(&inspection.kernel).map(|kernel| format!("kernel {kernel}")),
        machine.map(|name| format!("virtual machine ({name})")),
    ])
}

fn runtime(state: &State) -> String {
    let words = state.runtime_build.split(',').next();
    let emulated = state
        .emulated
        .then_some("in an emulator: latencies say nothing of a real processor");
    told([words.map(str::to_owned), emulated.map(str::to_owned)])
}

fn activity(inspection: &Inspection) -> String {
    let window = inspection.idle_window;
    let cpu = inspection.cpu_pressure_avg10_percent;
    let memory = inspection.memory_pressure_avg10_percent;
    told([
        inspection.load_1min.map(|load| format!("load {load:.2}")),
        cpu.map(|percent| format!("processor pressure {percent:.1} %")),
        memory.map(|percent| format!("memory pressure {percent:.1} %")),
        window.map(|window| format!("steal {:.1} %", window.steal_percent)),
        window.map(|window| format!("others {:.1} %", window.others_busy_percent)),
    ])
}

/// The hottest sensor of the processor, or of all where none is known as the processor's.
fn heat(inspection: &Inspection) -> String {
    let zones = &inspection.thermal_zones;
    let key = |zone: &&ThermalZone| (zone.is_processor(), zone.celsius);
    let hottest = zones.iter().max_by(|a, b| {
        let (a, b) = (key(a), key(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    told([hottest.map(|zone| format!("{} at {:.0} degrees Celsius", zone.name, zone.celsius))])
}

fn energy(inspection: &Inspection) -> String {
    let counters = inspection.energy_counters.iter();
    let readable = counters.filter(|counter| counter.is_readable).count();
    let all = inspection.energy_counters.len();
    let watts = inspection
        .idle_window
        .and_then(|window| window.package_watts);
    let battery = inspection.battery;
    told([
        (all > 0).then(|| format!("{readable} of {all} counters readable")),
        watts.map(|watts| format!("{watts:.1} W at rest")),
        battery.map(|battery| {
            let plugged = if battery.is_plugged { "" } else { "not " };
            format!("battery at {:.0} %, {plugged}plugged in", battery.percent)
        }),
    ])
}
