//! Healing at the prompt, on the tiny model: what comes out is what was trained, however often the
//! training was stopped.

use std::fs;
use std::path::Path;

use lathe_arch::SubnetConfig;
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Parameters, Split, Supernet, perplexity};
use lathe_tests::{Desk, perplexity_in_the_runtime};

/// A desk with a sub-network that lacks blocks, groups, heads and neurons.
fn desk() -> (Desk, SubnetConfig) {
    let desk = Desk::with_text();
    let checkpoint = Checkpoint::load(desk.model().as_ref()).unwrap();
    let config = lathe_tests::uneven(&checkpoint.config);
    let yaml = serde_yaml::to_string(&config).unwrap();
    fs::write(desk.path("subnet.yaml"), yaml).unwrap();
    (desk, config)
}

fn heal(desk: &Desk, out: &str, more: &[&str]) -> Vec<String> {
    let (model, text, subnet) = (
        desk.model(),
        desk.text("text.txt"),
        desk.text("subnet.yaml"),
    );
    let out = desk.text(out);
    let with = [
        "heal", "--model", &model, "--text", &text, "--subnet", &subnet, "--out", &out,
    ];
    let sizes = ["--calibration-tokens", "2048", "--json"];
    let tokens = [
        "--batch-tokens",
        "256",
        "--window-tokens",
        "128",
        "--validation-tokens",
        "128",
    ];
    let all = with.iter().chain(&sizes).chain(&tokens).chain(more);
    all.map(|argument| (*argument).to_owned()).collect()
}

fn as_str(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_healed_network_scores_after_its_export_as_in_training() {
    let (desk, config) = desk();
    for (out, more) in [
        ("all", &["--learning-rate", "3e-3"][..]),
        ("adapters", &["--rank", "4", "--learning-rate", "1e-2"]),
    ] {
        let arguments = heal(&desk, out, &[&["--steps", "30"], more].concat());
        let healed = desk.succeeds(&as_str(&arguments));
        let healed: serde_json::Value = serde_json::from_str(&healed).unwrap();
        let number = |name: &str, at: usize| healed[name][at].as_f64().unwrap();
        assert!(number("validation_kl", 1) < 0.8 * number("validation_kl", 0));
        let in_training = number("validation_perplexity", 1);

        let checkpoint = Checkpoint::load(desk.model().as_ref()).unwrap();
        let text = desk.path("text.txt");
        let text = lathe_compress::load_text(&lathe_tests::cache(), Some(&text)).unwrap();
        let windows = text.windows(Split::Search, &checkpoint.tokenizer, 1, 128);
        let windows = windows.unwrap();
        let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights);
        let weights = desk.path(out).join("weights.safetensors");
        let weights = Parameters::load(&weights, &supernet, &config).unwrap();
        let subnet = weights.subnet(&supernet, &config).unwrap();
        let loaded = perplexity(&subnet, &windows).unwrap().perplexity();
        let exported = perplexity_in_the_runtime(&subnet, &windows);
        for found in [loaded, exported] {
            assert!(
                (found / in_training - 1.0).abs() < 1e-3,
                "{found} {in_training}"
            );
        }

        // The folder is a sub-network to every command.
        let (model, text, folder) = (desk.model(), desk.text("text.txt"), desk.text(out));
        let common = ["--model", &model, "--subnet", &folder, "--text", &text];
        let scored = ["evaluate", "--tokens", "256", "--task", "kl", "--json"];
        let scored = desk.succeeds(&[&scored[..], &common].concat());
        let scored: serde_json::Value = serde_json::from_str(&scored).unwrap();
        assert!(scored["kl_divergence"].as_f64().unwrap() > 0.0);
        let exported = desk.text("exported");
        desk.succeeds(&[&["export", "--out", &exported][..], &common].concat());
        let manifest = fs::read_to_string(desk.path("exported/subnet.yaml")).unwrap();
        assert!(manifest.contains("trained: true") && !manifest.contains("kept"));
        assert!(!desk.path(out).join("state.safetensors").exists());
        assert!(desk.fails(&as_str(&arguments)).contains("finished"));
    }
}

