use lathe_agent::{MAX_ITEMS, ThermalZone};

use super::files::SystemFiles;

/// Drivers of processors' sensors where the kernel has no zone for them.
const DRIVERS: [&str; 3] = ["coretemp", "k10temp", "zenpower"];

/// All temperatures.
pub fn zones(files: &SystemFiles) -> Vec<ThermalZone> {
    let mut zones = thermal_zones(files);
    if !zones.iter().any(ThermalZone::is_processor) {
        zones.extend(hardware_monitors(files));
    }
    zones.truncate(MAX_ITEMS);
    zones
}

fn thermal_zones(files: &SystemFiles) -> Vec<ThermalZone> {
    const FOLDER: &str = "/sys/class/thermal";
    let names = files.names(FOLDER, "thermal_zone").into_iter();
    let zones = names.filter_map(|zone| {
        let name = files.line(&format!("{FOLDER}/{zone}/type"))?;
        let celsius = celsius(files.number(&format!("{FOLDER}/{zone}/temp"))?)?;
        Some(ThermalZone { name, celsius })
    });
    zones.collect()
}

fn hardware_monitors(files: &SystemFiles) -> Vec<ThermalZone> {
    const FOLDER: &str = "/sys/class/hwmon";
    let monitors = files.names(FOLDER, "hwmon").into_iter();
    let sensors = monitors.flat_map(|monitor| {
        let folder = format!("{FOLDER}/{monitor}");
        let driver = files.line(&format!("{folder}/name")).unwrap_or_default();
        let is_processor = DRIVERS.contains(&driver.as_str());
        let names = files.names(&folder, "temp").into_iter();
        let inputs = names.filter(move |name| is_processor && name.ends_with("_input"));
        inputs.map(move |input| (driver.clone(), format!("{folder}/{input}")))
    });
    let zones = sensors.filter_map(|(driver, input)| {
        let label = files.line(&input.replace("_input", "_label"));
        let label = label.unwrap_or_default();
        let name = super::files::printable(&format!("{driver} {label}"))?;
        let celsius = celsius(files.number(&input)?)?;
        Some(ThermalZone { name, celsius })
    });
    zones.collect()
}

/// Thousandths of a degree, as the kernel's documentation has it; some phones' drivers give
/// degrees. Sensors that are off give 0 or absurd numbers.
fn celsius(raw: i64) -> Option<f64> {
    match raw {
        -50_000..=-1000 | 1000..=200_000 => Some(raw as f64 / 1000.0),
        10..=200 => Some(raw as f64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degrees_and_thousandths_are_told_apart() {
        assert_eq!(celsius(41_500), Some(41.5));
        assert_eq!(celsius(41), Some(41.0));
        assert_eq!(celsius(-5000), Some(-5.0));
        for nonsense in [0, -274_000, 1_000_000, i64::MIN, i64::MAX] {
            assert_eq!(celsius(nonsense), None, "{nonsense}");
        }
    }
}
