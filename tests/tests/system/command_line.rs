//! What a user does at the prompt, on the tiny model.

use std::fs;
use std::path::Path;

use lathe_arch::{Precision, SubnetConfig};
use lathe_latency::LatencyTable;
use lathe_tests::{Desk, short_profile};

#[test]
fn profile_predict_search_export_and_report() {
    let desk = Desk::with_text();
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
    let within = |limit: &'static str| [&search[..], &["--max-size", limit]].concat();
    let kept = desk.succeeds(&within("1GB"));
    assert_eq!(
        front,
        serde_json::from_str::<serde_json::Value>(&kept).unwrap()
    );
    assert!(desk.path("study.chosen.yaml").is_file());
    let message = desk.fails(&within("9kB"));
    assert!(message.contains("limit of size"), "{message}");
    let message = desk.fails(&within("9"));
    assert!(
        message.contains("--max-size") && message.contains("MB"),
        "{message}"
    );

    let exported = desk.text("study.csv");
    let listed = desk.succeeds(&["study", "list", &desk.text(""), "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["path"].as_str().unwrap())
        .collect();
    assert!(names.contains(&&study[..]), "{names:?}");
    let shown = desk.succeeds(&["study", "show", &study]);
    assert!(
        shown.contains("additive") && shown.contains("30 evaluations"),
        "{shown}"
    );
    desk.succeeds(&["study", "export", &study, "--out", &exported]);
    let lines = fs::read_to_string(&exported).unwrap();
    assert_eq!(lines.lines().count(), 31);
    assert!(
        lines.starts_with("number,latency_us,kl_divergence,fidelity,seed,wall_s,genome\n"),
        "{lines}"
    );
    let merged = desk.text("merged.db");
    desk.succeeds(&["study", "merge", &study, &study, "--out", &merged]);
    let shown = desk.succeeds(&["study", "show", &merged, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["evaluations"], 30);
    assert_eq!(
        shown["front"].as_array().unwrap().len(),
        front.as_array().unwrap().len()
    );
    // Studies of their own, beside scores of single blocks that were made on other text.
    search.pop();
    search.extend(["--block-tokens", "100"]);
    for method in [
        "nsga2",
        "nsga3",
        "local-search",
        "evolution",
        "ehvi",
        "stratified",
        "random",
        "additive",
    ] {
        fs::remove_file(&study).unwrap();
        let front = desk.succeeds(&[&search[..], &["--method", method]].concat());
        let front: serde_json::Value = serde_json::from_str(&front).unwrap();
        assert!(!front.as_array().unwrap().is_empty(), "{method}");
        let shown = desk.succeeds(&["study", "show", &study]);
        assert!(
            shown.contains(method) && shown.contains("30 evaluations"),
            "{shown}"
        );
    }

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
        "4096",
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
    let keep = ["--keep-drift"];
    let drifted = desk.succeeds(&[&evaluate[..], &common[..], &keep].concat());
    let drifted: serde_json::Value = serde_json::from_str(&drifted).unwrap();
    assert_ne!(drifted["perplexity"], quality["perplexity"]);
    let again = desk.text("drifted");
    let export = ["export", "--subnet", &subnet, "--out", &again];
    desk.succeeds(&[&export[..], &common[..], &keep].concat());
    let file = |folder: &str, name| fs::read(desk.path(folder).join(name)).unwrap();
    assert_ne!(
        file("drifted", "model.onnx.data"),
        file("exported", "model.onnx.data")
    );
    for (folder, is_corrected) in [("exported", "true"), ("drifted", "false")] {
        let manifest = String::from_utf8(file(folder, "subnet.yaml")).unwrap();
        assert!(manifest.contains(&format!("drift_corrected: {is_corrected}")));
    }

    let page = desk.text("report.html");
    let report = [
        "report", "--study", &study, "--model", &model, "--out", &page,
    ];
    desk.succeeds(&report);
    let without = fs::read_to_string(&page).unwrap();
    assert!(without.starts_with("<!DOCTYPE html>") && without.contains("tiny-llama"));
    // Trainings beside it, as `heal` leaves them.
    let healed = desk.text("healed");
    fs::create_dir(&healed).unwrap();
    let trained = [&report[..], &["--training", &healed]].concat();
    assert!(desk.fails(&trained).contains("metrics.jsonl"));
    let scored = r#"{"step":0,"validation_kl":0.5,"validation_perplexity":60.0}"#;
    fs::write(desk.path("healed/metrics.jsonl"), scored).unwrap();
    desk.succeeds(&trained);
    let page = fs::read_to_string(&page).unwrap();
    assert!(!without.contains("Loss of the training") && page.contains("Loss of the training"));
}

#[test]
fn precisions_are_searched_questions_answered_and_baselines_compared() {
    let desk = Desk::with_text();
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
    assert!(answers["all"]["acc_mutual_info"].is_null());
    let informed = desk.succeeds(&[&evaluate, &common[..], &["--mutual-info"]].concat());
    let informed: serde_json::Value = serde_json::from_str(&informed).unwrap();
    assert_eq!(informed["log_likelihoods"], answers["log_likelihoods"]);
    assert!(informed["all"]["acc_mutual_info"].is_number());
    fs::write(desk.path("questions.jsonl"), "{\"context\": 3}\n").unwrap();
    let message = desk.fails(&[&evaluate, &common[..]].concat());
    assert!(
        message.contains("questions.jsonl") && message.contains("line 1"),
        "{message}"
    );

    let out = desk.text("compare");
    let lesson = desk.text("lesson.txt");
    fs::write(&lesson, "What the quick brown fox learns.\n\n".repeat(100)).unwrap();
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
        "--heal-steps",
        "8",
        "--train-text",
        &lesson,
        "--distill-share",
        "0.5",
        "--no-measure",
        "--out",
        &out,
        "--json",
    ];
    let told = desk.text("told.jsonl");
    fs::write(&told, question.replace("quick brown", "the lazy")).unwrap();
    let told = ["--search-task", &told, "--task", &told];
    let compare = [&compare, &told[..2], &common].concat();
    let compared = desk.succeeds(&compare);
    let value: serde_json::Value = serde_json::from_str(&compared).unwrap();
    let contenders = value["contenders"].as_array().unwrap();
    let (whole, contenders): (Vec<_>, Vec<_>) = contenders
        .iter()
        .partition(|c| c["method"]["whole-model"].is_string());
    // Two searches, and seven methods as published and refitted.
    assert_eq!(contenders.len(), 2 + 2 * 7);
    let latency = |c: &&serde_json::Value| c["latency_us"].as_f64().unwrap();
    let (others, ours): (Vec<_>, Vec<_>) = contenders
        .iter()
        .partition(|c| c["method"]["baseline"].is_string());
    assert_eq!(ours.len(), 2);
    // The full model in int8 stands beside them where it is fast enough.
    let prices = LatencyTable::load(&desk.path("table.yaml")).unwrap();
    let full = SubnetConfig::full(&prices.model.dimensions);
    let workload = "128+64".parse().unwrap();
    let tpot_us = |subnet: &SubnetConfig| prices.predict(subnet, &workload).unwrap().tpot_us;
    let is_fast = tpot_us(&full.clone().with_precision(Precision::Int8)) <= 0.9 * tpot_us(&full);
    assert_eq!(whole.len(), usize::from(is_fast));
    let slowest_of_ours = ours.iter().map(latency).fold(0.0, f64::max);
    assert!(others.iter().all(|c| latency(c) >= slowest_of_ours));
    // Both searches, and the best baseline as published and refitted.
    let healed = contenders.iter().filter(|c| c["healed"]["steps"] == 8);
    assert_eq!(healed.count(), 4);
    let made = fs::read_dir(desk.path("compare")).unwrap();
    let mut names = made.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.ends_with(".unfinished")));
    let figure = fs::read_to_string(desk.path("compare/comparison-tpot.svg")).unwrap();
    assert!(figure.starts_with("<svg") && figure.contains("ShortGPT"));
    // What is there is not made again.
    assert_eq!(desk.succeeds(&compare), compared);
    // All answer what was asked last, in the same folder.
    fs::write(&file, format!("{question}\n{question}\n")).unwrap();
    for (count, task) in [(3_u64, "mmlu-cloze"), (9, &file), (1, &file)] {
        let word_of_count = count.to_string();
        let asked = compare.iter().map(|word| match *word {
            "0" => &word_of_count,
            word => word,
        });
        let asked: Vec<&str> = asked.chain(["--task", task]).collect();
        let answered = desk.succeeds(&asked);
        let answered: serde_json::Value = serde_json::from_str(&answered).unwrap();
        let all = answered["contenders"].as_array().unwrap().iter();
        let questions = all.map(|c| c["accuracy"]["questions"].as_u64());
        // There are two questions in the file.
        let there_are = if task == file { count.min(2) } else { count };
        let want = vec![Some(there_are); 2 + 2 * 7 + whole.len()];
        assert_eq!(questions.collect::<Vec<_>>(), want);
    }
    let tested = ["compare", "--table", &table, "--out", &out];
    let message = desk.fails(&[&tested[..], &told, &common].concat());
    assert!(message.contains("tested with all"), "{message}");
}

