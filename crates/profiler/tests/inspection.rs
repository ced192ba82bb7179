//! What an agent tells of its device is not believed blindly.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lathe_agent::{Answer, Core, Hello, Inspected, PROTOCOL_VERSION};
use lathe_profiler::{Agent, AgentCommand, Inspection, ProfilerError};

/// Asks an agent that greets and then always answers the same.
fn inspect(id: u64, inspection: Inspection) -> Result<Inspection, ProfilerError> {
    let folder = tempfile::tempdir().unwrap();
    let hello = Answer::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: String::new(),
        runtime_build: String::new(),
        os: String::new(),
        arch: String::new(),
        processors: 2,
        is_emulated: false,
    });
    let answer = Answer::Inspected(Inspected {
        id,
        inspection: Box::new(inspection),
    });
    let lines = [hello, answer].map(|answer| serde_json::to_string(&answer).unwrap() + "\n");
    let [hello, answer] = ["hello", "answer"].map(|name| folder.path().join(name));
    fs::write(&hello, &lines[0]).unwrap();
    fs::write(&answer, &lines[1]).unwrap();
    let program = folder.path().join("agent");
    let script = format!(
        "#!/bin/sh\ncat '{}'\nread -r request\ncat '{}'\nread -r request\n",
        hello.display(),
        answer.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let command = AgentCommand::local(&program, "none".as_ref());
    Agent::start(&command)?.inspect()
}

fn two_cores() -> Inspection {
    let core = |id| Core {
        id,
        ..Core::default()
    };
    Inspection {
        cores: vec![core(0), core(1)],
        ..Inspection::default()
    }
}

#[test]
fn a_sound_inspection_arrives_whole() {
    assert_eq!(inspect(1, two_cores()).unwrap(), two_cores());
}

#[test]
fn an_unsound_inspection_is_refused() {
    let mut inspection = two_cores();
    inspection.cpu_pressure_avg10_percent = Some(1e9);
    let error = inspect(1, inspection).unwrap_err().to_string();
    assert!(error.contains("cpu_pressure_avg10_percent"), "{error}");
    let mut inspection = two_cores();
    inspection.cpu_model = "\u{1b}]0;title\u{7}".to_owned();
    let error = inspect(1, inspection).unwrap_err().to_string();
    assert!(
        error.contains("cpu_model") && !error.contains('\u{1b}'),
        "{error}"
    );
}

#[test]
fn an_answer_to_another_request_is_refused() {
    let error = inspect(7, two_cores()).unwrap_err();
    assert!(matches!(error, ProfilerError::Answer { .. }), "{error}");
}
