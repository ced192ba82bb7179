use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use lathe_agent::SessionConfig;
use lathe_profiler::{Agent, ProfilerError, TransportError};

use super::network::call;
use super::short::{agent_on, disturbed, found, short_profile, signal, wait_for};
use super::sshd::{Sshd, new_key};

/// The first words of an agent on a device that is described so, or why there are none.
fn error_of(yaml: &str) -> (ProfilerError, String) {
    let error = Agent::start(&agent_on(yaml)).err().expect("it cannot work");
    let text = error.to_string();
    (error, text)
}

fn denied(error: &ProfilerError) -> bool {
    matches!(
        error,
        ProfilerError::Transport(TransportError::Denied { .. })
    )
}

#[test]
fn a_profile_leaves_nothing_behind() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&sshd.yaml());
    let mut agent = Agent::start(&command).unwrap();
    let inspection = agent.inspect().unwrap();
    let device = agent.fingerprints(&inspection).device;
    let private = &found(&sshd.device(), "lathe-")[0];
    let mode = fs::metadata(private).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o700);
    assert!(agent.round_trip_ns(SessionConfig { threads: 1 }).is_ok());
    drop(agent);
    let table = short_profile(&command, work.path()).unwrap();
    assert_eq!(table.device, device);
    assert!(!table.device.emulated && table.device.cores > 0 && !table.device.kernel.is_empty());
    drop(command);
    assert!(found(&sshd.device(), "").is_empty());
}

#[test]
fn a_folder_may_have_any_name() {
    let Some(sshd) = Sshd::new() else { return };
    let folder = sshd
        .device()
        .join("a 'b' \"c\"; touch trap; $(touch trap) `touch trap`&");
    fs::create_dir(&folder).unwrap();
    let command = agent_on(&sshd.yaml_in(&folder));
    Agent::start(&command).unwrap().inspect().unwrap();
    drop(command);
    assert!(found(&folder, "").is_empty());
    let home = std::env::var("HOME").unwrap_or_default();
    assert!(!Path::new(&home).join("trap").exists());
}

#[test]
fn what_is_sent_once_stays_while_it_is_of_use() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&sshd.yaml());
    let again = command.clone();
    short_profile(&command, work.path()).unwrap();
    drop(command);
    // Another agent over the same connection.
    let mut agent = Agent::start(&again).unwrap();
    agent.inspect().unwrap();
    let private = found(&sshd.device(), "lathe-");
    assert_eq!(private.len(), 1);
    drop(agent);
    fs::remove_file(work.path().join("table.samples.jsonl")).unwrap();
    // The first profile's graphs are gone here, and go there before the next are sent.
    short_profile(&again, work.path()).unwrap();
    let graphs: usize = found(&private[0], "")
        .iter()
        .map(|at| found(at, "weights").len())
        .sum();
    assert_eq!(graphs, 1);
}

#[test]
fn a_killed_agent_is_replaced() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    disturbed(&agent_on(&sshd.yaml()), work.path(), || {
        signal(&sshd.device(), "-KILL")
    })
    .unwrap();
}

#[test]
fn an_agent_that_hangs_is_replaced_and_ended() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&sshd.yaml());
    let mut stopped = None;
    disturbed(&command, work.path(), || {
        stopped = super::short::agent_process(&sshd.device());
        signal(&sshd.device(), "-STOP");
    })
    .unwrap();
    let process = format!("/proc/{}/cmdline", stopped.unwrap());
    assert!(!fs::read_to_string(process).is_ok_and(|text| text.contains("lathe-agent")));
}

#[test]
fn a_dropped_connection_is_made_again() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let command = agent_on(&sshd.yaml());
    let mut before = Vec::new();
    disturbed(&command, work.path(), || {
        before = found(&sshd.device(), "lathe-");
        sshd.drop_connections();
    })
    .unwrap();
    assert_eq!(
        found(&sshd.device(), "lathe-"),
        before,
        "what was sent is used again"
    );
}

