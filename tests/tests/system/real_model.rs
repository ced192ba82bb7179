//! The default model against reference values made with transformers (tests/fixtures/make.py).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_compress::{MmluForm, load_text, mmlu};
use lathe_fetch::Cache;
use lathe_supernet::checkpoint::{Checkpoint, Tokenizer};
use lathe_supernet::{
    Calibration, Evaluator, Importance, ImportanceOrder, Question, QuestionSet, Recovery, Split,
    Supernet, TokenWindows, greedy, logits, perplexity,
};
use serde::Deserialize;

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(lathe_tests::fixture(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Logits {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    token_ids: Vec<u32>,
    greedy: Vec<u32>,
    top_logits: Vec<(usize, f32)>,
    largest_at_each_position: Vec<(usize, f32)>,
}

#[derive(Deserialize)]
struct Tokenization {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn logits_agree(checkpoint: &Checkpoint, supernet: &Supernet) {
    let vocab = checkpoint.config.vocab_size;
    let prompts = read::<Logits>("smollm2_logits.json").prompts;
    assert_eq!(prompts.len(), 5);
    for prompt in prompts {
        assert_eq!(
            checkpoint.tokenizer.encode(&prompt.text).unwrap(),
            prompt.token_ids
        );
        let all = logits(&supernet.full(), &prompt.token_ids).unwrap();
        let last = &all[all.len() - vocab..];
        for (id, want) in prompt.top_logits {
            assert!(
                (last[id] - want).abs() < 2e-3,
                "{:?} {id}: {} {want}",
                prompt.text,
                last[id]
            );
        }
        for (row, (id, want)) in all.chunks(vocab).zip(prompt.largest_at_each_position) {
            assert!(
                (row[id] - want).abs() < 2e-3,
                "{:?} {id}: {} {want}",
                prompt.text,
                row[id]
            );
        }
        let got = greedy(&supernet.full(), &prompt.token_ids, prompt.greedy.len()).unwrap();
        assert_eq!(got, prompt.greedy, "{:?}", prompt.text);
    }
}

fn tokens_agree(tokenizer: &Tokenizer) {
    let cases = read::<Tokenization>("tokenization.json").cases;
    assert_eq!(cases.len(), 200);
    for case in cases {
        assert_eq!(
            tokenizer.encode(&case.text).unwrap(),
            case.ids,
            "{:?}",
            case.text
        );
    }
}

#[test]
fn logits_greedy_tokens_and_tokenization_are_the_references() {
    let checkpoint = lathe_tests::smollm2();
    tokens_agree(&checkpoint.tokenizer);
    let full = SubnetConfig::full(&checkpoint.config);
    assert_eq!(
        full.parameters(&checkpoint.config),
        checkpoint.weights.parameters()
    );
    let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    logits_agree(&checkpoint, &supernet);
}

/// Questions of each form that are answered, unless `LATHE_QUESTIONS` says more.
const QUESTIONS: usize = 12;

#[derive(Deserialize)]
struct Quality {
    window: usize,
    tokens: Vec<u32>,
    negative_log_likelihood: f64,
    removed_layer: usize,
    negative_log_likelihood_without_layer: f64,
    kl_divergence_without_layer: f64,
    questions: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    index: usize,
    form: String,
    log_likelihoods: Vec<f64>,
}

#[test]
fn perplexity_and_divergence_are_those_of_transformers() {
    let want = read::<Quality>("quality.json");
    let checkpoint = lathe_tests::smollm2();
    let supernet = lathe_tests::calibrated(&checkpoint, 64, Recovery::None);
    let windows = TokenWindows::from_tokens(&want.tokens, want.window);
    let evaluator = Evaluator::new(&supernet, &windows).unwrap();
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-4, "{got} {want}");
    // A relative 1e-4 of the perplexity is 1e-4 of its logarithm.
    let full = evaluator.perplexity(&supernet.full()).unwrap();
    close(full.negative_log_likelihood, want.negative_log_likelihood);
    let mut subnet = SubnetConfig::full(&checkpoint.config);
    subnet.layers[want.removed_layer].attention = None;
    subnet.layers[want.removed_layer].mlp = None;
    let cut = evaluator
        .perplexity_and_kl(&supernet.cut(&subnet).unwrap())
        .unwrap();
    close(
        cut.negative_log_likelihood,
        want.negative_log_likelihood_without_layer,
    );
    close(cut.kl_divergence.unwrap(), want.kl_divergence_without_layer);
}

#[test]
fn choices_are_those_of_the_harness() {
    let asked = std::env::var("LATHE_QUESTIONS").ok();
    let count = asked.map_or(QUESTIONS, |text| text.parse().unwrap());
    let checkpoint = lathe_tests::smollm2();
    let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let cache = Cache::from_env().unwrap();
    let answered = read::<Quality>("quality.json").questions;
    let mut compared = 0;
    for (form, name) in [(MmluForm::Letter, "letter"), (MmluForm::Cloze, "cloze")] {
        let all = mmlu(&cache, form).unwrap();
        let wanted = answered.iter().filter(|a| a.form == name).take(count);
        let wanted: Vec<&Answered> = wanted.collect();
        let questions: Vec<Question> = wanted.iter().map(|a| all[a.index].clone()).collect();
        let context = checkpoint.config.max_position_embeddings;
        let set = QuestionSet::new(&questions, &checkpoint.tokenizer, context).unwrap();
        let got = set.score(&supernet.full(), |_, _| {}).unwrap();
        for (got, want) in got.log_likelihoods.iter().zip(&wanted) {
            let want = &want.log_likelihoods;
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 5e-3, "{got} {want}");
            }
            let best =
                |scores: &[f64]| (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            let mut sorted = want.clone();
            sorted.sort_by(f64::total_cmp);
            // Two choices that the reference itself holds for equally likely are no difference.
            if sorted[3] - sorted[2] > 1e-3 {
                assert_eq!(best(got), best(want));
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * count.min(answered.len() / 2));
}

#[test]
fn pruning_methods_show_what_their_papers_say() {
    let checkpoint = lathe_tests::smollm2();
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let text = load_text(&Cache::from_env().unwrap(), None).unwrap();
    let windows = |split, count| {
        text.windows(split, &checkpoint.tokenizer, count, 256)
            .unwrap()
    };
    let unordered = Supernet::unordered(model, weights.clone());
    let seen = windows(Split::Calibration, 6);
    let calibration = Calibration::measure(&unordered, &seen, |_| {});

    // ShortGPT (2403.03853): the first and the last layers turn the stream most, and layers in
    // the middle least.
    let influence = |layer: &usize| calibration.layers[*layer].influence;
    let mut layers: Vec<usize> = (0..model.num_hidden_layers).collect();
    layers.sort_by(|a, b| influence(a).total_cmp(&influence(b)));
    assert!(
        layers[..4].iter().all(|layer| (8..24).contains(layer)),
        "{layers:?}"
    );
    assert!(layers[layers.len() - 3..].contains(&0), "{layers:?}");

    let test = windows(Split::Test, 3);
    let loss = |importance, recovery, width| {
        // LLM-Pruner's scores are of 640 tokens.
        let few = seen.up_to(512);
        let order = ImportanceOrder::of(model, weights, &calibration, &few, importance).unwrap();
        let supernet = Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order,
            recovery,
        )
        .unwrap();
        let attention = Some(AttentionConfig::full(model));
        let subnet = SubnetConfig::uniform(model, attention, Some(MlpConfig::with_width(width)));
        let quality = perplexity(&supernet.cut(&subnet).unwrap(), &test).unwrap();
        quality.negative_log_likelihood
    };
    let full = perplexity(&unordered.full(), &test).unwrap();
    let full = full.negative_log_likelihood;
    // LLM-Pruner (2305.11627) and FLAP (2312.11983): by weight magnitude alone a model is lost
    // where scores that know the activations hardly harm it.
    let magnitude = loss(Importance::Magnitude, Recovery::None, 1344);
    // Gradients tell as much (LLM-Pruner's Taylor scores).
    let wanda = loss(Importance::Wanda, Recovery::None, 1344);
    let taylor = loss(Importance::Taylor, Recovery::None, 1344);
    assert!(
        wanda.max(taylor) - full < 0.5 && magnitude - full > 2.0,
        "{full} {wanda} {taylor} {magnitude}"
    );
    // FLAP: the mean output of what was removed, kept as a bias, lowers the perplexity.
    let [none, bias] = [Recovery::None, Recovery::Bias]
        .map(|recovery| loss(Importance::Fluctuation, recovery, 1152));
    assert!(bias < none, "{bias} {none}");
}

/// The kernel counts the largest resident memory of a process while it runs.
#[cfg(target_os = "linux")]
#[test]
fn an_evaluation_takes_less_than_twice_the_memory_of_the_weights() {
    let arguments = ["evaluate", "--model", "smollm2-135m", "--tokens", "1024"];
    let mut process = Command::new(lathe_tests::xtask())
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", process.id());
    let mut peak_kib = 0;
    while process.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
        peak_kib = peak.unwrap_or(peak_kib);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(process.wait().unwrap().success());
    let model = ModelConfig::smollm2_135m();
    let weights = 4 * SubnetConfig::full(&model).parameters(&model);
    assert!(peak_kib * 1024 > weights, "{peak_kib} KiB is no model");
    assert!(peak_kib * 1024 < 2 * weights, "{peak_kib} KiB");
}
