use lathe_agent::{Battery, EnergyCounter, EnergyKind, MAX_ITEMS};

use super::energy;
use super::files::SystemFiles;

const SUPPLIES: &str = "/sys/class/power_supply";

/// The first battery that feeds the device.
pub fn battery(files: &SystemFiles) -> Option<Battery> {
    let supplies = supplies(files);
    let is_plugged = supplies.iter().any(|supply| {
        let online: Option<u32> = files.number(&format!("{supply}/online"));
        !is_battery(files, supply) && online.is_some_and(|online| online != 0)
    });
    let batteries = supplies.iter().filter(|supply| is_battery(files, supply));
    let mut told = batteries.filter_map(|supply| {
        let percent: f64 = files.number(&format!("{supply}/capacity"))?;
        let status = files.line(&format!("{supply}/status")).unwrap_or_default();
        let is_fed = matches!(status.as_str(), "Charging" | "Full" | "Not charging");
        (0.0..=100.0).contains(&percent).then_some(Battery {
            percent,
            is_charging: status == "Charging",
            is_plugged: is_plugged || is_fed,
        })
    });
    told.next()
}

/// Energy counters of the processor and gauges of batteries.
pub fn energy_counters(files: &SystemFiles) -> Vec<EnergyCounter> {
    let mut counters = energy::counters(files);
    let supplies = supplies(files);
    let batteries = supplies.iter().filter(|supply| is_battery(files, supply));
    counters.extend(batteries.map(|supply| {
        let reads = |name| files.number::<i64>(&format!("{supply}/{name}")).is_some();
        EnergyCounter {
            kind: EnergyKind::PowerSupply,
            name: name_of(supply),
            is_readable: reads("power_now") || (reads("current_now") && reads("voltage_now")),
        }
    }));
    counters.truncate(MAX_ITEMS);
    counters
}

/// Folders of the supplies of the device itself, not of its mouse.
fn supplies(files: &SystemFiles) -> Vec<String> {
    let names = files.names(SUPPLIES, "").into_iter();
    let folders = names.map(|name| format!("{SUPPLIES}/{name}"));
    let scope = |supply: &str| files.line(&format!("{supply}/scope"));
    folders
        .filter(|supply| scope(supply).is_none_or(|scope| scope != "Device"))
        .collect()
}

fn is_battery(files: &SystemFiles, supply: &str) -> bool {
    let kind = files.line(&format!("{supply}/type"));
    kind.is_some_and(|kind| kind == "Battery")
}

fn name_of(supply: &str) -> String {
    let name = supply.rsplit('/').next().unwrap_or(supply);
    super::files::printable(name).unwrap_or_default()
}