#[cfg(unix)]
#[test]
fn a_training_that_was_stopped_gives_the_same_weights() {
    let (desk, _) = desk();
    let more = [
        "--steps",
        "120",
        "--save-every",
        "7",
        "--validate-every",
        "50",
    ];
    desk.succeeds(&as_str(&heal(&desk, "straight", &more)));
    let begin = heal(&desk, "stopped", &more);
    let resume = heal(&desk, "stopped", &[&more[..], &["--resume"]].concat());
    assert!(desk.fails(&as_str(&resume)).contains("--resume"));
    // Killed without warning, then asked to stop.
    assert_eq!(desk.stop(&as_str(&begin), "stopped", "-KILL"), None);
    assert!(desk.fails(&as_str(&begin)).contains("--resume"));
    assert_eq!(desk.stop(&as_str(&resume), "stopped", "-INT"), Some(130));
    assert!(!desk.path("stopped/weights.safetensors").exists());
    desk.succeeds(&as_str(&resume));
    let weights = |out: &str| fs::read(desk.path(out).join("weights.safetensors")).unwrap();
    assert!(weights("straight") == weights("stopped"));
    let losses = |out: &str| -> Vec<(u64, Option<String>)> {
        let text = fs::read_to_string(desk.path(out).join("metrics.jsonl")).unwrap();
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let loss = value.get("loss").map(ToString::to_string);
            (value["step"].as_u64().unwrap(), loss)
        };
        text.lines().map(line).collect()
    };
    assert_eq!(losses("straight"), losses("stopped"));
}

#[cfg(unix)]
#[test]
fn of_several_networks_the_one_that_heals_best_is_left() {
    let (desk, config) = desk();
    let mut other = config.clone();
    other.layers[1].mlp = None;
    let yaml = serde_yaml::to_string(&other).unwrap();
    fs::write(desk.path("other.yaml"), yaml).unwrap();
    let other = desk.text("other.yaml");
    let race = |out: &str, more: &[&str]| {
        let mut arguments = heal(&desk, out, more);
        let at = arguments.iter().position(|a| a == "--subnet").unwrap();
        arguments.insert(at + 1, other.clone());
        arguments
    };
    let steps = ["--steps", "96", "--save-every", "7"];
    let raced = desk.succeeds(&as_str(&race("raced", &steps)));
    let raced: serde_json::Value = serde_json::from_str(&raced).unwrap();
    let legs = raced["legs"].as_array().unwrap();
    let of_leg = |leg: &serde_json::Value| (leg["network"].as_u64(), leg["steps"].as_u64());
    let places: Vec<_> = legs.iter().map(of_leg).collect();
    assert_eq!(places, [(Some(0), Some(48)), (Some(1), Some(48))]);
    let losses: Vec<f64> = legs
        .iter()
        .map(|leg| leg["excess_loss"].as_f64().unwrap())
        .collect();
    // The network that lacks a block more is the worse one.
    assert!(losses[1] < losses[0], "{losses:?}");
    assert_eq!(raced["winner"], 1);
    assert_eq!(raced["healed"]["steps"], 96);
    let figure = fs::read_to_string(desk.path("raced/training.svg")).unwrap();
    assert!(figure.starts_with("<svg") && figure.contains(">raced<"));
    let left = fs::read_dir(desk.path("raced/race/1")).unwrap();
    let mut left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["metrics.jsonl", "subnet.yaml"]);

    // It is what it would have been alone, and what it is after a race that was stopped.
    desk.succeeds(&as_str(&heal(&desk, "alone", &steps)));
    let begin = race("stopped", &steps);
    let resume = race("stopped", &[&steps[..], &["--resume"]].concat());
    assert!(desk.fails(&as_str(&resume)).contains("--resume"));
    let stop = |arguments: &[String], at: &str, signal| desk.stop(&as_str(arguments), at, signal);
    assert_eq!(stop(&begin, "stopped/race/1", "-KILL"), None);
    assert!(desk.fails(&as_str(&begin)).contains("--resume"));
    assert_eq!(stop(&resume, "stopped/race/2", "-INT"), Some(130));
    assert_eq!(stop(&resume, "stopped", "-KILL"), None);
    // Neither one network alone nor more of them go on with a race.
    let alone = heal(&desk, "mixed", &steps);
    assert_eq!(stop(&race("mixed", &steps), "mixed/race/1", "-KILL"), None);
    assert!(desk.fails(&as_str(&alone)).contains("race"));
    fs::create_dir(desk.path("mixed/race/3")).unwrap();
    let more = race("mixed", &[&steps[..], &["--resume"]].concat());
    assert!(desk.fails(&as_str(&more)).contains("begun with more"));
    // Nor does a race begin over one that is unfinished.
    let single = heal(&desk, "single", &steps);
    assert_eq!(stop(&single, "single", "-INT"), Some(130));
    let over = race("single", &[&steps[..], &["--resume"]].concat());
    assert!(desk.fails(&as_str(&over)).contains("one network"));

    desk.succeeds(&as_str(&resume));
    let weights = |out: &str| fs::read(desk.path(out).join("weights.safetensors")).unwrap();
    assert!(weights("raced") == weights("alone"));
    assert!(weights("raced") == weights("stopped"));
    assert!(desk.fails(&as_str(&begin)).contains("finished"));
    let minutes = race("timed", &["--minutes", "1"]);
    assert!(desk.fails(&as_str(&minutes)).contains("--steps"));
    let few = race("few", &["--steps", "1"]);
    assert!(desk.fails(&as_str(&few)).contains("at least 2"));
}

