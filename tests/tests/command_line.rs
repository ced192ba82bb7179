//! What a user does at the prompt, on the tiny model, and what happens on bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lathe_arch::{MlpConfig, Precision, SubnetConfig};
use lathe_latency::{LatencyTable, Placement};
use lathe_profiler::{HeldOut, draw_subnets};
use tempfile::TempDir;

/// A folder to work in, with some text and the tiny model's name.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = [
            "quick", "brown", "fox", "model", "lazy", "dog", "box", "jugs", "five",
        ];
        let passage = |i: usize| {
            let word = |j: usize| {
                // Knuth's multiplicative hash: words that do not repeat in any short period.
                let hash = ((i * 60 + j) as u32).wrapping_mul(2_654_435_761);
                words[(hash >> 16) as usize % words.len()]
            };
            (0..60).map(word).collect::<Vec<_>>().join(" ")
        };
        let text: Vec<String> = (0..400).map(passage).collect();
        fs::write(folder.path().join("text.txt"), text.join("\n\n")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn xtask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(lathe_tests::xtask());
        command
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("LATHE_AGENT", lathe_tests::agent().program);
        command
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.xtask(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail with exit code 2 and without a panic.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.xtask(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn model(&self) -> String {
        lathe_tests::fixture("tiny-llama")
            .to_string_lossy()
            .into_owned()
    }

    fn profile(&self) -> String {
        let (model, table) = (self.model(), self.text("table.yaml"));
        self.succeeds(&short_profile(&model, &table, "f32"));
        table
    }
}

/// The shortest profile that still has everything in it.
fn short_profile<'a>(model: &'a str, table: &'a str, precision: &'a str) -> Vec<&'a str> {
    let blocks = ["profile", "--model", model, "--quick", "--minutes", "0"];
    let rest = ["--networks", "4", "--precision", precision, "--out", table];
    [blocks, rest].concat()
}

#[test]
fn profile_predict_search_export_and_report() {
    let desk = Desk::new();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.profile());
    let sound = LatencyTable::load(Path::new(&table)).unwrap();
    assert_eq!(sound.model.name, "tiny-llama");
    assert!(desk.path("table.samples.jsonl").is_file());
    assert!(!desk.path("table.work").exists());

    let full: serde_json::Value =
        serde_json::from_str(&desk.succeeds(&["predict", "--table", &table, "--json"])).unwrap();
    assert!(full["tpot_us"].as_f64().unwrap() > 0.0);

    let study = desk.text("study.db");
    let mut search = vec![
        "search",
        "--model",
        &model,
        "--text",
        &text,
        "--table",
        &table,
        "--study",
        &study,
        "--evaluations",
        "30",
        "--tokens",
        "512",
        "--calibration-tokens",
        "512",
        "--json",
    ];
    let front: serde_json::Value = serde_json::from_str(&desk.succeeds(&search)).unwrap();
    assert!(!front.as_array().unwrap().is_empty());
    assert!(desk.path("front.csv").is_file());
    let message = desk.fails(&search);
    assert!(message.contains("--resume"), "{message}");
    search.push("--resume");
    let again: serde_json::Value = serde_json::from_str(&desk.succeeds(&search)).unwrap();
    assert_eq!(front, again);
    // A study of its own, beside scores of single blocks that were made on other text.
    fs::remove_file(&study).unwrap();
    search.pop();
    search.extend(["--block-tokens", "100"]);
    desk.succeeds(&search);

    let front = fs::read_to_string(desk.path("front.yaml")).unwrap();
    let front: Vec<serde_yaml::Value> = serde_yaml::from_str(&front).unwrap();
    let subnet = serde_yaml::to_string(&front[0]["subnet"]).unwrap();
    fs::write(desk.path("subnet.yaml"), subnet).unwrap();
    let (subnet, out) = (desk.text("subnet.yaml"), desk.text("exported"));
    let common = [
        "--model",
        &model,
        "--text",
        &text,
        "--calibration-tokens",
        "512",
    ];
    desk.succeeds(&[&["export", "--subnet", &subnet, "--out", &out], &common[..]].concat());
    for file in [
        "model.onnx",
        "model.onnx.data",
        "genai_config.json",
        "tokenizer.json",
        "subnet.yaml",
    ] {
        assert!(desk.path("exported").join(file).is_file(), "{file}");
    }
    // The manifest of an export is a sub-network too.
    let manifest = desk.text("exported/subnet.yaml");
    let evaluate = [
        "evaluate", "--subnet", &manifest, "--task", "kl", "--tokens", "256", "--json",
    ];
    let quality = desk.succeeds(&[&evaluate, &common[..]].concat());
    let quality: serde_json::Value = serde_json::from_str(&quality).unwrap();
    assert!(quality["perplexity"].as_f64().unwrap() > 1.0);

    let page = desk.text("report.html");
    desk.succeeds(&[
        "report", "--study", &study, "--model", &model, "--out", &page,
    ]);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("tiny-llama"));
}

