//! Trees of `/proc` and `/sys` as devices have them.

use std::fs;
use std::time::Duration;

use lathe_agent::{EnergyKind, Inspection, MAX_CHARACTERS};
use tempfile::TempDir;

use super::energy::EnergyReading;
use super::files::SystemFiles;

type Files = Vec<(String, String)>;

fn files(pairs: &[(&str, &str)]) -> Files {
    let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), format!("{text}\n"));
    pairs.iter().map(owned).collect()
}

fn write(folder: &TempDir, files: &Files) {
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn inspect(files: &Files) -> Inspection {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, files);
    let inspection = super::inspection(&SystemFiles::below(folder.path()), Duration::ZERO);
    inspection.check().unwrap();
    inspection
}

/// One prime, three big and four little cores, unplugged.
fn phone() -> Files {
    let mut all = files(&[
        (
            "proc/cpuinfo",
            "processor\t: 0\nCPU part\t: 0xd46\n\nHardware\t: Qualcomm SM8550",
        ),
        ("proc/device-tree/model", "Kalama\0"),
        (
            "proc/meminfo",
            "MemTotal:       7639184 kB\nMemFree:  203884 kB\nMemAvailable:    3145728 kB",
        ),
        ("proc/loadavg", "6.08 5.21 4.90 2/2610 9123"),
        (
            "proc/self/status",
            "Name:\tlathe\nCpus_allowed:\tfe\nCpus_allowed_list:\t1-7",
        ),
        ("proc/sys/kernel/osrelease", "5.15.94-android13-8"),
        ("system/build.prop", "ro.a=b\nro.build.version.release=14"),
        ("sys/devices/system/cpu/online", "0-7"),
        ("sys/devices/system/cpu/cpufreq/boost", "x"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-1-7"),
        ("sys/class/thermal/thermal_zone0/temp", "71300"),
        ("sys/class/thermal/thermal_zone2/type", "skin-therm"),
        ("sys/class/thermal/thermal_zone2/temp", "33"),
        ("sys/class/thermal/thermal_zone10/type", "modem-off"),
        ("sys/class/thermal/thermal_zone10/temp", "-273000"),
        ("sys/class/power_supply/battery/type", "Battery"),
        ("sys/class/power_supply/battery/capacity", "64"),
        ("sys/class/power_supply/battery/status", "Discharging"),
        ("sys/class/power_supply/battery/current_now", "-412000"),
        ("sys/class/power_supply/battery/voltage_now", "3921000"),
        ("sys/class/power_supply/usb/type", "USB"),
        ("sys/class/power_supply/usb/online", "0"),
    ]);
    for core in 0..8 {
        let (capacity, khz) = match core {
            0..4 => ("325", "2016000"),
            4..7 => ("870", "2803200"),
            _ => ("1024", "3187200"),
        };
        let folder = format!("sys/devices/system/cpu/cpu{core}");
        for (name, text) in [
            ("cpu_capacity", capacity),
            ("cpufreq/cpuinfo_max_freq", khz),
            ("cpufreq/scaling_max_freq", khz),
            ("cpufreq/scaling_cur_freq", "595200"),
            ("cpufreq/scaling_governor", "walt"),
            ("topology/cluster_id", "65535"),
            ("topology/physical_package_id", "0"),
            ("topology/thread_siblings_list", &core.to_string()),
        ] {
            all.push((format!("{folder}/{name}"), format!("{text}\n")));
        }
    }
    all
}

/// Two cores of two threads each, with energy counters that only root may read.
fn laptop() -> Files {
    let mut all = files(&[
        (
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7\nflags\t\t: fpu vme",
        ),
        (
            "proc/pressure/cpu",
            "some avg10=3.25 avg60=0.10 avg300=0.00 total=11\nfull avg10=0.00",
        ),
        (
            "proc/pressure/memory",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
        ),
        (
            "proc/meminfo",
            "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB",
        ),
        (
            "proc/stat",
            "cpu  100 0 50 1000 7 0 0 0 0 0\ncpu0 100 0 50 1000 7 0 0 0 0 0",
        ),
        (
            "proc/self/stat",
            "77 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12",
        ),
        ("proc/self/cgroup", "0::/user.slice/box"),
        ("sys/fs/cgroup/user.slice/cpu.max", "150000 100000"),
        ("sys/fs/cgroup/user.slice/box/cpu.max", "max 100000"),
        ("sys/fs/cgroup/user.slice/box/memory.max", "4000000000"),
        ("sys/fs/cgroup/user.slice/box/memory.current", "1000000000"),
        (
            "etc/os-release",
            "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"",
        ),
        ("sys/devices/system/cpu/online", "0-2"),
        ("sys/devices/system/cpu/smt/active", "1"),
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "0"),
        ("sys/class/dmi/id/product_name", "ThinkPad"),
        ("sys/class/powercap/intel-rapl:0/name", "package-0"),
        (
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            "262143328850",
        ),
        ("sys/class/powercap/intel-rapl:0:0/name", "core"),
        ("sys/class/power_supply/AC/type", "Mains"),
        ("sys/class/power_supply/AC/online", "1"),
        ("sys/class/power_supply/BAT0/type", "Battery"),
        ("sys/class/power_supply/BAT0/capacity", "88"),
        ("sys/class/power_supply/BAT0/status", "Not charging"),
        ("sys/class/power_supply/hidpp_battery_0/type", "Battery"),
        ("sys/class/power_supply/hidpp_battery_0/scope", "Device"),
        ("sys/class/power_supply/hidpp_battery_0/capacity", "5"),
        ("sys/class/hwmon/hwmon3/name", "coretemp"),
        ("sys/class/hwmon/hwmon3/temp1_label", "Package id 0"),
        ("sys/class/hwmon/hwmon3/temp1_input", "52000"),
        ("sys/class/hwmon/hwmon4/name", "nvme"),
        ("sys/class/hwmon/hwmon4/temp1_input", "40000"),
    ]);
    for core in 0..4 {
        let folder = format!("sys/devices/system/cpu/cpu{core}");
        for (name, text) in [
            ("cpufreq/scaling_governor", "powersave"),
            (
                "topology/thread_siblings_list",
                if core % 2 == 0 { "0,2" } else { "1,3" },
            ),
            ("cache/index0/level", "1"),
            ("cache/index0/size", "48K"),
            ("cache/index3/level", "3"),
            ("cache/index3/size", "12M"),
        ] {
            all.push((format!("{folder}/{name}"), format!("{text}\n")));
        }
    }
    all
}

