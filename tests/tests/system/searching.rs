//! Searches and their studies, on the tiny model and a deeper one.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use lathe_arch::{BlockShape, SubnetConfig};
use lathe_latency::LatencyTable;
use lathe_search::{Evaluation, Study};
use lathe_tests::{Desk, short_profile};

#[test]
fn a_search_is_told_questions() {
    let desk = Desk::with_text();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.profile());
    let line = |context: &str| {
        format!(r#"{{"context": "{context}", "choices": ["fox", "model"], "answer": 0}}"#)
    };
    let lines = ["quick brown", "the lazy", "over a"].map(line);
    let questions = desk.text("questions.jsonl");
    fs::write(&questions, lines.join("\n")).unwrap();
    let search = [
        "search", "--model", &model, "--text", &text, "--table", &table,
    ];
    let sizes = [
        "--evaluations",
        "12",
        "--tokens",
        "512",
        "--calibration-tokens",
        "512",
    ];
    // What is minimised, and all that was evaluated.
    let found = |name: &str, told: &[&str]| {
        let study = desk.text(name);
        desk.succeeds(&[&search[..], &sizes, &["--study", &study], told].concat());
        let study = Study::open(Path::new(&study)).unwrap();
        let objectives = study.header().objectives.clone();
        (objectives, study.evaluations().unwrap())
    };
    let (untold_objectives, untold) = found("untold.db", &[]);
    let told = ["--search-task", &questions, "--search-questions", "2"];
    let weighing = |weight| [&told[..], &["--answer-weight", weight]].concat();
    let (objectives, light) = found("light.db", &weighing("1e-9"));
    assert_eq!(untold_objectives, objectives[..2]);
    assert_eq!(objectives[2], "bits_per_byte_increase");
    // Answers that weigh nothing change nothing.
    let of_text = |all: &[Evaluation]| -> Vec<_> {
        let pairs = all
            .iter()
            .map(|e| (e.genome.clone(), e.objectives[..2].to_vec()));
        pairs.collect()
    };
    assert_eq!(of_text(&light), of_text(&untold));
    assert!(light[0].objectives[2].abs() < 1e-6, "the full model's");
    let moved = |e: &&Evaluation| e.objectives[2].abs() > 0.01;
    assert!(light.iter().filter(moved).count() > 4);
    // Those that weigh much turn the search to them.
    let (_, heavy) = found("heavy.db", &weighing("1000"));
    assert_ne!(of_text(&heavy), of_text(&untold));
    let heavy = desk.text("heavy.db");
    let objectives = ["--objectives", "tpot,kl,answers", "--json"];
    let front = ["front", "--study", &heavy, "--table", &table];
    let front = desk.succeeds(&[&front[..], &objectives].concat());
    let front: serde_json::Value = serde_json::from_str(&front).unwrap();
    assert!(front["front"][0]["bits_per_byte_increase"].is_f64());
    let page = desk.text("report.html");
    let report = ["report", "--study", &heavy, "--table", &table];
    desk.succeeds(&[&report[..], &["--model", &model, "--out", &page]].concat());
    let lost = ["--study", "x.db", "--answer-weight", "2"];
    let message = desk.fails(&[&search[..], &lost].concat());
    assert!(message.contains("--search-task"), "{message}");
}

