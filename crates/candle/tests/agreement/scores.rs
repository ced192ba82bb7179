//! Scores are those of Lathe's own engine.

use std::sync::Arc;

use crate::shared::{MODELS, calibrated, fixture, text, uneven};
use lathe_arch::{Precision, SubnetConfig};
use lathe_candle::{Candle, Dtype};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{
    Evaluator, Quality, Question, QuestionSet, Supernet, perplexity_and_kl, perplexity_and_kl_on,
    perplexity_on,
};

/// The same sums in another order.
const F32: f64 = 1e-4;
/// Numbers of 8 bits, whose errors partly cancel over a text.
const BF16: f64 = 2e-2;
/// Divergences are differences of nearly equal numbers.
const BF16_DIVERGENCE: f64 = 1e-1;

fn networks(supernet: &Supernet) -> [SubnetConfig; 3] {
    let (full, uneven) = (
        SubnetConfig::full(supernet.model()),
        uneven(supernet.model()),
    );
    let mut headless = full.clone();
    headless.layers[0].attention = None;
    headless.layers[0].mlp = None;
    [full, uneven, headless]
}

fn is_close(what: &str, got: f64, want: f64, tolerance: f64) {
    let limit = tolerance * want.abs().max(1e-2);
    assert!((got - want).abs() <= limit, "{what}: {got}, want {want}");
}

fn are_close(what: &str, got: Quality, want: Quality, tolerances: [f64; 2]) {
    assert_eq!(got.tokens, want.tokens);
    let [loss, divergence] = tolerances;
    is_close(what, got.perplexity(), want.perplexity(), loss);
    is_close(what, got.standard_error, want.standard_error, loss);
    let divergences = [got, want].map(|quality| quality.kl_divergence.unwrap());
    is_close(what, divergences[0], divergences[1], divergence);
}

#[test]
fn perplexity_and_divergence_are_those_of_the_own_engine() {
    for name in MODELS {
        let supernet = calibrated(name);
        for config in networks(&supernet) {
            let cut = supernet.cut(&config).unwrap();
            let want = perplexity_and_kl(&cut, &text(6)).unwrap();
            for (dtype, tolerances) in [
                (Dtype::F32, [F32, F32]),
                (Dtype::Bf16, [BF16, BF16_DIVERGENCE]),
            ] {
                let engine = Candle::new(&supernet, dtype).unwrap();
                let got = perplexity_and_kl_on(&engine, &cut, &text(6)).unwrap();
                are_close(&format!("{name} {dtype:?}"), got, want, tolerances);
            }
        }
    }
}

#[test]
fn an_evaluator_on_candle_scores_as_one_that_keeps_nothing() {
    for name in MODELS {
        let supernet = calibrated(name);
        let engine = Arc::new(Candle::new(&supernet, Dtype::F32).unwrap());
        let evaluator = Evaluator::on(engine, &supernet, &text(6)).unwrap();
        let full = SubnetConfig::full(supernet.model());
        let mut late = full.clone();
        late.layers.last_mut().unwrap().mlp = None;
        for config in [late, uneven(supernet.model()), full] {
            let cut = supernet.cut(&config).unwrap();
            let got = evaluator.perplexity_and_kl(&cut).unwrap();
            let want = perplexity_and_kl(&cut, &text(6)).unwrap();
            are_close(name, got, want, [F32, F32]);
        }
    }
}

/// Rounded weights, the head's among them, with rounded inputs. A number at the edge between two
/// integers may fall to either.
#[test]
fn quantised_networks_are_scored_as_such() {
    for name in MODELS {
        let supernet = calibrated(name);
        for precision in [Precision::Int8, Precision::W8A8, Precision::Int4] {
            let config = uneven(supernet.model()).with_precision(precision);
            let cut = supernet.cut(&config).unwrap();
            let want = perplexity_and_kl(&cut, &text(6)).unwrap();
            let engine = Candle::new(&supernet, Dtype::F32).unwrap();
            let got = perplexity_and_kl_on(&engine, &cut, &text(6)).unwrap();
            are_close(&format!("{name} {precision}"), got, want, [1e-3, 1e-3]);
        }
    }
}

#[test]
fn choices_are_those_of_the_own_engine() {
    for name in MODELS {
        let checkpoint = Checkpoint::load(&fixture(name)).unwrap();
        let supernet = calibrated(name);
        let question = |index: usize| Question {
            context: "the quick brown fox ".repeat(index),
            choices: ["42", "a longer choice", "so"].map(str::to_owned).into(),
            delimiter: " ".to_owned(),
            answer: index % 3,
            topic: None,
        };
        // More sequences than are run together, and contexts that lose their beginning.
        let questions: Vec<Question> = (0..20).map(question).collect();
        let set = QuestionSet::with_choices_alone(&questions, &checkpoint.tokenizer, 48).unwrap();
        let cut = supernet.cut(&uneven(supernet.model())).unwrap();
        let engine = Candle::new(&supernet, Dtype::F32).unwrap();
        let got = set.score_on(&engine, &cut, |_, _| {}).unwrap();
        let want = set.score(&cut, |_, _| {}).unwrap();
        let scores = [
            (&got.log_likelihoods, &want.log_likelihoods),
            (&got.log_likelihoods_alone, &want.log_likelihoods_alone),
        ];
        for (got, want) in scores {
            assert_eq!((got.len(), want.len()), (questions.len(), questions.len()));
            for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                is_close(name, *got, *want, F32);
            }
        }
        // The first has no context: what it has adds nothing.
        assert_eq!(want.log_likelihoods[0], want.log_likelihoods_alone[0]);
        assert!(want.all.mutual_info.is_some());
        assert_eq!(got.all, want.all);
    }
}

/// Rows of logits are taken some at a time.
#[test]
fn long_texts_are_scored_in_parts() {
    let supernet = calibrated("tiny-llama");
    let engine = Candle::new(&supernet, Dtype::F32).unwrap();
    let text = text(40);
    let quality = perplexity_on(&engine, &supernet.full(), &text).unwrap();
    let want = perplexity_and_kl(&supernet.full(), &text).unwrap();
    assert_eq!(quality.tokens, 1280);
    is_close("1280 tokens", quality.perplexity(), want.perplexity(), F32);
}