/// A small virtual machine that tells next to nothing.
fn virtual_machine() -> Files {
    files(&[
        (
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1",
        ),
        (
            "proc/pressure/cpu",
            "some avg10=79.90 avg60=2.51 avg300=1.75 total=675420027",
        ),
        ("proc/sys/kernel/osrelease", "6.18.44"),
        ("sys/devices/system/cpu/smt/active", "0"),
        ("sys/class/thermal/keep", ""),
    ])
}

#[test]
fn a_phone_shows_its_clusters_heat_and_battery() {
    let phone = inspect(&phone());
    assert_eq!(phone.cpu_model, "Qualcomm SM8550");
    assert_eq!(phone.os, "Android 14");
    assert_eq!(phone.virtual_machine, None);
    assert_eq!(phone.available_memory_bytes, Some(3 << 30));
    assert_eq!(phone.load_1min, Some(6.08));
    let capacities: Vec<_> = phone
        .cores
        .iter()
        .filter_map(|core| core.capacity)
        .collect();
    assert_eq!(capacities, [325, 325, 325, 325, 870, 870, 870, 1024]);
    assert!(phone.cores.iter().all(|core| core.cluster_id.is_none()));
    let usable: Vec<_> = phone.usable_cores().map(|core| core.id).collect();
    assert_eq!(usable, [1, 2, 3, 4, 5, 6, 7]);
    let prime = &phone.cores[7];
    assert_eq!(
        (prime.max_khz, prime.now_khz),
        (Some(3_187_200), Some(595_200))
    );
    assert_eq!(prime.governor.as_deref(), Some("walt"));
    let heat: Vec<_> = phone
        .thermal_zones
        .iter()
        .map(|zone| (&zone.name[..], zone.celsius))
        .collect();
    assert_eq!(heat, [("cpu-1-7", 71.3), ("skin-therm", 33.0)]);
    let battery = phone.battery.unwrap();
    assert_eq!(
        (battery.percent, battery.is_charging, battery.is_plugged),
        (64.0, false, false)
    );
    let gauge = &phone.energy_counters[0];
    assert_eq!(
        (gauge.kind, gauge.is_readable),
        (EnergyKind::PowerSupply, true)
    );
}