#[test]
fn a_finished_study_is_asked_for_other_fronts() {
    let desk = Desk::with_text();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.profile());
    let study = desk.text("study.db");
    let search = ["search", "--model", &model, "--text", &text, "--json"];
    let files = ["--table", &table, "--study", &study];
    let sizes = ["--evaluations", "30", "--tokens", "512"];
    let calibration = ["--calibration-tokens", "512"];
    let found = desk.succeeds(&[&search[..], &files, &sizes, &calibration].concat());
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let ask = |study: &str, rest: &[&str]| -> serde_json::Value {
        let front = ["front", "--study", study, "--json"];
        serde_json::from_str(&desk.succeeds(&[&front[..], rest].concat())).unwrap()
    };
    let members = |front: &serde_json::Value, fields: &[&str]| -> Vec<Vec<serde_json::Value>> {
        let members = front["front"].as_array().unwrap().iter();
        let values =
            |member: &serde_json::Value| fields.iter().map(|f| member[f].clone()).collect();
        members.map(values).collect()
    };
    // With the search's own table, the search's own front.
    let same = ask(&study, &["--table", &table]);
    let points = found.as_array().unwrap().iter().map(|member| {
        let objectives = &member["objectives"];
        vec![
            member["genome"].clone(),
            objectives[0].clone(),
            objectives[1].clone(),
        ]
    });
    let points: Vec<Vec<serde_json::Value>> = points.collect();
    assert_eq!(
        members(&same, &["genome", "tpot_us", "kl_divergence"]),
        points
    );
    assert!(same["knee"].is_u64() && same["chosen"].is_null());
    // Another objective adds to the front.
    let three = ask(
        &study,
        &["--table", &table, "--objectives", "tpot,memory,kl"],
    );
    let fields = ["tpot_us", "kl_divergence"];
    let projected = members(&three, &fields);
    let is_there = |point: &Vec<serde_json::Value>| projected.contains(point);
    assert!(members(&same, &fields).iter().all(is_there));

    // Another device, on which MLP blocks cost three times as much.
    let mut other = LatencyTable::load(Path::new(&table)).unwrap();
    other.device.name = "phone".to_owned();
    for entry in &mut other.entries {
        if let BlockShape::Mlp(_) = entry.block {
            entry.price_us *= 3.0;
        }
    }
    let phone = desk.text("phone.yaml");
    other.save(Path::new(&phone)).unwrap();
    let out = desk.text("front");
    let limits = ["--max-size", "1GB", "--out", &out];
    let both = ["--table", &table, "--table", &phone];
    let together = ask(&study, &[&both[..], &limits].concat());
    assert_eq!(
        together["objectives"],
        serde_json::json!(["tpot_us@local", "tpot_us@phone", "kl_divergence"])
    );
    for member in together["front"].as_array().unwrap() {
        let subnet: SubnetConfig = serde_json::from_value(member["subnet"].clone()).unwrap();
        let predicted = other.predict(&subnet, &"128+64".parse().unwrap()).unwrap();
        let shown = member["tpot_us@phone"].as_f64().unwrap();
        assert!((shown / predicted.tpot_us - 1.0).abs() < 1e-9, "{shown}");
        let has_mlp = subnet.layers.iter().any(|layer| layer.mlp.is_some());
        assert_eq!(has_mlp, shown > member["tpot_us@local"].as_f64().unwrap());
    }
    let csv = fs::read_to_string(desk.path("front/front.csv")).unwrap();
    assert!(csv.starts_with("tpot_us@local,tpot_us@phone,kl_divergence,parameters\n"));
    let chosen =
        lathe_compress::read_subnet(&desk.path("front/chosen.yaml"), &other.model.dimensions);
    let full = SubnetConfig::full(&other.model.dimensions);
    assert_eq!(chosen.unwrap().config.layers, full.layers);
    assert!(desk.path("front/front.yaml").is_file());
    // Without limits nothing is chosen, and what was is not taken for it.
    ask(&study, &[&both[..], &["--out", &out]].concat());
    assert!(!desk.path("front/chosen.yaml").exists());

    // A merged study keeps what it chose among.
    let merged = desk.text("merged.db");
    desk.succeeds(&["study", "merge", &study, "--out", &merged]);
    assert_eq!(ask(&merged, &["--table", &table]), same);
    let shown = desk.succeeds(&["front", "--study", &study, "--table", &table]);
    assert!(
        shown.contains("TPOT ms") && shown.contains("knee"),
        "{shown}"
    );

    // Behind `| head` nobody reads on: that is the end, and no fault.
    let mut unread = desk.command(&["front", "--study", &study, "--table", &table]);
    unread.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut unread = unread.spawn().unwrap();
    drop(unread.stdout.take());
    let unread = unread.wait_with_output().unwrap();
    assert_eq!(unread.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&unread.stderr), "");

    let fails = |rest: &[&str]| desk.fails(&[&["front", "--study", &study], rest].concat());
    let message = fails(&["--table", &table, "--objectives", "tpot,speed"]);
    assert!(
        message.contains("speed") && message.contains("memory"),
        "{message}"
    );
    let message = fails(&["--table", &table, "--objectives", "tpot,tpot"]);
    assert!(
        message.contains("tpot") && message.contains("twice"),
        "{message}"
    );
    let message = fails(&[&both[..], &["--max-tpot", "1us"]].concat());
    assert!(
        message.contains("on local") && message.contains("on phone"),
        "{message}"
    );
    other.model.name = "another".to_owned();
    other.save(Path::new(&phone)).unwrap();
    let message = fails(&["--table", &phone]);
    assert!(
        message.contains("`another`") && message.contains("`tiny-llama`"),
        "{message}"
    );
    let message = desk.fails(&["front", "--study", "nowhere.db", "--table", &table]);
    assert!(message.contains("nowhere.db"), "{message}");
}

