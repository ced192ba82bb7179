use lathe_agent::{Battery, IdleWindow, ThermalZone};

use super::*;

fn core(id: usize) -> Core {
    Core {
        id,
        is_online: true,
        is_allowed: true,
        governor: Some("performance".to_owned()),
        ..Core::default()
    }
}

fn zone(name: &str, celsius: f64) -> ThermalZone {
    ThermalZone {
        name: name.to_owned(),
        celsius,
    }
}

/// A quiet desktop with four cores.
fn quiet() -> Inspection {
    Inspection {
        cores: (0..4).map(core).collect(),
        available_memory_bytes: Some(8 << 30),
        free_disk_bytes: Some(100 << 30),
        load_1min: Some(0.2),
        cpu_pressure_avg10_percent: Some(0.5),
        memory_pressure_avg10_percent: Some(0.0),
        idle_window: Some(IdleWindow {
            ticks: 80,
            ..IdleWindow::default()
        }),
        thermal_zones: vec![zone("x86_pkg_temp", 45.0)],
        ..Inspection::default()
    }
}

/// The only finding, if there is one.
fn only(inspection: &Inspection, threads: usize) -> Option<(Severity, String)> {
    let preflight = preflight(inspection, threads, None);
    assert!(preflight.findings.len() <= 1, "{:?}", preflight.findings);
    let finding = preflight.findings.into_iter().next()?;
    assert!(finding.what.ends_with('.') && finding.remedy.ends_with('.'));
    Some((finding.severity, finding.what))
}

fn window(ticks: u64, steal_percent: f64, others_busy_percent: f64) -> Option<IdleWindow> {
    Some(IdleWindow {
        ticks,
        steal_percent,
        others_busy_percent,
        package_watts: None,
    })
}

#[test]
fn a_quiet_machine_is_fit() {
    let preflight = preflight(&quiet(), 4, Some(1 << 30));
    assert_eq!(preflight.findings, []);
    assert_eq!(preflight.verdict(), Verdict::Fit);
    assert_eq!(preflight.fastest_cores, [0, 1, 2, 3]);
}

#[test]
fn every_rule_has_a_limit() {
    type Change = fn(&mut Inspection);
    // What is just allowed, what is not, and a word of the finding.
    let cases: [(Change, Change, Severity, &str); 12] = [
        (
            |i| i.load_1min = Some(1.0),
            |i| i.load_1min = Some(1.1),
            Severity::Warning,
            "last minute",
        ),
        (
            |i| i.cpu_pressure_avg10_percent = Some(5.0),
            |i| i.cpu_pressure_avg10_percent = Some(5.1),
            Severity::Warning,
            "waited for a processor",
        ),
        (
            |i| i.memory_pressure_avg10_percent = Some(5.0),
            |i| i.memory_pressure_avg10_percent = Some(6.0),
            Severity::Warning,
            "memory",
        ),
        (
            |i| i.idle_window = window(400, 1.0, 0.0),
            |i| i.idle_window = window(400, 1.25, 0.0),
            Severity::Warning,
            "hypervisor",
        ),
        (
            |i| i.idle_window = window(40, 2.5, 0.0),
            |i| i.idle_window = window(40, 12.5, 0.0),
            Severity::Refusal,
            "hypervisor",
        ),
        (
            |i| i.idle_window = window(80, 0.0, 10.0),
            |i| i.idle_window = window(80, 0.0, 25.0),
            Severity::Warning,
            "Other programs",
        ),
        (
            |i| i.thermal_zones.push(zone("battery", 99.0)),
            |i| i.thermal_zones.push(zone("cpu-0", 71.0)),
            Severity::Warning,
            "cpu-0",
        ),
        (
            |i| i.cores[1].governor = Some("userspace".to_owned()),
            |i| i.cores[1].governor = Some("powersave".to_owned()),
            Severity::Warning,
            "powersave",
        ),
        (
            |i| (i.cores[2].limit_khz, i.cores[2].max_khz) = (Some(2_990_000), Some(3_000_000)),
            |i| (i.cores[2].limit_khz, i.cores[2].max_khz) = (Some(1_500_000), Some(3_000_000)),
            Severity::Warning,
            "1.50 of 3.00 GHz",
        ),
        (
            |i| i.cpu_quota = Some(4.0),
            |i| i.cpu_quota = Some(1.5),
            Severity::Refusal,
            "control group",
        ),
        (
            |i| i.free_disk_bytes = Some(1 << 30),
            |i| i.free_disk_bytes = Some(1 << 29),
            Severity::Warning,
            "512 MiB of disk",
        ),
        (
            |i| i.is_boost_enabled = Some(false),
            |i| i.is_boost_enabled = Some(true),
            Severity::Note,
            "boost",
        ),
    ];
    for (allow, exceed, severity, word) in cases {
        let (mut allowed, mut exceeding) = (quiet(), quiet());
        allow(&mut allowed);
        assert_eq!(only(&allowed, 4), None, "{word}");
        exceed(&mut exceeding);
        let (found, what) = only(&exceeding, 4).expect(word);
        assert!(what.contains(word), "{what}");
        assert_eq!(found, severity, "{what}");
    }
}