#[test]
fn precisions_are_searched_questions_answered_and_baselines_compared() {
    let desk = Desk::new();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.text("table.yaml"));
    desk.succeeds(&short_profile(&model, &table, "f32,int8"));
    let study = desk.text("study.db");
    let common = [
        "--model",
        &model,
        "--text",
        &text,
        "--calibration-tokens",
        "512",
    ];
    let search = [
        "search",
        "--table",
        &table,
        "--study",
        &study,
        "--evaluations",
        "20",
        "--tokens",
        "256",
        "--precision",
        "f32,int8",
        "--json",
    ];
    let front = desk.succeeds(&[&search, &common[..]].concat());
    let front: serde_json::Value = serde_json::from_str(&front).unwrap();
    // Two genes a layer, and one for both ends.
    let genes = front[0]["genome"].as_array().unwrap().len();
    assert!(genes % 2 == 1, "{genes}");
    let space = fs::read_to_string(desk.path("study.space.json")).unwrap();
    assert!(space.contains("int8"), "{space}");
    let page = desk.text("report.html");
    desk.succeeds(&[
        "report", "--study", &study, "--model", &model, "--out", &page,
    ]);

    let question = r#"{"context": "quick brown", "choices": ["fox", "model"], "answer": 1}"#;
    fs::write(
        desk.path("questions.jsonl"),
        format!("{question}\n{question}\n"),
    )
    .unwrap();
    let file = desk.text("questions.jsonl");
    let evaluate = ["evaluate", "--task", &file, "--json"];
    let answers = desk.succeeds(&[&evaluate, &common[..]].concat());
    let answers: serde_json::Value = serde_json::from_str(&answers).unwrap();
    assert_eq!(answers["all"]["questions"], 2);
    fs::write(desk.path("questions.jsonl"), "{\"context\": 3}\n").unwrap();
    let message = desk.fails(&[&evaluate, &common[..]].concat());
    assert!(
        message.contains("questions.jsonl") && message.contains("line 1"),
        "{message}"
    );

    let out = desk.text("compare");
    let compare = [
        "compare",
        "--table",
        &table,
        "--objective",
        "tpot",
        "--levels",
        "0.9",
        "--evaluations",
        "12",
        "--tokens",
        "256",
        "--block-tokens",
        "128",
        "--test-tokens",
        "256",
        "--questions",
        "0",
        "--no-measure",
        "--out",
        &out,
        "--json",
    ];
    let compare = [&compare, &common[..]].concat();
    let compared = desk.succeeds(&compare);
    let value: serde_json::Value = serde_json::from_str(&compared).unwrap();
    let contenders = value["contenders"].as_array().unwrap();
    // Two searches, and seven methods as published and refitted.
    assert_eq!(contenders.len(), 2 + 2 * 7);
    let latency = |c: &&serde_json::Value| c["latency_us"].as_f64().unwrap();
    let (others, ours): (Vec<_>, Vec<_>) = contenders
        .iter()
        .partition(|c| c["method"]["baseline"].is_string());
    assert_eq!(ours.len(), 2);
    let slowest_of_ours = ours.iter().map(latency).fold(0.0, f64::max);
    assert!(others.iter().all(|c| latency(c) >= slowest_of_ours));
    let figure = fs::read_to_string(desk.path("compare/comparison-tpot.svg")).unwrap();
    assert!(figure.starts_with("<svg") && figure.contains("ShortGPT"));
    // What is there is not made again.
    assert_eq!(desk.succeeds(&compare), compared);
}

