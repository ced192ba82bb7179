//! Training the super-network at the prompt, on the tiny model: what is searched, scored and exported
//! with the adapter is what was trained, however often the training was stopped.

use std::fs;
use std::path::Path;

use lathe_arch::{SearchSpace, SpaceSpec, SubnetConfig};
use lathe_compress::{Adapter, Preparation, Prepared};
use lathe_fetch::ModelSpec;
use lathe_search::Study;
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Importance, Recovery, Split, perplexity, perplexity_and_kl};
use lathe_tests::{Desk, perplexity_in_the_runtime};
use serde_json::Value;

/// A desk with a front of two: the full model, and one that lacks a block, a group and neurons.
fn desk() -> (Desk, SubnetConfig) {
    let desk = Desk::with_text();
    let checkpoint = Checkpoint::load(desk.model().as_ref()).unwrap();
    let model = &checkpoint.config;
    let space = SearchSpace::new(model, "tiny", &SpaceSpec::standard(model)).unwrap();
    let full = space.decode(&space.full_genome()).unwrap();
    let small = space.decode(&[1, 3, 0, 4, 2, 5]).unwrap();
    let row = |subnet: &SubnetConfig| serde_json::json!({"tpot_us": 1.0, "subnet": subnet});
    let front = serde_yaml::to_string(&[row(&full), row(&small)]).unwrap();
    fs::write(desk.path("drawn-near.yaml"), front).unwrap();
    let small_yaml = serde_yaml::to_string(&small).unwrap();
    fs::write(desk.path("small.yaml"), small_yaml).unwrap();
    (desk, small)
}

fn train(desk: &Desk, out: &str, more: &[&str]) -> Vec<String> {
    let (model, text, out) = (desk.model(), desk.text("text.txt"), desk.text(out));
    let with = ["train", "--model", &model, "--text", &text, "--out", &out];
    let sizes = "--calibration-tokens 2048 --batch-tokens 256 --window-tokens 128 \
                 --validation-tokens 128 --learning-rate 3e-3 --least-share 0.3 --json";
    let all = with.into_iter().chain(sizes.split_whitespace());
    let all = all.chain(more.iter().copied());
    all.map(str::to_owned).collect()
}

fn as_str(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[track_caller]
fn is_near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
}

