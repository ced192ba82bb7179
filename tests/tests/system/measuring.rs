//! Profiles and validations: what they cover, what disturbs them, and what an interruption leaves.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lathe_arch::{Precision, SubnetConfig};
use lathe_latency::{LatencyTable, Placement};
use lathe_profiler::{HeldOut, draw_subnets};
use lathe_tests::{Desk, short_profile};

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    let journal = desk.path("table.samples.jsonl");
    let arguments = short_profile(&model, &table, "f32");
    let mut child = desk
        .command(&arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let clock = Instant::now();
    while lines() < 4 && clock.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let kept = lines();
    assert!(kept >= 4 && !Path::new(&table).exists());
    let before = fs::read_to_string(&journal).unwrap();
    assert!(desk.fails(&arguments).contains("--resume"));
    desk.succeeds(&[&arguments[..], &["--resume"]].concat());
    let after = fs::read_to_string(&journal).unwrap();
    let finished: Vec<&str> = before.lines().take(kept - 1).collect();
    assert!(after.lines().collect::<Vec<_>>().starts_with(&finished));
    LatencyTable::load(Path::new(&table)).unwrap();
}

#[cfg(unix)]
#[test]
fn a_killed_profile_ends_with_the_same_coverage() {
    let desk = Desk::with_text();
    let model = desk.model();
    let whole = desk.text("whole.yaml");
    desk.succeeds(&short_profile(&model, &whole, "f32"));
    let table = desk.text("killed.yaml");
    let again = [short_profile(&model, &table, "f32"), vec!["--resume"]].concat();
    // Killed without warning, at three moments.
    for milliseconds in [150, 700, 1900] {
        let mut child = desk
            .command(&again)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // It may have ended by itself.
        let _ended = child.kill();
        child.wait().unwrap();
    }
    desk.succeeds(&again);
    let covered = |table: &str| -> Vec<_> {
        let table = LatencyTable::load(Path::new(table)).unwrap();
        let entries = table.entries.iter();
        let entries = entries.map(|entry| (entry.block, entry.phase));
        entries.collect()
    };
    assert_eq!(covered(&table), covered(&whole));
    let journal = fs::read_to_string(desk.path("killed.samples.jsonl")).unwrap();
    let visits = journal
        .lines()
        .filter(|line| line.contains("\"disturbed\":null"));
    let whole = fs::read_to_string(desk.path("whole.samples.jsonl")).unwrap();
    let wanted = whole
        .lines()
        .filter(|line| line.contains("\"disturbed\":null"));
    assert_eq!(visits.count(), wanted.count(), "nothing is measured twice");
}

#[test]
fn a_profile_covers_batches_precisions_and_repeats_itself() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    let lengths = [
        "--prompt",
        "8,32",
        "--depth",
        "0,16,64",
        "--workload",
        "16+8",
    ];
    let more = ["--batch", "1,2", "--aa"];
    let arguments = short_profile(&model, &table, "f32,int4");
    let arguments = [&arguments[..], &lengths, &more].concat();
    desk.succeeds(&arguments);
    let table = LatencyTable::load(Path::new(&table)).unwrap();
    for batch in [1, 2] {
        let phases = table.entries.iter().filter(|e| e.phase.batch() == batch);
        assert_eq!(2 * phases.count(), table.entries.len());
    }
    let repeat = table.protocol.repeatability.as_ref().unwrap();
    assert_eq!(repeat.entries, table.entries.len());
    assert!(repeat.median <= repeat.p95 && repeat.p95 <= repeat.worst);
    assert_eq!(repeat.most_different[0].share, repeat.worst);
    // Two precisions, prefill and decode.
    assert_eq!(table.calibration.len(), 4);
    let model = &table.model.dimensions;
    let subnet = SubnetConfig::full(model).with_precision(Precision::Int4);
    let prediction = table.predict(&subnet, &"2x16+8".parse().unwrap()).unwrap();
    assert!(prediction.ttft_us > 0.0 && prediction.tpot_us > 0.0);
    let alike = table.ensure_comparable(&table.device, &table.runtime);
    alike.unwrap();
}

#[test]
fn a_busy_loop_is_counted() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    let said = desk.succeeds(
        &[
            &short_profile(&model, &table, "f32")[..],
            &["--aa", "--hog"],
        ]
        .concat(),
    );
    assert!(said.contains("a busy loop ran beside"), "{said}");
    let table = LatencyTable::load(Path::new(&table)).unwrap();
    let hog = table.protocol.repeatability.unwrap().interference.unwrap();
    assert!(hog.visits > 0 && hog.noticed <= hog.visits);
}