#[test]
fn another_program_asks_for_objectives_and_nothing_is_evaluated_twice() {
    let desk = Desk::with_text();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.profile());
    let study = desk.text("asked.db");
    let ask = |lines: &str| -> Vec<serde_json::Value> {
        let files = ["--table", &table, "--study", &study, "--text", &text];
        let sizes = [
            "--model",
            &model,
            "--tokens",
            "512",
            "--calibration-tokens",
            "512",
        ];
        let mut child = desk
            .command(&[&["objective"], &files[..], &sizes].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let answers = String::from_utf8(output.stdout).unwrap();
        answers
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let about = ask("").remove(0);
    assert_eq!(
        about["objectives"],
        serde_json::json!(["latency_us", "kl_divergence"])
    );
    let full = about["full"].to_string();
    let genes = about["cardinalities"].as_array().unwrap().len();
    let smallest = format!("{:?}", vec![0; genes]);
    let answers = ask(&format!("{full}\n{smallest}\n[0]\nnothing\n{smallest}\n"));
    let objectives =
        |at: usize| [0, 1].map(|objective| answers[at]["objectives"][objective].as_f64().unwrap());
    let ([full_us, nothing], [least_us, far]) = (objectives(1), objectives(2));
    assert!(least_us < full_us && nothing.abs() < 1e-6 && far > 0.1);
    assert!(answers[3]["error"].as_str().unwrap().contains("[0]"));
    assert!(answers[4]["error"].is_string());
    assert_eq!(answers[5], answers[2]);
    assert_eq!(ask(&smallest)[1], answers[2]);
    let shown = desk.succeeds(&["study", "show", &study]);
    assert!(shown.contains("2 evaluations"), "{shown}");
}

#[test]
fn one_search_is_for_several_devices_in_stages_and_shared_by_processes() {
    let desk = Desk::with_text();
    let (model, text, table) = (desk.model(), desk.text("text.txt"), desk.profile());
    let mut other = LatencyTable::load(Path::new(&table)).unwrap();
    for entry in &mut other.entries {
        if let BlockShape::Mlp(_) = entry.block {
            entry.price_us *= 3.0;
        }
    }
    let second = desk.text("second.yaml");
    other.save(Path::new(&second)).unwrap();
    let search = |study: &str, rest: &[&str]| -> Vec<String> {
        let common = ["search", "--model", &model, "--text", &text, "--json"];
        let sizes = ["--tokens", "512", "--calibration-tokens", "512"];
        let files = ["--table", &table, "--table", &second, "--study", study];
        let all = [&common[..], &sizes, &files, rest].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let succeeds = |arguments: Vec<String>| -> serde_json::Value {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        serde_json::from_str(&desk.succeeds(&arguments)).unwrap()
    };
    let study = desk.text("devices.db");
    let front = succeeds(search(&study, &["--evaluations", "24", "--batch", "4"]));
    let members = front.as_array().unwrap();
    assert!(
        members
            .iter()
            .all(|m| m["objectives"].as_array().unwrap().len() == 3)
    );
    let csv = fs::read_to_string(desk.path("front.csv")).unwrap();
    let columns = "ttft_us@local,tpot_us@local,ttft_us@local-2,tpot_us@local-2,kl_divergence";
    assert!(csv.starts_with(columns), "{csv}");
    let message = desk.fails(&[
        "report", "--study", &study, "--table", &table, "--out", "r.html",
    ]);
    assert!(message.contains("latency_us@local-2"), "{message}");

    // Two processes at once end as one.
    let shared = desk.text("shared.db");
    let begin = ["--evaluations", "1", "--batch", "4"];
    succeeds(search(&shared, &begin));
    let go_on = ["--evaluations", "24", "--batch", "4", "--resume"];
    let fronts = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| succeeds(search(&shared, &go_on))));
        both.map(|process| process.join().unwrap())
    });
    assert_eq!(fronts, [front.clone(), front]);

    // Half of the cost is spent on a quarter of the tokens.
    let staged = desk.text("staged.db");
    let stages = [
        "--evaluations",
        "8",
        "--stage-tokens",
        "128",
        "--method",
        "random",
    ];
    succeeds(search(
        &staged,
        &[&stages[..], &["--from-scratch"]].concat(),
    ));
    let csv = desk.text("staged.csv");
    desk.succeeds(&["study", "export", &staged, "--out", &csv]);
    let csv = fs::read_to_string(csv).unwrap();
    let count = |fidelity: &str| csv.matches(fidelity).count();
    let (low, full) = (count(",low 0,"), count(",full,"));
    assert!(low >= 3 * full && full > 0, "{low} and {full}");
    let message = desk.fails(&[
        "search",
        "--from-scratch",
        "--table",
        &table,
        "--study",
        &staged,
        "--model",
        &model,
    ]);
    assert!(message.contains("--from-scratch"), "{message}");
}

