//! The rules, in the order in which their findings are read. The limits are where measurements
//! began to suffer in practice; none is a law.

use std::collections::BTreeSet;

use lathe_agent::{Core, Inspection};

use super::{Finding, Severity, processor_list};

/// Running tasks a processor, without ours: above, ours will have to wait.
const LOAD_PER_CORE: f64 = 0.25;
/// Share of time in which some task waited.
const PRESSURE_PERCENT: f64 = 5.0;
/// Above, half of all runs are held up, and no median is free of it.
const PRESSURE_REFUSED_PERCENT: f64 = 50.0;
/// Share of processor time that other processes may use.
const OTHERS_BUSY_PERCENT: f64 = 10.0;
/// Share of processor time that the hypervisor may take away.
const STEAL_PERCENT: f64 = 1.0;
/// Above, neighbours decide what is measured.
const STEAL_REFUSED_PERCENT: f64 = 10.0;
/// Processors lower their clocks from 80 to 105 degrees, phones' earlier; a run adds some.
const HOT_CELSIUS: f64 = 70.0;
/// Below, systems save power.
const LOW_BATTERY_PERCENT: f64 = 30.0;
/// A limit of the clock this near to its maximum is none.
const CLOCK_SHARE: f64 = 0.98;
/// Chains of blocks are several times as large as the cache, and there are many.
const FREE_DISK_BYTES: u64 = 1 << 30;

/// What is judged.
pub struct Case<'a> {
    pub inspection: &'a Inspection,
    pub threads: usize,
    pub needed_memory_bytes: Option<u64>,
    pub fastest_cores: &'a [usize],
}

impl Case<'_> {
    /// The cores that measurements should be bound to.
    fn fast(&self) -> impl Iterator<Item = &Core> {
        let cores = self.inspection.cores.iter();
        cores.filter(|core| self.fastest_cores.contains(&core.id))
    }
}

type Rule = fn(&Case) -> Option<Finding>;

const RULES: [Rule; 19] = [
    threads,
    quota,
    memory,
    disk,
    cpu_pressure,
    memory_pressure,
    load,
    others,
    steal,
    heat,
    governor,
    clock_limit,
    battery_charging,
    battery_low,
    boost,
    smt,
    untold_pressure,
    virtual_machine,
    untold_clock,
];

/// What stands out.
pub fn findings(case: &Case) -> Vec<Finding> {
    RULES.iter().filter_map(|rule| rule(case)).collect()
}

fn finding(severity: Severity, what: String, remedy: impl Into<String>) -> Option<Finding> {
    Some(Finding {
        severity,
        what,
        remedy: remedy.into(),
    })
}

fn note(what: String, remedy: impl Into<String>) -> Option<Finding> {
    finding(Severity::Note, what, remedy)
}

fn warning(what: String, remedy: impl Into<String>) -> Option<Finding> {
    finding(Severity::Warning, what, remedy)
}

fn refusal(what: String, remedy: impl Into<String>) -> Option<Finding> {
    finding(Severity::Refusal, what, remedy)
}

fn threads(case: &Case) -> Option<Finding> {
    let threads = case.threads;
    let usable = case.inspection.usable_cores().count();
    let fast = case.fastest_cores.len();
    let list = processor_list(case.fastest_cores);
    if usable == 0 || threads <= fast {
        return None;
    }
    if threads > usable {
        return refusal(
            format!(
                "{threads} threads are asked for, but only {usable} processors can be used: threads would wait for each other's turns."
            ),
            format!("Set `threads: {fast}` in the device's YAML."),
        );
    }
    warning(
        format!(
            "{threads} threads are asked for, but there are {fast} fast cores (processors {list}): the slowest thread holds up the others."
        ),
        format!(
            "Set `threads: {fast}` and `affinity: {:?}` in the device's YAML.",
            case.fastest_cores
        ),
    )
}

