//! Agents that are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lathe_agent::{Answer, Hello, MAX_LINE_BYTES, MeasureJob, PROTOCOL_VERSION, Pass, Samples};
use lathe_profiler::{Agent, AgentCommand, ProfilerError, SessionConfig, TransportError};
use tempfile::TempDir;

use super::network::call;
use super::short::{disturbed, found, link_to, programs, short_profile};
use super::sshd::Sshd;

fn script(folder: &TempDir, text: &str) -> PathBuf {
    let program = folder.path().join("agent");
    fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    assert!(call("chmod", &["755", program.to_str().unwrap()]));
    program
}

fn greeting() -> String {
    let hello = Answer::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: String::new(),
        runtime_build: String::new(),
        os: "linux".to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        processors: 2,
        is_emulated: false,
    });
    serde_json::to_string(&hello).unwrap()
}

/// What becomes of an inspection by an agent that is this script.
fn error_of(text: &str) -> ProfilerError {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "name: a\ntransport: local\njob_timeout_s: 1\n";
    let command = link_to(yaml).agent(&script(&folder, text), Path::new("none"));
    let inspected = Agent::start(&command).and_then(|mut agent| agent.inspect());
    inspected.expect_err("it cannot work")
}

#[test]
fn nonsense_is_told_from_answers() {
    let hello = greeting();
    let error = error_of("yes nonsense");
    assert!(error.to_string().contains("\"nonsense\""), "{error}");
    let error = error_of(&format!(
        "echo '{hello}'; read -r job; echo 'non\u{1b}sense'"
    ));
    assert!(matches!(error, ProfilerError::Answer { .. }), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    let error = error_of(&format!("echo '{hello}'; read -r job; printf '{{\"inspec'"));
    assert!(matches!(error, ProfilerError::Answer { .. }), "{error}");
    let zeros = MAX_LINE_BYTES + 5;
    let error = error_of(&format!(
        "echo '{hello}'; read -r job; head -c {zeros} /dev/zero | tr '\\0' x; echo"
    ));
    assert!(matches!(error, ProfilerError::Answer { .. }), "{error}");
    assert!(error.to_string().len() < 500);
}

#[test]
fn silence_and_last_words_are_told() {
    let error = error_of(&format!("echo '{}'; read -r job; sleep 60", greeting()));
    assert!(error.to_string().contains("within 1 s"), "{error}");
    let error = error_of("echo 'out of luck' >&2; exit 1");
    assert!(error.to_string().contains("out of luck"), "{error}");
}

#[test]
fn another_protocol_is_named() {
    let old = r#"{"hello":{"protocol":3,"agent_version":"0.1.0","runtime_build":"","os":"linux","arch":"x86_64"}}"#;
    let error = error_of(&format!("echo '{old}'; read -r job"));
    assert!(
        matches!(error, ProfilerError::Protocol { found: 3, .. }),
        "{error}"
    );
}

#[test]
fn impossible_greetings_are_refused() {
    let none = greeting().replace("\"processors\":2", "\"processors\":0");
    let error = error_of(&format!("echo '{none}'; read -r job"));
    assert!(error.to_string().contains("greeting"), "{error}");
}

#[test]
fn a_clock_that_jumps_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let samples = Answer::Samples(Samples {
        id: 1,
        pass: 0,
        durations_ns: vec![vec![3_600_000_000_000]],
        round_trips_ns: Vec::new(),
        environment: Default::default(),
    });
    let samples = serde_json::to_string(&samples).unwrap();
    let text = format!(
        "echo '{}'; read -r job; echo '{samples}'; read -r job",
        greeting()
    );
    let command = AgentCommand::local(&script(&folder, &text), Path::new("none"));
    let job = MeasureJob {
        models: vec!["none".into()],
        keep: Vec::new(),
        session: SessionConfig { threads: 1 },
        passes: vec![Pass {
            models: vec![0],
            batch: 1,
            new_tokens: 1,
            past_tokens: 0,
            min_turns: 1,
            max_turns: 1,
            budget_us: 0,
        }],
        vocab_size: 2,
        seed: 1,
    };
    let error = Agent::start(&command).unwrap().measure(job).unwrap_err();
    assert!(error.to_string().contains("clock jumped"), "{error}");
}

/// The answer of an agent on a device of which one file was replaced.
fn error_with(agent: Option<&Path>, library: Option<&Path>) -> Option<ProfilerError> {
    let sshd = Sshd::new()?;
    let (own_agent, own_library) = programs();
    let link = link_to(&sshd.yaml());
    let command = link.agent(agent.unwrap_or(&own_agent), library.unwrap_or(&own_library));
    let error = Agent::start(&command).err().expect("it cannot work");
    drop(command);
    assert!(found(&sshd.device(), "").is_empty());
    Some(error)
}

#[test]
fn programs_for_other_processors_are_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _) = programs();
    let mut bytes = fs::read(agent).unwrap();
    bytes[18] = if bytes[18] == 183 { 62 } else { 183 };
    let other = folder.path().join("other");
    fs::write(&other, bytes).unwrap();
    let Some(error) = error_with(Some(&other), None) else {
        return;
    };
    let text = error.to_string();
    let wanted = format!(
        "cargo xtask agent --target {}",
        lathe_profiler::own_target()
    );
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::Architecture { .. })
        ),
        "{text}"
    );
    assert!(text.contains(&wanted), "{text}");
}

#[test]
fn an_agent_without_its_loader_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(&folder, "");
    fs::write(&program, "#!/nowhere/loader\n").unwrap();
    let Some(error) = error_with(Some(&program), None) else {
        return;
    };
    let text = error.to_string();
    assert!(
        matches!(
            error,
            ProfilerError::Transport(TransportError::NotExecuted { .. })
        ),
        "{text}"
    );
}

#[test]
fn libraries_that_are_damaged_or_too_old_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, library) = programs();
    let damaged = folder.path().join("damaged.so");
    let bytes = fs::read(library).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let Some(error) = error_with(None, Some(&damaged)) else {
        return;
    };
    let text = error.to_string();
    assert!(text.contains("damaged.so"), "{text}");
    // A library that knows no interface as new as the agent's.
    let source = folder.path().join("old.c");
    fs::write(
        &source,
        "typedef struct { const void* (*get)(unsigned); const char* (*version)(void); } Base;\n\
         static const void* get(unsigned v) { return 0; }\n\
         static const char* version(void) { return \"1.10.0\"; }\n\
         const Base* OrtGetApiBase(void) { static const Base base = { get, version }; return &base; }\n",
    )
    .unwrap();
    let old = folder.path().join("old.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(&old)
        .arg(&source);
    assert!(compiler.status().unwrap().success());
    let Some(error) = error_with(None, Some(&old)) else {
        return;
    };
    let text = error.to_string();
    assert!(text.contains("1.10.0"), "{text}");
}

#[test]
fn an_agent_of_this_machine_is_replaced_too() {
    let work = tempfile::tempdir().unwrap();
    let (agent, library) = programs();
    // A script that can be told from all other agents, and becomes the agent.
    let folder = tempfile::tempdir().unwrap();
    let number = folder.path().join("number");
    let text = format!("echo $$ > {:?}\nexec {agent:?} \"$@\"", number);
    let command = AgentCommand::local(&script(&folder, &text), &library);
    disturbed(&command, work.path(), || {
        let process = fs::read_to_string(&number).unwrap();
        assert!(call("kill", &["-KILL", process.trim()]));
    })
    .unwrap();
    let again = tempfile::tempdir().unwrap();
    short_profile(&command, again.path()).unwrap();
}