#[test]
fn validation_names_every_predictor_and_the_noise_floor() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    let profile = short_profile(&model, &table, "int8");
    desk.succeeds(&[&profile[..], &["--workload", "32+16"]].concat());
    let arguments = [
        "validate",
        "--table",
        &table,
        "--subnets",
        "4",
        "--precision",
        "int8",
        "--workload",
        "32+16",
        "--json",
    ];
    let validation: lathe_compress::Validation =
        serde_json::from_str(&desk.succeeds(&arguments)).unwrap();
    let [structure] = &validation.structure[..] else {
        panic!("{:?}", validation.structure);
    };
    assert_eq!(structure.differences, [""; 0]);
    let [int8] = &validation.precisions[..] else {
        panic!("one precision was asked for");
    };
    for phase in [&int8.prefill, &int8.decode] {
        assert_eq!(phase.comparisons.len(), 4);
        assert!(phase.noise_floor.is_some());
        let names: Vec<&str> = phase.predictors.iter().map(|p| p.name.as_str()).collect();
        let wanted = [
            "sum of prices, not calibrated",
            "sum of lone blocks",
            "difference of 10 copies",
            "FLOPs",
            "parameters",
        ];
        assert_eq!(names, wanted);
    }

    // Processors that never come back to where the table had them: measured all the same, and said.
    let mut table = LatencyTable::load(Path::new(&table)).unwrap();
    table.protocol.placement = Some(Placement {
        round_trip_ns: 1e9,
        share: 1.0,
    });
    let model = &table.model.dimensions;
    let blocks: Vec<_> = table.entries.iter().map(|entry| entry.block).collect();
    let subnets = draw_subnets(model, &blocks, Precision::Int8, 1, 7);
    let held_out = HeldOut {
        agent: &lathe_tests::agent(),
        table: &table,
        subnets: &subnets,
        workload: "32+16".parse().unwrap(),
        rounds: 1,
        seed: 7,
        patience: Duration::ZERO,
        work: &desk.path("moved"),
    };
    let measured = held_out.measure(|_, _| ()).unwrap();
    assert!(measured.networks[0].phases[1].median_us > 0.0);
    // A device of one processor has no distances.
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert_eq!(measured.elsewhere.unwrap().table_ns, 1e9);
    }
}

#[test]
fn sub_networks_that_are_named_are_measured_beside_the_full_model() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    desk.succeeds(&short_profile(&model, &table, "int8"));
    let prices = LatencyTable::load(Path::new(&table)).unwrap();
    let full = SubnetConfig::full(&prices.model.dimensions);
    let mut config = full.with_precision(Precision::Int8);
    config.layers[0].mlp = None;
    let yaml = serde_yaml::to_string(&config).unwrap();
    fs::create_dir(desk.path("exported")).unwrap();
    for file in ["chosen.yaml", "exported/subnet.yaml"] {
        fs::write(desk.path(file), &yaml).unwrap();
    }
    let (file, folder) = (desk.text("chosen.yaml"), desk.text("exported"));
    let named = ["validate", "--table", &table, "--subnet", &file, &folder];
    let said = desk.succeeds(&[&named[..], &["--json"]].concat());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let networks = said["networks"].as_array().unwrap();
    let names: Vec<&str> = networks
        .iter()
        .map(|n| n["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["full model, int8", &file, &folder]);
    let predicted = prices.predict(&config, &"128+64".parse().unwrap()).unwrap();
    for network in &networks[1..] {
        let latency = &network["tpot"];
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        assert_eq!(number(&latency["predicted_us"]), predicted.tpot_us);
        let [low, high] = [0, 1].map(|at| number(&latency["measured_ci95_us"][at]));
        let measured_us = number(&latency["measured_us"]);
        assert!(0.0 < low && low <= measured_us && measured_us <= high);
    }
    let said = desk.succeeds(&named);
    assert!(names.iter().all(|name| said.contains(name)), "{said}");

    let message = desk.fails(&["validate", "--table", &table, "--subnet", &table]);
    assert!(message.contains("table.yaml"), "{message}");
    let message = desk.fails(&[&named[..], &["--subnets", "3"]].concat());
    assert!(message.contains("cannot be used with"), "{message}");
}

/// Keeps every processor busy while it lives.
struct Hogs(Vec<Child>);

impl Hogs {
    fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let hog = |_| {
            let mut hog = Command::new("sh");
            hog.args(["-c", "while :; do :; done"]).spawn().unwrap()
        };
        Self((0..processors).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ended = hog.kill();
            let _reaped = hog.wait();
        }
    }
}

#[test]
fn visits_that_other_work_disturbs_are_thrown_away() {
    if fs::read_to_string("/proc/self/schedstat").is_err() {
        println!("skipped: this system does not tell how long threads wait for a processor");
        return;
    }
    let desk = Desk::with_text();
    let (model, out) = (desk.model(), desk.text("table.yaml"));
    let arguments = short_profile(&model, &out, "f32");
    let hogs = Hogs::new();
    let mut child = desk
        .command(&arguments)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_thrown_away = |line: &str| line.contains("waited for a processor");
    let journal = || fs::read_to_string(desk.path("table.samples.jsonl")).unwrap_or_default();
    let clock = Instant::now();
    while !journal().lines().any(is_thrown_away) && clock.elapsed().as_secs() < 60 {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(hogs);
    assert!(child.wait().unwrap().success());
    let table = LatencyTable::load(Path::new(&out)).unwrap();
    assert!(table.protocol.disturbed_visits > 0);
    assert!(table.protocol.visits > 0);
}