#[test]
fn what_cannot_be_healed_is_refused() {
    let (desk, _) = desk();
    let refused = |more: &[&str]| desk.fails(&as_str(&heal(&desk, "out", more)));
    let steps = ["--steps", "2"];
    assert!(refused(&["--steps", "0"]).contains("--steps"));
    assert!(refused(&["--steps", "2", "--targets", "q"]).contains("--rank"));
    assert!(refused(&[&steps[..], &["--distill-share", "2"]].concat()).contains("--distill-share"));
    assert!(refused(&[&steps[..], &["--train-text", "/no"]].concat()).contains("/no"));
    let diverged = [
        "--steps",
        "20",
        "--learning-rate",
        "1e6",
        "--warmup-steps",
        "0",
    ];
    let message = refused(&diverged);
    assert!(message.contains("learning rate"), "{message}");

    let healed = desk.path("healed");
    desk.succeeds(&as_str(&heal(&desk, "healed", &steps)));
    let (model, folder) = (desk.model(), desk.text("healed"));
    let evaluate = ["evaluate", "--model", &model, "--subnet", &folder];
    let weights = healed.join("weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    for damaged in [&whole[..20], &whole[..whole.len() / 2], b"nothing"] {
        fs::write(&weights, damaged).unwrap();
        assert!(desk.fails(&evaluate).contains("weights.safetensors"));
    }
    let manifest = healed.join("subnet.yaml");
    let yaml = fs::read_to_string(&manifest).unwrap();
    let elsewhere = yaml.replace("weights: weights", "weights: ../weights");
    assert_ne!(yaml, elsewhere);
    fs::write(&manifest, elsewhere).unwrap();
    assert!(desk.fails(&evaluate).contains("weights"));
    assert!(Path::new(&folder).is_dir());
}

#[test]
fn a_network_whose_training_goes_wrong_drops_out_of_the_race() {
    let (desk, _) = desk();
    desk.succeeds(&as_str(&heal(&desk, "broken", &["--steps", "1"])));
    // Weights so large that what is computed of them is no number.
    let path = desk.path("broken/weights.safetensors");
    let mut weights = fs::read(&path).unwrap();
    let quarter = weights.len() / 16;
    for weight in weights.rchunks_exact_mut(4).take(quarter) {
        weight.copy_from_slice(&1e30f32.to_le_bytes());
    }
    fs::write(&path, weights).unwrap();
    let race = |out: &str, other: &str| {
        let mut arguments = heal(&desk, out, &["--steps", "8"]);
        let at = arguments.iter().position(|a| a == "--subnet").unwrap();
        arguments.insert(at + 1, desk.text("broken"));
        arguments[at + 2] = desk.text(other);
        arguments
    };
    let raced = desk.succeeds(&as_str(&race("raced", "subnet.yaml")));
    let raced: serde_json::Value = serde_json::from_str(&raced).unwrap();
    assert_eq!(raced["went_wrong"], serde_json::json!([0]));
    assert_eq!(raced["legs"].as_array().unwrap().len(), 1);
    assert_eq!(raced["winner"], 1);
    // Where none is left the race has no winner.
    let error = desk.fails(&as_str(&race("none", "broken")));
    assert!(error.contains("the training went wrong"), "{error}");
}
