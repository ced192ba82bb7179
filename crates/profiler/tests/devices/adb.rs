use std::fs;

use lathe_profiler::{Agent, ProfilerError, TransportError};

use super::adbd::{Adb, Adbd};
use super::network::call;
use super::short::{agent_on, agent_process, disturbed, found, short_profile, signal};

fn error_of(yaml: &str) -> (ProfilerError, String) {
    let error = Agent::start(&agent_on(yaml)).err().expect("it cannot work");
    let text = error.to_string();
    (error, text)
}

#[test]
fn a_profile_leaves_nothing_behind() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&adbd.yaml(&adb));
    let table = short_profile(&command, work.path()).unwrap();
    assert!(table.device.name == "phone" && !table.device.kernel.is_empty());
    let private = &found(adbd.device.path(), "lathe-")[0];
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(private).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    drop(command);
    assert!(found(adbd.device.path(), "").is_empty());
}

#[test]
fn a_folder_may_have_any_name() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    let name = "a 'b' \"c\"; touch trap; $(touch trap) `touch trap`&";
    let folder = adbd.device.path().join(name);
    fs::create_dir(&folder).unwrap();
    let yaml = adbd.yaml(&adb);
    let old = format!("{:?}", adbd.device.path());
    let command = agent_on(&yaml.replace(&old, &format!("{folder:?}")));
    Agent::start(&command).unwrap().inspect().unwrap();
    assert_eq!(found(&folder, "lathe-").len(), 1);
    drop(command);
    assert!(found(&folder, "").is_empty());
}

#[test]
fn a_killed_agent_is_replaced() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&adbd.yaml(&adb));
    disturbed(&command, work.path(), || {
        signal(adbd.device.path(), "-KILL")
    })
    .unwrap();
}

#[test]
fn an_agent_that_hangs_is_replaced() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&adbd.yaml(&adb));
    let mut stopped = None;
    disturbed(&command, work.path(), || {
        stopped = agent_process(adbd.device.path());
        signal(adbd.device.path(), "-STOP");
    })
    .unwrap();
    let process = format!("/proc/{}/cmdline", stopped.unwrap());
    assert!(!fs::read_to_string(process).is_ok_and(|text| text.contains("lathe-agent")));
}

#[test]
fn a_killed_server_of_adb_is_started_again() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&adbd.yaml(&adb));
    disturbed(&command, work.path(), || {
        assert!(adb.call(&["kill-server"]))
    })
    .unwrap();
}

#[test]
fn a_rebooted_device_is_set_up_again() {
    let Some(adb) = Adb::new() else { return };
    let mut adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&adbd.yaml(&adb));
    let device = adbd.device.path().to_owned();
    disturbed(&command, work.path(), || {
        adbd.reboot();
        for private in found(&device, "lathe-") {
            fs::remove_dir_all(private).unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_pulled_cable_is_told_and_the_profile_goes_on_later() {
    let Some(adb) = Adb::new() else { return };
    let mut adbd = Adbd::new();
    let work = tempfile::tempdir().unwrap();
    let yaml = adbd.yaml(&adb).replace("reconnect_s: 20", "reconnect_s: 1");
    let command = agent_on(&yaml);
    let error = disturbed(&command, work.path(), || adbd.network.kill_all()).unwrap_err();
    assert!(
        error.to_string().contains("did not come back within 1 s"),
        "{error}"
    );
    drop(command);
    adbd.reboot();
    short_profile(&agent_on(&yaml), work.path()).unwrap();
}

#[test]
fn one_of_several_devices_has_to_be_named() {
    let Some(adb) = Adb::new() else { return };
    let adbds = [Adbd::new(), Adbd::new()];
    for adbd in &adbds {
        assert!(adb.call(&["connect", &adbd.serial()]));
    }
    let yaml = adbds[0].yaml(&adb);
    let serial = format!("    serial: '{}'\n", adbds[0].serial());
    let (error, text) = error_of(&yaml.replace(&serial, ""));
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::Denied { .. })
        ),
        "{text}"
    );
    assert!(text.contains("serial:"), "{text}");
    // Each is itself when it is named.
    for adbd in &adbds {
        let command = agent_on(&adbd.yaml(&adb));
        Agent::start(&command).unwrap();
        assert_eq!(found(adbd.device.path(), "lathe-").len(), 1);
    }
}

#[test]
fn a_device_that_is_not_there_is_said_to_be_so() {
    let Some(adb) = Adb::new() else { return };
    let adbd = Adbd::new();
    adbd.network.kill_all();
    let (error, text) = error_of(&adbd.yaml(&adb));
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::Absent { .. })
        ),
        "{text}"
    );
    let unknown = adbd.yaml(&adb).replace(&adbd.serial(), "8A1X0BZ4");
    let (_, text) = error_of(&unknown);
    assert!(text.contains("8A1X0BZ4"), "{text}");
    let program = adb.program().display().to_string();
    let (error, text) = error_of(&adbd.yaml(&adb).replace(&program, "/nowhere/adb"));
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::NoProgram { .. })
        ),
        "{text}"
    );
}

#[test]
fn the_scheduler_is_asked_for_a_foreground_share() {
    let Some(adb) = Adb::new() else { return };
    let tools = tempfile::tempdir().unwrap();
    let told = tools.path().join("told");
    let program = tools.path().join("settaskprofile");
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()),
    )
    .unwrap();
    assert!(call("chmod", &["755", program.to_str().unwrap()]));
    let adbd = Adbd::with_path(&format!("{}:/usr/bin:/bin", tools.path().display()));
    let command = agent_on(&adbd.yaml(&adb));
    let _agent = Agent::start(&command).unwrap();
    let process = agent_process(adbd.device.path()).unwrap();
    let asked = fs::read_to_string(told).unwrap();
    assert!(
        asked
            .lines()
            .any(|line| line == format!("{process} SCHED_SP_TOP_APP")),
        "{asked}"
    );
    assert_eq!(command.conditions(), ["settaskprofile: SCHED_SP_TOP_APP"]);
}