#[test]
fn pressure_is_refused_while_it_lasts() {
    let mut pressed = quiet();
    pressed.cpu_pressure_avg10_percent = Some(80.0);
    assert_eq!(only(&pressed, 4).unwrap().0, Severity::Warning);
    pressed.idle_window = None;
    assert_eq!(only(&pressed, 4).unwrap().0, Severity::Refusal);
    pressed.idle_window = window(80, 0.0, 60.0);
    assert_eq!(preflight(&pressed, 4, None).verdict(), Verdict::NotFit);
}

#[test]
fn batteries_have_to_be_charged_but_not_charging() {
    let with = |percent, is_charging| Inspection {
        battery: Some(Battery {
            percent,
            is_charging,
            is_plugged: is_charging,
        }),
        ..quiet()
    };
    assert_eq!(only(&with(30.0, false), 4), None);
    assert!(only(&with(29.0, false), 4).unwrap().1.contains("29 %"));
    assert!(only(&with(80.0, true), 4).unwrap().1.contains("charged"));
}

#[test]
fn only_the_fast_cores_of_a_phone_are_taken() {
    let mut phone = quiet();
    phone.cores = (0..8).map(core).collect();
    for core in &mut phone.cores {
        core.capacity = Some([325, 325, 325, 325, 870, 870, 870, 1024][core.id]);
    }
    assert_eq!(preflight(&phone, 4, None).fastest_cores, [4, 5, 6, 7]);
    assert_eq!(only(&phone, 4), None);
    let (severity, what) = only(&phone, 6).unwrap();
    assert_eq!(severity, Severity::Warning);
    assert!(what.contains("4-7"), "{what}");
    let (severity, _) = only(&phone, 9).unwrap();
    assert_eq!(severity, Severity::Refusal);
    phone.cores[7].is_online = false;
    phone.cores[6].is_allowed = false;
    assert_eq!(preflight(&phone, 2, None).fastest_cores, [4, 5]);
}

#[test]
fn clocks_tell_speeds_where_capacities_do_not() {
    let mut hybrid = quiet();
    for core in &mut hybrid.cores {
        core.max_khz = Some([5_000_000, 5_200_000, 3_900_000, 3_900_000][core.id]);
    }
    assert_eq!(preflight(&hybrid, 2, None).fastest_cores, [0, 1]);
    hybrid.cores[3].max_khz = None;
    assert_eq!(preflight(&hybrid, 2, None).fastest_cores, [0, 1, 2, 3]);
}

#[test]
fn threads_of_one_core_count_once() {
    let mut laptop = quiet();
    laptop.is_smt_active = Some(true);
    for core in &mut laptop.cores {
        core.first_sibling = Some(core.id % 2);
    }
    let two = preflight(&laptop, 2, None);
    assert_eq!(two.fastest_cores, [0, 1]);
    assert_eq!(two.verdict(), Verdict::Fit);
    assert_eq!(
        preflight(&laptop, 3, None).verdict(),
        Verdict::UsableWithNoise
    );
}

#[test]
fn memory_has_to_suffice() {
    let preflight = preflight(&quiet(), 4, Some(9 << 30));
    assert_eq!(preflight.verdict(), Verdict::NotFit);
    assert!(preflight.findings[0].what.contains("9216 MiB"));
}

#[test]
fn a_system_that_tells_nothing_is_noted_and_not_refused() {
    let preflight = preflight(&Inspection::default(), 64, Some(1 << 40));
    assert_eq!(preflight.verdict(), Verdict::Fit);
    assert!(
        preflight
            .findings
            .iter()
            .any(|finding| finding.remedy.contains("reference network"))
    );
}

#[test]
fn the_gravest_finding_comes_first() {
    let busy = Inspection {
        virtual_machine: Some("KVM".to_owned()),
        cpu_pressure_avg10_percent: Some(80.0),
        load_1min: Some(9.0),
        idle_window: None,
        ..quiet()
    };
    let preflight = preflight(&busy, 4, None);
    let severities: Vec<Severity> = preflight
        .findings
        .iter()
        .map(|finding| finding.severity)
        .collect();
    assert_eq!(
        severities,
        [Severity::Refusal, Severity::Warning, Severity::Note]
    );
    assert_eq!(preflight.verdict(), Verdict::NotFit);
}

#[test]
fn processors_are_listed_as_taskset_takes_them() {
    assert_eq!(processor_list(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
    assert_eq!(processor_list(&[usize::MAX]), usize::MAX.to_string());
    assert_eq!(processor_list(&[]), "");
}