#[test]
fn a_trained_sub_network_scores_after_its_export_as_in_training() {
    let (desk, small) = desk();
    let front = desk.text("drawn-near.yaml");
    let table = desk.profile();
    for (out, more) in [
        ("all", &["--steps", "80"][..]),
        ("adapters", &["--steps", "80", "--rank", "4"]),
    ] {
        let trained = desk.succeeds(&as_str(&train(
            &desk,
            out,
            &[more, &["--front", &front]].concat(),
        )));
        let trained: Value = serde_json::from_str(&trained).unwrap();
        let of_small = &trained["validated"][2];
        assert_eq!(of_small["network"], "smallest");
        let number = |name: &str, at: usize| of_small[name][at].as_f64().unwrap();
        assert!(number("kl", 1) < 0.97 * number("kl", 0), "{of_small}");
        assert!(!desk.path(out).join("state.safetensors").exists());

        // By the crates, in the runtime, and at the prompt.
        let text = desk.path("text.txt");
        let text = lathe_compress::load_text(&lathe_tests::cache(), Some(&text)).unwrap();
        let adapter = Adapter::read(&desk.path(out)).unwrap();
        let preparation = Preparation {
            calibration_tokens: 1,
            importance: Importance::Random,
            recovery: Recovery::None,
            adapter: Some(&adapter),
        };
        let spec = ModelSpec::find(&desk.model()).unwrap();
        let cache = lathe_tests::cache();
        let progress = &mut |_: &str, _, _| {};
        let prepared = Prepared::new(&spec, &cache, text, &preparation, progress);
        let prepared = prepared.unwrap();
        let cut = prepared.cut(&small, &mut |_, _, _| {}).unwrap();
        let windows = prepared.windows(Split::Search, 128).unwrap();
        let scored = perplexity(&cut, &windows).unwrap().perplexity();
        is_near(scored, number("perplexity", 1));
        is_near(
            perplexity_in_the_runtime(&cut, &windows),
            number("perplexity", 1),
        );
        let windows = prepared.windows(Split::Test, 256).unwrap();
        let expected = perplexity_and_kl(&cut, &windows).unwrap();

        let (model, text) = (desk.model(), desk.text("text.txt"));
        let (adapter, subnet) = (desk.text(out), desk.text("small.yaml"));
        let common = ["--model", &model, "--text", &text, "--adapter", &adapter];
        let with = |command: &[&str]| desk.succeeds(&[command, &common].concat());
        let scored = "evaluate --tokens 256 --task kl --json";
        let scored: Vec<&str> = scored.split(' ').chain(["--subnet", &subnet]).collect();
        let scored: Value = serde_json::from_str(&with(&scored)).unwrap();
        is_near(
            scored["perplexity"].as_f64().unwrap(),
            expected.perplexity(),
        );
        let divergence = expected.kl_divergence.unwrap();
        is_near(scored["kl_divergence"].as_f64().unwrap(), divergence);
        let exported = desk.text(&format!("exported-{out}"));
        with(&["export", "--out", &exported, "--subnet", &subnet]);

        // Healing begins where the training ended, and needs no adapter afterwards.
        let healed = desk.text(&format!("healed-{out}"));
        let heal =
            "heal --steps 4 --batch-tokens 256 --window-tokens 128 --validation-tokens 128 --json";
        let files = ["--subnet", &subnet, "--out", &healed];
        let report = with(&[&heal.split(' ').collect::<Vec<_>>()[..], &files].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        let begin = report["validation_perplexity"][0].as_f64().unwrap();
        is_near(begin, number("perplexity", 1));
        // Its teacher is the full model as it was trained, which diverges from itself in nothing.
        let full = SubnetConfig::full(prepared.model());
        let whole = desk.text("full.yaml");
        fs::write(&whole, serde_yaml::to_string(&full).unwrap()).unwrap();
        let files = [
            "--subnet",
            &whole,
            "--out",
            &desk.text(&format!("whole-{out}")),
        ];
        let report = with(&[&heal.split(' ').collect::<Vec<_>>()[..], &files].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        let begin = report["validation_kl"][0].as_f64().unwrap();
        assert!(begin.abs() < 1e-5, "{begin}");
        let alone = [
            "evaluate", "--subnet", &healed, "--model", &model, "--text", &text,
        ];
        desk.succeeds(&alone);
        let twice = [&alone[..], &["--adapter", &adapter]].concat();
        assert!(desk.fails(&twice).contains("--adapter"));

        // The search is one of the trained super-network: the full model's place in it is the teacher's.
        let study = desk.text(&format!("{out}.db"));
        let search = "search --evaluations 6 --tokens 128 --block-tokens 64 --json";
        let files = ["--table", &table, "--study", &study];
        let search: Vec<&str> = search.split(' ').chain(files).collect();
        with(&search);
        // It begins with the full model and what was trained.
        let looked_at = Study::open(Path::new(&study)).unwrap();
        let looked_at = looked_at.evaluations().unwrap();
        assert_eq!(looked_at[1].genome, [1, 3, 0, 4, 2, 5]);
        let resumed = [
            &search[..],
            &["--resume", "--model", &model, "--text", &text],
        ]
        .concat();
        assert!(desk.fails(&resumed).contains("super-network"));
    }

    // A comparison has its search among the trained networks, and baselines of the checkpoint.
    let (model, text, adapter) = (desk.model(), desk.text("text.txt"), desk.text("all"));
    let baselines = |more: &[&str], out: &str| -> Vec<Value> {
        let out = desk.text(out);
        let sizes = "compare --objective tpot --levels 0.9 --precision f32 --evaluations 6 --tokens 128 \
             --block-tokens 64 --test-tokens 128 --questions 0 --no-measure --json \
             --calibration-tokens 2048";
        let files = [
            "--table", &table, "--out", &out, "--model", &model, "--text", &text,
        ];
        let all = [
            &sizes.split_whitespace().collect::<Vec<_>>()[..],
            &files,
            more,
        ]
        .concat();
        let compared: Value = serde_json::from_str(&desk.succeeds(&all)).unwrap();
        let all = compared["contenders"].as_array().unwrap().clone();
        let (baselines, ours): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|c| c["method"]["baseline"].is_string());
        assert_eq!(ours.len(), 1);
        baselines
    };
    let trained = baselines(&["--adapter", &adapter], "compared-trained");
    assert_eq!(trained, baselines(&[], "compared"));
}

#[test]
fn what_a_training_takes_is_told_before_it_begins() {
    let (desk, _) = desk();
    let estimate = train(&desk, "out", &["--estimate", "--rank", "4"]);
    let needs: Value = serde_json::from_str(&desk.succeeds(&as_str(&estimate))).unwrap();
    let parts = needs["memory"].as_object().unwrap().values();
    let sum: u64 = parts.map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(needs["total_bytes"], sum);
    assert!(!desk.path("out").exists());

    // Sizes alone say that this one is too large for any machine.
    let large = desk.path("large");
    fs::create_dir_all(&large).unwrap();
    let config = Path::new(&desk.model()).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    config["hidden_size"] = (1 << 20).into();
    config["intermediate_size"] = (4 << 20).into();
    fs::write(large.join("config.json"), config.to_string()).unwrap();
    let (large, text) = (desk.text("large"), desk.text("text.txt"));
    let message = desk.fails(&[
        "train",
        "--model",
        &large,
        "--text",
        &text,
        "--out",
        &desk.text("out"),
    ]);
    assert!(
        message.contains("GiB") && message.contains("--rank"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn a_training_that_was_stopped_gives_the_same_weights() {
    let (desk, _) = desk();
    let more: Vec<&str> = "--steps 60 --save-every 7 --validate-every 25 --sampling sandwich"
        .split(' ')
        .collect();
    desk.succeeds(&as_str(&train(&desk, "straight", &more)));
    let begin = train(&desk, "stopped", &more);
    let resume = train(&desk, "stopped", &[&more[..], &["--resume"]].concat());
    // Killed without warning, then asked to stop.
    assert_eq!(desk.stop(&as_str(&begin), "stopped", "-KILL"), None);
    assert!(desk.fails(&as_str(&begin)).contains("--resume"));
    assert_eq!(desk.stop(&as_str(&resume), "stopped", "-INT"), Some(130));
    assert!(!desk.path("stopped/adapter.yaml").exists());
    desk.succeeds(&as_str(&resume));
    for file in ["weights.safetensors", "order.json", "adapter.yaml"] {
        let bytes = |out: &str| fs::read(desk.path(out).join(file)).unwrap();
        assert!(bytes("straight") == bytes("stopped"), "{file}");
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (desk, _) = desk();
    let refused = |more: &[&str]| desk.fails(&as_str(&train(&desk, "out", more)));
    let steps = ["--steps", "2"];
    assert!(refused(&[&steps[..], &["--sampling", "front"]].concat()).contains("front"));
    assert!(refused(&[&steps[..], &["--front", "/no.yaml"]].concat()).contains("/no.yaml"));
    assert!(refused(&["--steps", "2", "--sampling", "all"]).contains("sandwich"));
    let diverged = "--steps 60 --learning-rate 1e6 --warmup-steps 0 --save-every 1";
    let arguments = train(&desk, "diverged", &[]);
    let arguments = arguments.iter().map(String::as_str);
    let is_rate = |argument: &&str| *argument != "--learning-rate" && *argument != "3e-3";
    let arguments: Vec<&str> = arguments
        .filter(is_rate)
        .chain(diverged.split(' '))
        .collect();
    let message = desk.fails(&arguments);
    assert!(message.contains("learning rate"), "{message}");
    assert!(!desk.path("diverged/adapter.yaml").exists());

    let arguments = train(&desk, "adapter", &steps);
    desk.succeeds(&as_str(&arguments));
    assert!(desk.fails(&as_str(&arguments)).contains("finished"));
    let (model, text, adapter) = (desk.model(), desk.text("text.txt"), desk.text("adapter"));
    let evaluate = |model: &str, text: &str| {
        let with = [
            "evaluate",
            "--model",
            model,
            "--text",
            text,
            "--adapter",
            &adapter,
        ];
        desk.fails(&with)
    };
    // A model that differs in a single number, other text, a damaged order, no adapter at all.
    let copied = desk.path("copied");
    fs::create_dir_all(&copied).unwrap();
    for entry in fs::read_dir(desk.model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copied.join(path.file_name().unwrap())).unwrap();
    }
    let weights = copied.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let message = evaluate(&copied.to_string_lossy(), &text);
    assert!(message.contains("--model"), "{message}");
    let short = fs::read_to_string(desk.path("text.txt")).unwrap();
    let turned: Vec<&str> = short.split("\n\n").skip(7).collect();
    fs::write(desk.path("other.txt"), turned.join("\n\n")).unwrap();
    let message = evaluate(&model, &desk.text("other.txt"));
    assert!(message.contains("--text"), "{message}");
    let order = desk.path("adapter/order.json");
    let whole = fs::read_to_string(&order).unwrap();
    fs::write(&order, &whole[..whole.len() / 2]).unwrap();
    assert!(evaluate(&model, &text).contains("order.json"));
    fs::write(&order, whole).unwrap();
    fs::remove_file(desk.path("adapter/adapter.yaml")).unwrap();
    assert!(evaluate(&model, &text).contains("adapter.yaml"));
}