#[test]
fn a_narrower_model_is_a_model_like_any_other() {
    let desk = Desk::with_text();
    let (model, text, out) = (desk.model(), desk.text("text.txt"), desk.text("narrow"));
    let narrow = ["narrow", "--model", &model, "--text", &text, "--json"];
    let sizes = ["--calibration-tokens", "2048", "--tokens", "512"];
    let narrow = [&narrow, &sizes[..]].concat();
    let narrowed = desk.succeeds(&[&narrow[..], &["--hidden-size", "48", "--out", &out]].concat());
    let narrowed: serde_json::Value = serde_json::from_str(&narrowed).unwrap();
    assert_eq!(narrowed["hidden_size"], serde_json::json!([64, 48]));
    let evaluate = ["evaluate", "--model", &out, "--text", &text, "--json"];
    let quality = desk.succeeds(&[&evaluate[..], &["--tokens", "512"]].concat());
    let quality: serde_json::Value = serde_json::from_str(&quality).unwrap();
    let [expected, found] = [&narrowed["perplexity"][1], &quality["perplexity"]];
    let [expected, found] = [expected, found].map(|value| value.as_f64().unwrap());
    assert!((found / expected - 1.0).abs() < 1e-6, "{found}, {expected}");
    let table = desk.text("narrow.yaml");
    desk.succeeds(&short_profile(&out, &table, "f32"));
    let table = LatencyTable::load(Path::new(&table)).unwrap();
    assert_eq!(table.model.dimensions.hidden_size, 48);

    let message = desk.fails(&[&narrow[..], &["--hidden-size", "99", "--out", &out]].concat());
    assert!(
        message.contains("99") && message.contains("64"),
        "{message}"
    );
    let itself = ["--hidden-size", "48", "--out", &model];
    let message = desk.fails(&[&narrow[..], &itself].concat());
    assert!(message.contains("--out"), "{message}");
}

#[test]
fn quickstart_does_the_whole_job_and_does_not_repeat_it() {
    let desk = Desk::with_text();
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
