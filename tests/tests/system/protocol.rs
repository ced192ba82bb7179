//! The agent's protocol with a peer that talks nonsense, on both sides. What the two ends read is
//! fuzzed in `tests/fuzz`; here whole programs meet it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use lathe_agent::{Answer, BandwidthJob, Job, MeasureJob, Pass, Request, SessionConfig};
use lathe_arch::{ModelConfig, SubnetConfig};
use lathe_fuzz::Target;
use lathe_onnx::{LogitRows, Network, RandomWeights, write_network};
use lathe_profiler::Agent;
use lathe_tests::agent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Lines that an agent gets.
const LINES: usize = 400;
/// Lying agents that a host meets.
const LIARS: u64 = 150;
/// Sizes above would take long; far above they must be refused.
const LONG: usize = 64;
const FAR_ABOVE: usize = 1 << 40;
/// Address space of the agent in KiB: asking for more ends it.
const ADDRESS_SPACE_KIB: u64 = 6 << 20;

#[test]
fn an_agent_answers_every_line_and_lives() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_network(folder.path());
    let target = Target::find("requests").unwrap();
    let (_, seed) = target.seeds().remove(0);
    let seed = String::from_utf8(seed).unwrap();
    let seed = seed.replace("a.onnx", model.to_str().unwrap());
    let seeds: Vec<&str> = seed.lines().collect();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let lines: Vec<Vec<u8>> = (0..LINES)
        .map(|_| {
            let mut line = seeds[rng.random_range(0..seeds.len())].as_bytes().to_vec();
            for _ in 0..rng.random_range(0..3) {
                line = target.mutate(&line, &mut rng);
                line.retain(|byte| *byte != b'\n');
            }
            tamed(line, folder.path())
        })
        .collect();
    let agent = agent();
    let mut child = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$@\""),
            "sh",
        ])
        .arg(&agent.program)
        .arg("--ort-lib")
        .arg(&agent.ort_lib)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = lines.clone();
    let writer = std::thread::spawn(move || {
        // It fails when the agent has ended, which is seen below.
        let _gone = sent.iter().try_for_each(|line| {
            input.write_all(line)?;
            input.write_all(b"\n")
        });
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers = answers.lines().skip(1).map(serde_json::from_str);
    let answers: Vec<Answer> = answers.collect::<Result<_, _>>().unwrap();
    let last = answers
        .iter()
        .filter(|answer| !matches!(answer, Answer::Samples(_)));
    let answered = last.count();
    let line = lines
        .get(answered)
        .map(|line| String::from_utf8_lossy(line));
    assert!(
        output.status.success() && answered == LINES,
        "{}: {answered} of {LINES} lines were answered, then came {line:?}",
        output.status
    );
    let served = |answer: &&Answer| !matches!(answer, Answer::Failed(_));
    assert!(answers.iter().filter(served).count() > LINES / 20);
}

#[test]
fn a_host_survives_agents_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let liar = folder.path().join("liar");
    fs::write(&liar, "#!/bin/sh\nexec cat \"$0.lines\"\n").unwrap();
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).unwrap();
    let target = Target::find("answers").unwrap();
    let (_, seed) = target
        .seeds()
        .into_iter()
        .find(|(name, _)| name == "agent")
        .unwrap();
    let mut command = agent();
    let hello = serde_json::to_vec(&Answer::Hello(
        Agent::start(&command).unwrap().hello().clone(),
    ));
    let hello = hello.unwrap();
    command.program = liar.clone();
    for number in 0..LIARS {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let mut lines: Vec<&[u8]> = seed.split(|byte| *byte == b'\n').skip(1).collect();
        let first = rng.random_range(0..lines.len());
        lines.rotate_left(first);
        let mut said = lines.join(&b'\n');
        for _ in 0..rng.random_range(1..4) {
            said = target.mutate(&said, &mut rng);
        }
        let said = [&hello[..], b"\n", &said].concat();
        fs::write(liar.with_extension("lines"), said).unwrap();
        let mut agent = Agent::start(&command).unwrap();
        let session = SessionConfig { threads: 2 };
        // Whatever it answers, the host goes on; what it accepts has to be sound.
        if let Ok((samples, _)) = agent.measure(measure_job(session)) {
            assert!(
                samples[0]
                    .durations_ns
                    .iter()
                    .flatten()
                    .all(|time| *time > 0)
            );
        }
        if let Ok(inspection) = agent.inspect() {
            inspection.check().unwrap();
        }
        let job = BandwidthJob {
            threads: 2,
            bytes: 1 << 20,
            runs: 3,
        };
        if let Ok(times) = agent.bandwidth(job) {
            assert_eq!(times.len(), 3);
        }
        let _any = agent.round_trip_ns(session);
    }
}

fn measure_job(session: SessionConfig) -> MeasureJob {
    MeasureJob {
        models: vec!["a.onnx".into(), "b.onnx".into()],
        keep: Vec::new(),
        session,
        passes: vec![Pass {
            batch: 1,
            new_tokens: 1,
            past_tokens: 0,
            models: vec![0, 1],
            min_turns: 1,
            max_turns: 5,
            budget_us: 1,
        }],
        vocab_size: 97,
        seed: 1,
    }
}

/// A request as it is, but for what would take long, and for files outside the folder that it would
/// write.
fn tamed(line: Vec<u8>, folder: &Path) -> Vec<u8> {
    let Ok(mut request) = serde_json::from_slice::<Request>(&line) else {
        return line;
    };
    let short = |size: &mut usize| {
        if (LONG..FAR_ABOVE).contains(size) {
            *size %= LONG;
        }
    };
    let threads = |session: &mut SessionConfig| {
        if session.threads <= 1024 {
            session.threads %= 5;
        }
    };
    match &mut request.job {
        Job::Measure(job) => {
            threads(&mut job.session);
            for pass in &mut job.passes {
                short(&mut pass.batch);
                short(&mut pass.new_tokens);
                short(&mut pass.past_tokens);
                pass.budget_us = pass.budget_us.min(1_000);
                pass.min_turns = pass.min_turns.min(3);
                pass.models.truncate(8);
            }
            job.passes.truncate(4);
        }
        Job::Memory(job) => {
            threads(&mut job.session);
            job.passes.truncate(4);
            for (batch, new_tokens, past_tokens) in &mut job.passes {
                short(batch);
                short(new_tokens);
                short(past_tokens);
            }
        }
        Job::Optimize(job) => {
            threads(&mut job.session);
            job.out = folder.join("optimised.onnx");
        }
        Job::Bandwidth(job) => {
            if job.bytes <= 4 << 30 {
                job.bytes %= 4 << 20;
            }
            job.runs %= 5;
            job.threads %= 5;
        }
        Job::Generate(job) => {
            threads(&mut job.session);
            job.prompt.truncate(8);
            short(&mut job.max_new_tokens);
            job.logits = job.logits.as_ref().map(|_| folder.join("logits"));
        }
        Job::Inspect => {}
        Job::RoundTrip(session) => threads(session),
    }
    serde_json::to_vec(&request).unwrap()
}

fn tiny_network(folder: &Path) -> std::path::PathBuf {
    let model = ModelConfig {
        vocab_size: 97,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 16,
        max_position_embeddings: 64,
        ..ModelConfig::smollm2_135m()
    };
    let subnet = SubnetConfig::full(&model);
    let weights = RandomWeights {
        model: &model,
        subnet: &subnet,
        seed: 1,
    };
    let network = Network {
        model: &model,
        subnet: &subnet,
        weights: &weights,
        logit_rows: LogitRows::All,
    };
    write_network(folder, &network).unwrap();
    folder.join("model.onnx")
}