#[test]
fn a_rebooted_device_is_set_up_again() {
    let Some(mut sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let device = sshd.device();
    let command = agent_on(&sshd.yaml());
    disturbed(&command, work.path(), || {
        sshd.reboot();
        for private in found(&device, "lathe-") {
            fs::remove_dir_all(private).unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_short_cut_of_the_network_is_sat_out() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    disturbed(&agent_on(&sshd.yaml()), work.path(), || {
        sshd.network.plug(false);
        sleep(Duration::from_secs(1));
        sshd.network.plug(true);
    })
    .unwrap();
}

#[test]
fn a_lost_device_is_given_up_and_the_profile_goes_on_later() {
    let Some(sshd) = Sshd::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let yaml = sshd.yaml().replace("reconnect_s: 20", "reconnect_s: 1");
    let command = agent_on(&yaml);
    let error = disturbed(&command, work.path(), || sshd.network.plug(false)).unwrap_err();
    assert!(
        error.to_string().contains("did not come back within 1 s"),
        "{error}"
    );
    sshd.network.plug(true);
    drop(command);
    short_profile(&agent_on(&yaml), work.path()).unwrap();
}

#[test]
fn keys_are_checked_on_both_sides() {
    let Some(sshd) = Sshd::new() else { return };
    let home = sshd.home.path();
    fs::write(home.join("authorized"), "").unwrap();
    let (error, text) = error_of(&sshd.yaml());
    assert!(denied(&error) && text.contains("ssh-copy-id"), "{text}");
    fs::write(home.join("known_hosts"), "").unwrap();
    let (error, text) = error_of(&sshd.yaml());
    assert!(denied(&error) && text.contains("not known"), "{text}");
    new_key(home, "other_key");
    sshd.trust("other_key");
    let (error, text) = error_of(&sshd.yaml());
    assert!(denied(&error) && text.contains("ssh-keygen -R"), "{text}");
    let user_key = fs::read_to_string(home.join("user_key")).unwrap();
    assert!(!text.contains(user_key.lines().nth(1).unwrap()));
}

#[test]
fn a_device_that_is_not_there_is_said_to_be_so() {
    let Some(sshd) = Sshd::new() else { return };
    sshd.network.kill_all();
    let (error, text) = error_of(&sshd.yaml());
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::Absent { .. })
        ),
        "{text}"
    );
    assert!(text.contains("Connection refused"), "{text}");
}

#[test]
fn a_full_device_is_named_with_what_is_missing() {
    // Room for the agent, and not for the library beside it.
    let Some(sshd) = Sshd::with("", Some("size=40m")) else {
        return;
    };
    let (error, text) = error_of(&sshd.yaml());
    assert!(
        matches!(error, ProfilerError::Transport(TransportError::Full { .. })),
        "{text}"
    );
    assert!(
        text.contains("libonnxruntime") && text.contains("MiB, 16 of them to stay free"),
        "{text}"
    );
}

#[test]
fn folders_that_cannot_be_used_are_named() {
    let Some(sshd) = Sshd::with("", Some("ro")) else {
        return;
    };
    let (error, text) = error_of(&sshd.yaml());
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::NoFolder { .. })
        ),
        "{text}"
    );
    assert!(
        text.contains("Read-only") && text.contains("folder:"),
        "{text}"
    );
    let Some(sshd) = Sshd::with("", Some("size=200m,noexec")) else {
        return;
    };
    let (error, text) = error_of(&sshd.yaml());
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::NotExecuted { .. })
        ),
        "{text}"
    );
    assert!(text.contains("ermission denied"), "{text}");
}

/// A device whose `sha256sum` does not give what was sent, as often as `times` says.
fn with_damage(times: u32) -> Option<(Sshd, tempfile::TempDir)> {
    let tools = tempfile::tempdir().unwrap();
    let at = tools.path().display();
    let sshd = Sshd::with(&format!("SetEnv PATH={at}:/usr/bin:/bin"), None)?;
    let script = format!(
        "#!/bin/sh\nleft=$(cat {at}/left)\n[ \"$left\" = 0 ] && exec /usr/bin/sha256sum\necho $((left - 1)) > {at}/left\necho 0000  -\n"
    );
    fs::write(tools.path().join("left"), times.to_string()).unwrap();
    let program = tools.path().join("sha256sum");
    fs::write(&program, script).unwrap();
    assert!(call("chmod", &["755", program.to_str().unwrap()]));
    Some((sshd, tools))
}

#[test]
fn a_file_that_arrived_damaged_is_sent_again() {
    let Some((sshd, tools)) = with_damage(2) else {
        return;
    };
    Agent::start(&agent_on(&sshd.yaml())).unwrap();
    assert_eq!(
        fs::read_to_string(tools.path().join("left"))
            .unwrap()
            .trim(),
        "0"
    );
    fs::write(tools.path().join("left"), "99").unwrap();
    let (error, text) = error_of(&sshd.yaml());
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::Damaged { .. })
        ),
        "{text}"
    );
}

#[test]
fn a_login_may_say_what_it_likes() {
    let words = "ForceCommand echo '{welcome}'; echo \"it's noisy here\"; exec $SHELL -c \"$SSH_ORIGINAL_COMMAND\"";
    let Some(sshd) = Sshd::with(words, None) else {
        return;
    };
    let command = agent_on(&sshd.yaml());
    let mut agent = Agent::start(&command).unwrap();
    agent.inspect().unwrap();
}

/// Says to another process of the test below which device it is to hold.
const HELD: &str = "LATHE_HELD_DEVICE";

#[test]
fn a_killed_host_leaves_no_agent_and_no_folder() {
    if let Ok(yaml) = std::env::var(HELD) {
        // This is the process that is killed in the middle.
        let _agent = Agent::start(&agent_on(&yaml)).unwrap();
        sleep(Duration::from_secs(60));
        return;
    }
    let Some(sshd) = Sshd::new() else { return };
    let this = std::env::current_exe().unwrap();
    let name = "ssh::a_killed_host_leaves_no_agent_and_no_folder";
    let mut host = Command::new(this)
        .args(["--exact", name, "--nocapture"])
        .env(HELD, sshd.yaml())
        .spawn()
        .unwrap();
    wait_for(|| super::short::agent_process(&sshd.device()).is_some());
    sleep(Duration::from_millis(300));
    let process = super::short::agent_process(&sshd.device()).unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    wait_for(|| found(&sshd.device(), "lathe-").is_empty());
    wait_for(|| !Path::new("/proc").join(&process).exists());
}