fn quota(case: &Case) -> Option<Finding> {
    let quota = case.inspection.cpu_quota?;
    if case.threads as f64 <= quota {
        return None;
    }
    let remedy = match quota.floor() {
        0.0 => "Raise the control group's `cpu.max` to one processor at least.".to_owned(),
        whole => format!(
            "Set `threads: {whole}` in the device's YAML, or raise the control group's `cpu.max`."
        ),
    };
    refusal(
        format!(
            "The control group allows {quota:.1} processors' time to {} threads: they are stopped in every period.",
            case.threads
        ),
        remedy,
    )
}

fn memory(case: &Case) -> Option<Finding> {
    let needed = case.needed_memory_bytes?;
    let available = case.inspection.available_memory_bytes?;
    if needed <= available {
        return None;
    }
    refusal(
        format!(
            "{} of memory are needed, {} are available.",
            mebibytes(needed),
            mebibytes(available)
        ),
        "Close other programs, or take a smaller model or precision.",
    )
}

fn disk(case: &Case) -> Option<Finding> {
    let free = case.inspection.free_disk_bytes?;
    if free >= FREE_DISK_BYTES {
        return None;
    }
    warning(
        format!(
            "{} of disk are free where networks to measure are written.",
            mebibytes(free)
        ),
        format!("Make room for {} at least.", mebibytes(FREE_DISK_BYTES)),
    )
}

fn cpu_pressure(case: &Case) -> Option<Finding> {
    let percent = case.inspection.cpu_pressure_avg10_percent?;
    let what = format!("Tasks waited for a processor in {percent:.0} % of the last 10 s.");
    // What pressed may have ended meanwhile, as a build before the first run does.
    let window = case.inspection.idle_window;
    let is_still_busy = window.is_none_or(|now| now.others_busy_percent > OTHERS_BUSY_PERCENT);
    if percent > PRESSURE_REFUSED_PERCENT && is_still_busy {
        return refusal(
            what,
            "Close other programs, and wait until they have ended.",
        );
    }
    if percent > PRESSURE_PERCENT {
        return warning(
            what,
            "Close other programs; measure again when this is below 5 %.",
        );
    }
    None
}

fn memory_pressure(case: &Case) -> Option<Finding> {
    let percent = case.inspection.memory_pressure_avg10_percent?;
    if percent <= PRESSURE_PERCENT {
        return None;
    }
    warning(
        format!("Tasks waited for memory in {percent:.0} % of the last 10 s."),
        "Close programs that hold much memory.",
    )
}

fn load(case: &Case) -> Option<Finding> {
    let online = case.inspection.cores.iter().filter(|core| core.is_online);
    let online = online.count().max(1) as f64;
    let per_core = case.inspection.load_1min? / online;
    if per_core <= LOAD_PER_CORE {
        return None;
    }
    warning(
        format!("{per_core:.2} tasks a processor ran or waited during the last minute."),
        "Close other programs, or wait a minute if they have just ended.",
    )
}

fn others(case: &Case) -> Option<Finding> {
    let percent = case.inspection.idle_window?.others_busy_percent;
    if percent <= OTHERS_BUSY_PERCENT {
        return None;
    }
    warning(
        format!("Other programs use {percent:.0} % of the processors right now."),
        "Find them with `top`, and close them.",
    )
}

fn steal(case: &Case) -> Option<Finding> {
    let window = case.inspection.idle_window?;
    let percent = window.steal_percent;
    // A single tick may be rounding, however large its share of a short window.
    let seen_percent = 150.0 / window.ticks as f64;
    let what = format!("The hypervisor took {percent:.1} % of the processors' time away.");
    let remedy = "Measure when the host is quiet, or on a machine with processors of its own.";
    if percent <= STEAL_PERCENT.max(seen_percent) {
        return None;
    }
    if percent > STEAL_REFUSED_PERCENT {
        return refusal(what, remedy);
    }
    warning(what, remedy)
}

fn heat(case: &Case) -> Option<Finding> {
    let zones = case.inspection.thermal_zones.iter();
    let processors = zones.filter(|zone| zone.is_processor());
    let hottest = processors.max_by(|a, b| a.celsius.total_cmp(&b.celsius))?;
    if hottest.celsius <= HOT_CELSIUS {
        return None;
    }
    warning(
        format!(
            "The sensor `{}` is at {:.0} degrees Celsius: the clock may fall.",
            hottest.name, hottest.celsius
        ),
        format!("Let the device cool below {HOT_CELSIUS:.0} degrees."),
    )
}

