//! The state of a device: what it is, what it is busy with, how hot it is, what feeds it.
//!
//! The agent fills an [`Inspection`] on the device; whoever asked for it calls
//! [`Inspection::check`] before it uses or prints anything of it.
//!
//! ```
//! use lathe_agent::{Core, Inspection};
//!
//! let core = Core { id: 0, is_online: true, is_allowed: true, ..Core::default() };
//! let inspection = Inspection { cpu_model: "Cortex-X3".into(), cores: vec![core], ..Inspection::default() };
//! inspection.check()?;
//! assert_eq!(inspection.usable_cores().count(), 1);
//! # Ok::<(), lathe_agent::InspectionError>(())
//! ```

use serde::{Deserialize, Serialize};

/// Most items of one list in an [`Inspection`].
pub const MAX_ITEMS: usize = 1024;

/// Most characters of one text in an [`Inspection`].
pub const MAX_CHARACTERS: usize = 256;

/// Temperatures outside are no temperatures of a working device, in degrees Celsius.
const CELSIUS: (f64, f64) = (-60.0, 250.0);

/// What a device says of itself. `None` where the system does not tell; a text is empty then.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inspection {
    /// Name of the processor, or of the board where the processor has none.
    pub cpu_model: String,
    /// Operating system with its version.
    pub os: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the hypervisor or of its machine, when this is a virtual machine.
    pub virtual_machine: Option<String>,
    /// Logical processors, in ascending order of their ids.
    pub cores: Vec<Core>,
    /// Whether cores run two threads each at the moment.
    pub is_smt_active: Option<bool>,
    /// Whether the clock may rise above the nominal clock.
    pub is_boost_enabled: Option<bool>,
    /// Processors' worth of time that the agent's control groups allow it.
    pub cpu_quota: Option<f64>,
    /// Size of the largest cache of the last level.
    pub last_level_cache_bytes: Option<u64>,
    /// Memory in all.
    pub memory_bytes: Option<u64>,
    /// Memory that a new program can take without swapping, within the control groups' limits.
    pub available_memory_bytes: Option<u64>,
    /// Free space for the agent in its working folder.
    pub free_disk_bytes: Option<u64>,
    /// Tasks that ran or waited, on average over the last minute.
    pub load_1min: Option<f64>,
    /// Share of the last 10 s in which some task waited for a processor.
    pub cpu_pressure_avg10_percent: Option<f64>,
    /// Share of the last 10 s in which some task waited for memory.
    pub memory_pressure_avg10_percent: Option<f64>,
    /// What the processors did while the agent itself slept.
    pub idle_window: Option<IdleWindow>,
    /// Temperatures.
    pub thermal_zones: Vec<ThermalZone>,
    /// The device's battery.
    pub battery: Option<Battery>,
    /// Counters and meters of energy.
    pub energy_counters: Vec<EnergyCounter>,
}

/// A logical processor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Core {
    /// Its number.
    pub id: usize,
    /// Whether the system uses it.
    pub is_online: bool,
    /// Whether the agent may run on it.
    pub is_allowed: bool,
    /// Smallest id of the processors that share its execution units.
    pub first_sibling: Option<usize>,
    /// Number of its cluster.
    pub cluster_id: Option<u32>,
    /// Number of its socket.
    pub package_id: Option<u32>,
    /// Its speed beside the fastest, which has 1024 (`cpu_capacity`).
    pub capacity: Option<u32>,
    /// Fastest clock of the hardware.
    pub max_khz: Option<u64>,
    /// Fastest clock that the system grants at the moment.
    pub limit_khz: Option<u64>,
    /// Clock at the moment.
    pub now_khz: Option<u64>,
    /// Who chooses the clock.
    pub governor: Option<String>,
}

/// What all processors together did in a short time in which the agent slept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct IdleWindow {
    /// Its length in time of all processors together, in clock ticks: no share smaller than one
    /// in this many can be seen.
    pub ticks: u64,
    /// Share that the hypervisor took away.
    pub steal_percent: f64,
    /// Share that other processes used.
    pub others_busy_percent: f64,
    /// Power of all processor packages, where it can be read.
    pub package_watts: Option<f64>,
}

/// A place whose temperature is known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ThermalZone {
    /// The system's name for it.
    pub name: String,
    /// Its temperature.
    pub celsius: f64,
}

/// The device's battery.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Battery {
    /// Charge.
    pub percent: f64,
    /// Whether it is being charged.
    pub is_charging: bool,
    /// Whether the device is fed from outside.
    pub is_plugged: bool,
}