#[test]
fn quickstart_does_the_whole_job_and_does_not_repeat_it() {
    let desk = Desk::new();
    let (model, text, out) = (desk.model(), desk.text("text.txt"), desk.text("run"));
    let arguments = [
        "quickstart",
        "--quick",
        "--model",
        &model,
        "--text",
        &text,
        "--out",
        &out,
        "--evaluations",
        "40",
        "--tpot-ratio",
        "0.999",
        "--json",
    ];
    let first = desk.succeeds(&arguments);
    let summary: lathe_compress::Summary = serde_json::from_str(&first).unwrap();
    assert_eq!(summary.evaluations, 40);
    assert!(summary.report.is_file() && summary.exported.join("model.onnx").is_file());
    assert_eq!(
        desk.succeeds(&arguments),
        first,
        "a finished run is not made again"
    );
}

#[test]
fn names_that_do_not_exist_are_answered_with_those_that_do() {
    let desk = Desk::new();
    let message = desk.fails(&["profile", "--model", "smollm3"]);
    assert!(
        message.contains("smollm3") && message.contains("smollm2-135m"),
        "{message}"
    );
    let message = desk.fails(&["profile", "--device", "pixel"]);
    assert!(
        message.contains("pixel") && message.contains("local"),
        "{message}"
    );
    let message = desk.fails(&["fetch", "--ort-lib", "/nowhere/lib.so"]);
    assert!(
        message.contains("/nowhere/lib.so") && message.contains("--ort-lib"),
        "{message}"
    );
    let message = desk.fails(&["predict", "--table", "t", "--workload", "12"]);
    assert!(message.contains("128+128"), "{message}");
    let model = desk.model();
    let outside = ["profile", "--model", &model, "--prompt", "8", "--out"];
    let message = desk.fails(&[&outside[..], &[&desk.text("table.yaml")]].concat());
    assert!(message.contains("--workload"), "{message}");
    assert!(desk.fails(&["fly"]).contains("fly"));
}