fn governor(case: &Case) -> Option<Finding> {
    let governors: BTreeSet<&str> = case
        .fast()
        .filter_map(|core| core.governor.as_deref())
        // With `userspace` the clock stands where it was put.
        .filter(|governor| !matches!(*governor, "performance" | "userspace"))
        .collect();
    if governors.is_empty() {
        return None;
    }
    let names: Vec<&str> = governors.into_iter().collect();
    warning(
        format!(
            "The governor `{}` changes the clock with the load.",
            names.join("`, `")
        ),
        "Run `sudo cpupower frequency-set -g performance`; without root, expect wider intervals.",
    )
}

fn clock_limit(case: &Case) -> Option<Finding> {
    let mut clocks = case
        .fast()
        .filter_map(|core| Some((core.id, core.limit_khz?, core.max_khz?)));
    let (id, limit, max) =
        clocks.find(|(_, limit, max)| (*limit as f64) < CLOCK_SHARE * *max as f64)?;
    warning(
        format!(
            "Processor {id} may run at {:.2} of {:.2} GHz only.",
            gigahertz(limit),
            gigahertz(max)
        ),
        "Let the device cool, or raise `scaling_max_freq`, if figures are to hold for the full clock.",
    )
}

fn battery_charging(case: &Case) -> Option<Finding> {
    let battery = case.inspection.battery?;
    if !battery.is_charging {
        return None;
    }
    warning(
        "The battery is being charged, which heats the device and hides what it uses.".to_owned(),
        "Wait until it is full, or unplug it.",
    )
}

fn battery_low(case: &Case) -> Option<Finding> {
    let battery = case.inspection.battery?;
    if battery.percent >= LOW_BATTERY_PERCENT {
        return None;
    }
    warning(
        format!(
            "The battery is at {:.0} %: the system may save power.",
            battery.percent
        ),
        format!("Charge it to {LOW_BATTERY_PERCENT:.0} % at least."),
    )
}

fn boost(case: &Case) -> Option<Finding> {
    case.inspection.is_boost_enabled.filter(|is_on| *is_on)?;
    note(
        "The clock may rise above the nominal one for a while (boost).".to_owned(),
        "Compare figures only with figures taken with boost; switch it off for the steadiest ones.",
    )
}

fn smt(case: &Case) -> Option<Finding> {
    case.inspection.is_smt_active.filter(|is_on| *is_on)?;
    note(
        "Cores run two threads each (SMT), which share their execution units.".to_owned(),
        format!(
            "Use one thread a core: processors {}.",
            processor_list(case.fastest_cores)
        ),
    )
}

fn untold_pressure(case: &Case) -> Option<Finding> {
    let inspection = case.inspection;
    if inspection.cpu_pressure_avg10_percent.is_some() {
        return None;
    }
    note(
        "The system does not tell how long tasks wait for processors.".to_owned(),
        "Boot with `psi=1` where the kernel has it: then a busy device is noticed before it is measured.",
    )
}

fn virtual_machine(case: &Case) -> Option<Finding> {
    let name = case.inspection.virtual_machine.as_deref()?;
    let remedy = "Nothing has to be done: its processors may be moved between cores, and only what is measured in one placement counts.";
    note(format!("This is a virtual machine ({name})."), remedy)
}

fn untold_clock(case: &Case) -> Option<Finding> {
    let tells_clock = case
        .fast()
        .any(|core| core.now_khz.is_some() || core.governor.is_some());
    let tells_heat = case
        .inspection
        .thermal_zones
        .iter()
        .any(|zone| zone.is_processor());
    let untold = match (tells_clock, tells_heat) {
        (true, true) => return None,
        (true, false) => "the processor's temperature",
        (false, true) => "the clock",
        (false, false) => "the clock and the processor's temperature",
    };
    note(
        format!("The system does not tell {untold}."),
        "Nothing has to be done: measurements rely on waiting threads, steal and the reference network instead.",
    )
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn gigahertz(khz: u64) -> f64 {
    khz as f64 / 1e6
}