#[test]
fn a_laptop_shows_its_threads_counters_and_limits() {
    let laptop = inspect(&laptop());
    assert_eq!(laptop.os, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(
        (laptop.is_smt_active, laptop.is_boost_enabled),
        (Some(true), Some(true))
    );
    assert_eq!(laptop.virtual_machine, None);
    assert_eq!(laptop.last_level_cache_bytes, Some(12 << 20));
    assert_eq!(laptop.cpu_pressure_avg10_percent, Some(3.25));
    assert_eq!(laptop.cpu_quota, Some(1.5));
    assert_eq!(laptop.available_memory_bytes, Some(3_000_000_000));
    assert_eq!(laptop.cores[2].first_sibling, Some(0));
    assert!(!laptop.cores[3].is_online);
    assert!(
        laptop
            .cores
            .iter()
            .all(|core| core.governor.as_deref() == Some("powersave"))
    );
    // The counters of the fixture stand still.
    assert_eq!(laptop.idle_window, None);
    let heat: Vec<_> = laptop
        .thermal_zones
        .iter()
        .map(|zone| &zone.name[..])
        .collect();
    assert_eq!(heat, ["coretemp Package id 0"]);
    let battery = laptop.battery.unwrap();
    assert_eq!(
        (battery.percent, battery.is_charging, battery.is_plugged),
        (88.0, false, true)
    );
    let counters: Vec<_> = laptop
        .energy_counters
        .iter()
        .map(|counter| (&counter.name[..], counter.is_readable))
        .collect();
    assert_eq!(
        counters,
        [("package-0", false), ("core", false), ("BAT0", false)]
    );
}

#[test]
fn a_virtual_machine_leaves_much_untold() {
    let machine = inspect(&virtual_machine());
    assert_eq!(machine.virtual_machine.as_deref(), Some("unnamed"));
    assert_eq!(machine.usable_cores().count(), 2);
    assert_eq!(machine.cpu_pressure_avg10_percent, Some(79.9));
    assert_eq!(
        (machine.load_1min, machine.battery, machine.memory_bytes),
        (None, None, None)
    );
    assert!(machine.thermal_zones.is_empty() && machine.energy_counters.is_empty());
}

#[test]
fn an_empty_system_tells_nothing() {
    let nothing = inspect(&Files::new());
    assert!(nothing.cores.is_empty());
    assert_eq!(nothing.cpu_model, "");
}

#[test]
fn garbage_in_any_file_is_survived() {
    let long = "9".repeat(100_000);
    let lines = "cpu 1 2\n".repeat(1000);
    let escapes = "\u{1b}[2J\u{7}x";
    let garbage = [
        "",
        "\0\0\0",
        "-1",
        "18446744073709551615",
        "99999999999999999999",
        "1e999",
        "NaN",
        "inf",
        "0-18446744073709551615",
        "max max",
        "100 0",
        "model name\t:\nflags",
        "cpu ",
        "some avg10=",
        "some avg10=NaN",
        "0::/../../..",
        "0::///",
        ")",
        "Battery",
        escapes,
        &long,
        &lines,
    ];
    let mut paths: Vec<String> = phone()
        .into_iter()
        .chain(laptop())
        .map(|file| file.0)
        .collect();
    paths.sort();
    paths.dedup();
    for text in garbage {
        inspect(
            &paths
                .iter()
                .map(|path| (path.clone(), text.to_owned()))
                .collect(),
        );
    }
    let model = format!("model name\t: {}", "é".repeat(1000));
    let named = inspect(&vec![("proc/cpuinfo".to_owned(), model)]);
    assert_eq!(named.cpu_model.chars().count(), MAX_CHARACTERS);
}

#[test]
fn bytes_that_are_no_text_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, &phone());
    for (path, _) in phone() {
        fs::write(folder.path().join(path), [0xff, 0xfe, 0x00, 0x0a, 0xc3]).unwrap();
    }
    let inspection = super::inspection(&SystemFiles::below(folder.path()), Duration::ZERO);
    inspection.check().unwrap();
    assert_eq!(inspection.cores.len(), 8);
}

fn package(folder: &TempDir, number: u32, energy_uj: &str, range_uj: &str) {
    let zone = format!("sys/class/powercap/intel-rapl:{number}");
    write(
        folder,
        &vec![
            (format!("{zone}/name"), format!("package-{number}\n")),
            (format!("{zone}/energy_uj"), energy_uj.to_owned()),
            (format!("{zone}/max_energy_range_uj"), range_uj.to_owned()),
        ],
    );
}

#[test]
fn energy_is_summed_over_packages_and_wraps() {
    let folder = tempfile::tempdir().unwrap();
    let files = SystemFiles::below(folder.path());
    let nothing = EnergyReading::now(&files);
    assert_eq!(nothing.joules_since(&nothing), None);
    package(&folder, 0, "1000000", "9000000");
    package(&folder, 1, "8500000", "9000000");
    // Parts of a package are not counted beside it.
    let part = "sys/class/powercap/intel-rapl:0:0";
    write(
        &folder,
        &files_of(part, &[("name", "core"), ("energy_uj", "5")]),
    );
    let before = EnergyReading::now(&files);
    assert_eq!(before.joules_since(&nothing), None);
    package(&folder, 0, "3000000", "9000000");
    package(&folder, 1, "500000", "9000000");
    let after = EnergyReading::now(&files);
    assert_eq!(after.joules_since(&before), Some(3.0));
    // A counter that fell below its past value without a range to wrap at tells nothing.
    package(&folder, 1, "400000", "?");
    assert_eq!(EnergyReading::now(&files).joules_since(&after), None);
    package(&folder, 1, "unreadable", "9000000");
    assert_eq!(EnergyReading::now(&files).joules_since(&after), None);
}

fn files_of(folder: &str, pairs: &[(&str, &str)]) -> Files {
    let owned = |(name, text): &(&str, &str)| (format!("{folder}/{name}"), (*text).to_owned());
    pairs.iter().map(owned).collect()
}