/// Writes the tiny model with its layers several times over, ten in all.
fn write_deep_model(shallow: &Path, deep: &Path) {
    const LAYERS: usize = 10;
    let bytes = fs::read(shallow.join("model.safetensors")).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let tensors = header.as_object_mut().unwrap();
    let (mut all, mut deep_data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |at: usize| tensor["data_offsets"][at].as_u64().unwrap() as usize;
        let (layer, of_layer) = match name.strip_prefix("model.layers.") {
            Some(name) => name.split_once('.').unwrap(),
            None => ("", ""),
        };
        let copies = match layer.parse::<usize>() {
            Ok(layer) => (layer..LAYERS).step_by(3).collect(),
            Err(_) => vec![0],
        };
        for copy in copies {
            let name = match layer {
                "" => name.clone(),
                _ => format!("model.layers.{copy}.{of_layer}"),
            };
            let mut tensor = tensor.clone();
            let begin = deep_data.len();
            deep_data.extend_from_slice(&data[offset(0)..offset(1)]);
            tensor["data_offsets"] = serde_json::json!([begin, deep_data.len()]);
            all.insert(name, tensor);
        }
    }
    let header = serde_json::to_vec(&all).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    fs::create_dir(deep).unwrap();
    let file = [&length[..], &header, &deep_data].concat();
    fs::write(deep.join("model.safetensors"), file).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(shallow.join(name), deep.join(name)).unwrap();
    }
    let config = fs::read_to_string(shallow.join("config.json")).unwrap();
    let [of, now] = [3, LAYERS].map(|layers| format!("\"num_hidden_layers\": {layers}"));
    assert!(config.contains(&of));
    fs::write(deep.join("config.json"), config.replace(&of, &now)).unwrap();
}

#[test]
fn a_search_to_heal_begins_without_layers_that_follow_each_other() {
    let desk = Desk::with_text();
    let (model, text, table) = (
        desk.text("deep"),
        desk.text("text.txt"),
        desk.text("t.yaml"),
    );
    write_deep_model(Path::new(&desk.model()), Path::new(&model));
    desk.succeeds(&short_profile(&model, &table, "f32"));
    let search = |name: &str, more: &[&str]| -> [Vec<Evaluation>; 2] {
        let study = desk.text(&format!("{name}.db"));
        let sizes = "search --evaluations 24 --tokens 128 --block-tokens 64 --levels 0.7 \
             --calibration-tokens 512 --json";
        let files = [
            "--model", &model, "--text", &text, "--table", &table, "--study", &study,
        ];
        let sizes = sizes.split_whitespace().collect::<Vec<_>>();
        desk.succeeds(&[&sizes[..], &files, more].concat());
        [study, desk.text(&format!("{name}.blocks.db"))].map(|study| {
            let study = Study::open(Path::new(&study)).unwrap();
            study.evaluations().unwrap()
        })
    };
    // Ten attentions and ten MLPs, each cut in part and removed.
    let [_, scores] = search("as-cut", &[]);
    assert_eq!(scores.len(), 40);
    let [looked_at, scores] = search("to-heal", &["--to-heal"]);
    assert!(scores.len() > 80, "{}", scores.len());
    // Windows of two layers, the best of four; cuts are made in the eight others.
    let is_removed = |genome: &[usize], layer: usize| genome[2 * layer..2 * layer + 2] == [0, 0];
    let removed = |genome: &[usize]| -> Vec<usize> {
        (0..10).filter(|layer| is_removed(genome, *layer)).collect()
    };
    let windows: Vec<Vec<usize>> = scores[40..44].iter().map(|e| removed(&e.genome)).collect();
    assert!(
        windows
            .iter()
            .all(|window| window[..] == [window[0], window[0] + 1])
    );
    let best = removed(&scores[44].genome);
    assert!(windows.contains(&best), "{best:?}");
    for score in &scores[44..] {
        let removed = removed(&score.genome);
        assert!(best.iter().all(|layer| removed.contains(layer)));
    }
    let begins = |e: &Evaluation| best.iter().all(|at| is_removed(&e.genome, *at));
    assert!(looked_at.iter().any(begins));

    let refused = ["search", "--table", &table, "--study", &desk.text("no.db")];
    let more = ["--from-scratch", "--to-heal", "--method", "random"];
    let message = desk.fails(&[&refused[..], &more].concat());
    assert!(message.contains("--to-heal"), "{message}");
}
