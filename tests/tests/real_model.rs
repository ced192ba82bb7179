//! The default model against reference values made with transformers (tests/fixtures/make.py).

use std::fs;

use lathe_arch::SubnetConfig;
use lathe_supernet::checkpoint::{Checkpoint, Tokenizer};
use lathe_supernet::{Supernet, greedy, logits};
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
    let supernet = Supernet::unordered(&checkpoint.config, &checkpoint.weights);
    logits_agree(&checkpoint, &supernet);
}