/// A counter or meter of energy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyCounter {
    /// What it is.
    pub kind: EnergyKind,
    /// The system's name for it.
    pub name: String,
    /// Whether the agent may read it.
    pub is_readable: bool,
}

/// Kinds of [`EnergyCounter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergyKind {
    /// A running average power limit counter: energy so far, in microjoules.
    Rapl,
    /// A battery's gauge: current in microamperes and voltage in microvolts, or power in
    /// microwatts.
    PowerSupply,
}

impl EnergyKind {
    /// Unit of the readings.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rapl => "uJ",
            Self::PowerSupply => "uW",
        }
    }
}

impl ThermalZone {
    /// Whether its name is one of those that processors' sensors have under Linux and Android.
    /// Skin, battery and board sensors say little of the clock.
    pub fn is_processor(&self) -> bool {
        const WORDS: [&str; 7] = [
            "cpu", "soc", "pkg", "coretemp", "k10temp", "zenpower", "tsens",
        ];
        const NAMES: [&str; 3] = ["big", "mid", "little"];
        let name = self.name.to_lowercase();
        WORDS.iter().any(|word| name.contains(word)) || NAMES.contains(&name.as_str())
    }
}

/// Why an [`Inspection`] cannot be believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InspectionError {
    /// A list is too long.
    #[error("`{field}` has {found} items, expected at most {MAX_ITEMS}")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Its length.
        found: usize,
    },
    /// A text is too long.
    #[error("`{field}` has {found} characters, expected at most {MAX_CHARACTERS}")]
    TooLong {
        /// The text.
        field: &'static str,
        /// Its length in characters.
        found: usize,
    },
    /// A text would steer the terminal that it is printed on.
    #[error("`{field}` holds a control character: {text:?}")]
    Control {
        /// The text's name.
        field: &'static str,
        /// The text.
        text: String,
    },
    /// A number is out of its range.
    #[error("`{field}` is {found}, expected {low} to {high}")]
    OutOfRange {
        /// The number's name.
        field: &'static str,
        /// The number.
        found: f64,
        /// The smallest possible.
        low: f64,
        /// The largest possible.
        high: f64,
    },
    /// Two processors have one number, or they are out of order.
    #[error("processor {id} is listed twice or out of order")]
    Unordered {
        /// The number.
        id: usize,
    },
}

impl Inspection {
    /// Whether lists and texts are short and printable, and numbers are possible.
    ///
    /// # Errors
    /// The first field that is wrong, with what is wrong with it.
    pub fn check(&self) -> Result<(), InspectionError> {
        self.check_lengths()?;
        for (field, text) in self.texts() {
            check_text(field, text)?;
        }
        for (field, found, (low, high)) in self.numbers() {
            // A NaN is in no range.
            if !(low..=high).contains(&found) {
                return Err(InspectionError::OutOfRange {
                    field,
                    found,
                    low,
                    high,
                });
            }
        }
        match self.cores.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            Some(pair) => Err(InspectionError::Unordered { id: pair[1].id }),
            None => Ok(()),
        }
    }

    /// Processors that are online and open to the agent.
    pub fn usable_cores(&self) -> impl Iterator<Item = &Core> {
        let is_usable = |core: &&Core| core.is_online && core.is_allowed;
        self.cores.iter().filter(is_usable)
    }

    fn check_lengths(&self) -> Result<(), InspectionError> {
        let lengths = [
            ("cores", self.cores.len()),
            ("thermal_zones", self.thermal_zones.len()),
            ("energy_counters", self.energy_counters.len()),
        ];
        match lengths.into_iter().find(|(_, found)| *found > MAX_ITEMS) {
            Some((field, found)) => Err(InspectionError::TooMany { field, found }),
            None => Ok(()),
        }
    }

    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let own = [
            ("cpu_model", Some(&self.cpu_model)),
            ("os", Some(&self.os)),
            ("kernel", Some(&self.kernel)),
            ("virtual_machine", self.virtual_machine.as_ref()),
        ];
        let governors = self.cores.iter().map(|core| core.governor.as_ref());
        let zones = self.thermal_zones.iter().map(|zone| &zone.name);
        let counters = self.energy_counters.iter().map(|counter| &counter.name);
        own.into_iter()
            .chain(governors.map(|text| ("cores.governor", text)))
            .chain(zones.map(|text| ("thermal_zones.name", Some(text))))
            .chain(counters.map(|text| ("energy_counters.name", Some(text))))
            .filter_map(|(field, text)| Some((field, text?.as_str())))
    }

    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64, (f64, f64))> {
        const PERCENT: (f64, f64) = (0.0, 100.0);
        const POSITIVE: (f64, f64) = (0.0, 1e9);
        let window = self.idle_window.as_ref();
        let own = [
            ("cpu_quota", self.cpu_quota, POSITIVE),
            ("load_1min", self.load_1min, POSITIVE),
            (
                "cpu_pressure_avg10_percent",
                self.cpu_pressure_avg10_percent,
                PERCENT,
            ),
            (
                "memory_pressure_avg10_percent",
                self.memory_pressure_avg10_percent,
                PERCENT,
            ),
            ("steal_percent", window.map(|w| w.steal_percent), PERCENT),
            (
                "others_busy_percent",
                window.map(|w| w.others_busy_percent),
                PERCENT,
            ),
            (
                "package_watts",
                window.and_then(|w| w.package_watts),
                POSITIVE,
            ),
            ("battery.percent", self.battery.map(|b| b.percent), PERCENT),
        ];
        let zones = self.thermal_zones.iter().map(|zone| zone.celsius);
        own.into_iter()
            .chain(zones.map(|celsius| ("thermal_zones.celsius", Some(celsius), CELSIUS)))
            .filter_map(|(field, found, range)| Some((field, found?, range)))
    }
}