#[test]
fn damaged_files_are_named_with_their_field() {
    let desk = Desk::new();
    let (model, table) = (desk.model(), desk.profile());
    let text = fs::read_to_string(&table).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(desk.path(name), text).unwrap();
        desk.text(name)
    };
    // A table cut short, with a wrong number, from elsewhere.
    for (damaged, word) in [
        (text[..text.len() / 2].to_owned(), "bad.yaml"),
        (text.replacen("median_us: ", "median_us: -", 1), "median_us"),
        (text.replacen("version: 4", "version: 7", 1), "version"),
    ] {
        let table = write("bad.yaml", &damaged);
        let message = desk.fails(&["predict", "--table", &table]);
        assert!(
            message.contains("bad.yaml") && message.contains(word),
            "{message}"
        );
    }
    let cpu = text
        .lines()
        .find(|line| line.contains("cpu_model"))
        .unwrap();
    let elsewhere = write(
        "elsewhere.yaml",
        &text.replace(cpu, "  cpu_model: another machine"),
    );
    let message = desk.fails(&["validate", "--table", &elsewhere, "--subnets", "2"]);
    assert!(
        message.contains("another machine") && message.contains("profile"),
        "{message}"
    );
    let build = text.lines().find(|line| line.contains("build:")).unwrap();
    let elsewhere = write("elsewhere.yaml", &text.replace(build, "  build: '1.0'"));
    let message = desk.fails(&["validate", "--table", &elsewhere, "--subnets", "2"]);
    assert!(message.contains("runtime"), "{message}");
    // A sub-network of another model, and one that is none.
    let dimensions = LatencyTable::load(Path::new(&table))
        .unwrap()
        .model
        .dimensions;
    let mut subnet = SubnetConfig::full(&dimensions);
    subnet.layers[1].mlp = Some(MlpConfig::with_width(97));
    let wide = write("wide.yaml", &serde_yaml::to_string(&subnet).unwrap());
    let message = desk.fails(&["predict", "--table", &table, "--subnet", &wide]);
    assert!(
        message.contains("wide.yaml") && message.contains("layers[1].mlp"),
        "{message}"
    );
    let none = write(
        "none.yaml",
        "version: 1\nmodel: m\nlayers:\n- attention: 3\n",
    );
    let message = desk.fails(&["predict", "--table", &table, "--subnet", &none]);
    assert!(
        message.contains("none.yaml") && message.contains("line"),
        "{message}"
    );
    // A study that is none.
    let study = write(
        "study.db",
        "this is no database, but a longer text than a header",
    );
    let common = [
        "search", "--model", &model, "--table", &table, "--study", &study,
    ];
    let text = desk.text("text.txt");
    let message = desk.fails(
        &[
            &common[..],
            &[
                "--text",
                &text,
                "--calibration-tokens",
                "512",
                "--tokens",
                "512",
            ],
        ]
        .concat(),
    );
    assert!(message.contains("study.db"), "{message}");
    // A model that is none.
    let gguf = write("model.gguf", "GGUF\u{3}\0\0\0");
    let message = desk.fails(&["evaluate", "--model", &gguf]);
    assert!(message.contains("model.gguf"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    let desk = Desk::new();
    let (model, text, out) = (desk.model(), desk.text("text.txt"), desk.text("exported"));
    let common = [
        "--model",
        &model,
        "--text",
        &text,
        "--calibration-tokens",
        "512",
    ];
    // A limit on the size of files stands for a full disk; the signal that comes with it is
    // ignored, so the write itself fails.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let export = desk.command(&[]);
    let output = Command::new("bash")
        .args(["-c", limited, "bash"])
        .arg(export.get_program())
        .args([&["export", "--out", &out], &common[..]].concat())
        .current_dir(export.get_current_dir().unwrap())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("model.onnx.data"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    let left = fs::read_dir(desk.path("exported")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished() {
    use std::time::{Duration, Instant};
    let desk = Desk::new();
    let (model, table) = (desk.model(), desk.text("table.yaml"));
    let journal = desk.path("table.samples.jsonl");
    let arguments = short_profile(&model, &table, "f32");
    let mut child = desk
        .command(&arguments)
        .stderr(std::process::Stdio::null())
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
    use std::time::Duration;
    let desk = Desk::new();
    let model = desk.model();
    let whole = desk.text("whole.yaml");
    desk.succeeds(&short_profile(&model, &whole, "f32"));
    let table = desk.text("killed.yaml");
    let again = [short_profile(&model, &table, "f32"), vec!["--resume"]].concat();
    // Killed without warning, at three moments.
    for milliseconds in [150, 700, 1900] {
        let mut child = desk
            .command(&again)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
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
    let desk = Desk::new();
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
    let repeat = table.protocol.repeatability.unwrap();
    assert_eq!(repeat.entries, table.entries.len());
    assert!(repeat.median <= repeat.p95 && repeat.p95 <= repeat.worst);
    // Two precisions, prefill and decode.
    assert_eq!(table.calibration.len(), 4);
    let model = &table.model.dimensions;
    let subnet = SubnetConfig::full(model).with_precision(lathe_arch::Precision::Int4);
    let prediction = table.predict(&subnet, &"2x16+8".parse().unwrap()).unwrap();
    assert!(prediction.ttft_us > 0.0 && prediction.tpot_us > 0.0);
    let alike = table.ensure_comparable(&table.device, &table.runtime);
    alike.unwrap();
}

#[test]
fn a_busy_loop_is_counted() {
    let desk = Desk::new();
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
    let desk = Desk::new();
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

/// Keeps every processor busy while it lives.
struct Hogs(Vec<std::process::Child>);

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
    if fs::read_to_string("/proc/pressure/cpu").is_err() {
        println!("skipped: this system does not tell how long tasks wait for a processor");
        return;
    }
    let desk = Desk::new();
    let (model, out) = (desk.model(), desk.text("table.yaml"));
    let arguments = short_profile(&model, &out, "f32");
    let hogs = Hogs::new();
    let mut child = desk
        .command(&arguments)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let is_thrown_away = |line: &str| line.contains("waited for a processor");
    let journal = || fs::read_to_string(desk.path("table.samples.jsonl")).unwrap_or_default();
    let clock = std::time::Instant::now();
    while !journal().lines().any(is_thrown_away) && clock.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(hogs);
    assert!(child.wait().unwrap().success());
    let table = LatencyTable::load(Path::new(&out)).unwrap();
    assert!(table.protocol.disturbed_visits > 0);
    assert!(table.protocol.visits > 0);
}