fn check_text(field: &'static str, text: &str) -> Result<(), InspectionError> {
    let found = text.chars().count();
    if found > MAX_CHARACTERS {
        return Err(InspectionError::TooLong { field, found });
    }
    if text.chars().any(char::is_control) {
        let text = text.to_owned();
        return Err(InspectionError::Control { field, text });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str, celsius: f64) -> ThermalZone {
        ThermalZone {
            name: name.to_owned(),
            celsius,
        }
    }

    fn core(id: usize) -> Core {
        Core {
            id,
            ..Core::default()
        }
    }

    #[test]
    fn an_empty_inspection_is_sound() {
        assert_eq!(Inspection::default().check(), Ok(()));
    }

    #[test]
    fn unsound_fields_are_named() {
        let sound = Inspection::default;
        let window = |steal_percent, others_busy_percent| IdleWindow {
            steal_percent,
            others_busy_percent,
            ..IdleWindow::default()
        };
        let wrong = [
            (
                "cores",
                Inspection {
                    cores: (0..=MAX_ITEMS).map(core).collect(),
                    ..sound()
                },
            ),
            (
                "processor 3",
                Inspection {
                    cores: vec![core(3), core(3)],
                    ..sound()
                },
            ),
            (
                "cpu_model",
                Inspection {
                    cpu_model: "x".repeat(MAX_CHARACTERS + 1),
                    ..sound()
                },
            ),
            (
                "kernel",
                Inspection {
                    kernel: "6.1\u{1b}[2J".to_owned(),
                    ..sound()
                },
            ),
            (
                "load_1min",
                Inspection {
                    load_1min: Some(f64::NAN),
                    ..sound()
                },
            ),
            (
                "steal_percent",
                Inspection {
                    idle_window: Some(window(100.5, 0.0)),
                    ..sound()
                },
            ),
            (
                "others_busy_percent",
                Inspection {
                    idle_window: Some(window(0.0, -1.0)),
                    ..sound()
                },
            ),
            (
                "thermal_zones.celsius",
                Inspection {
                    thermal_zones: vec![zone("cpu", f64::INFINITY)],
                    ..sound()
                },
            ),
        ];
        for (word, inspection) in wrong {
            let message = inspection.check().unwrap_err().to_string();
            assert!(message.contains(word), "{word}: {message}");
        }
    }

    #[test]
    fn sensors_of_processors_are_told_from_others() {
        for name in [
            "x86_pkg_temp",
            "cpu-1-3",
            "cpuss-0-usr",
            "soc_thermal",
            "BIG",
            "k10temp",
        ] {
            assert!(zone(name, 0.0).is_processor(), "{name}");
        }
        for name in ["acpitz", "battery", "skin-therm", "iwlwifi_1", "modem0"] {
            assert!(!zone(name, 0.0).is_processor(), "{name}");
        }
    }

    #[test]
    fn it_survives_the_wire() {
        let inspection = Inspection {
            cores: vec![core(0), core(1)],
            thermal_zones: vec![zone("cpu", 41.25)],
            energy_counters: vec![EnergyCounter {
                kind: EnergyKind::Rapl,
                name: "package-0".to_owned(),
                is_readable: false,
            }],
            ..Inspection::default()
        };
        let line = serde_json::to_string(&inspection).unwrap();
        let read: Inspection = serde_json::from_str(&line).unwrap();
        assert_eq!(read, inspection);
    }
}
