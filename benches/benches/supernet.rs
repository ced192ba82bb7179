//! Reading a checkpoint and scoring sub-networks, on weights of the default model's shape.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_supernet::checkpoint::{Checkpoint, LayerWeights, ModelWeights};
use lathe_supernet::{
    Calibration, Evaluator, Importance, ImportanceOrder, Question, QuestionSet, Recovery, Supernet,
    TokenWindows, perplexity,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Layers of the benchmark's model: enough to see a layer's cost.
const LAYERS: usize = 6;

fn load(c: &mut Criterion) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    for name in ["tiny-llama", "tiny-llama.gguf"] {
        c.bench_function(&format!("load {name}"), |b| {
            b.iter(|| Checkpoint::load(&fixtures.join(name)));
        });
    }
}

fn random_weights(model: &ModelConfig) -> ModelWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut matrix = |rows: usize, cols: usize| {
        let values = (0..rows * cols).map(|_| rng.random_range(-0.05..0.05));
        ndarray::Array2::from_shape_vec((rows, cols), values.collect()).expect("rows x cols values")
    };
    let (hidden, width) = (
        model.hidden_size,
        model.num_attention_heads * model.head_dim,
    );
    let (kv, inner) = (
        model.num_key_value_heads * model.head_dim,
        model.intermediate_size,
    );
    let ones = || ndarray::Array1::ones(hidden);
    let layers = (0..model.num_hidden_layers).map(|_| LayerWeights {
        input_layernorm: ones(),
        q_proj: matrix(width, hidden),
        k_proj: matrix(kv, hidden),
        v_proj: matrix(kv, hidden),
        o_proj: matrix(hidden, width),
        post_attention_layernorm: ones(),
        gate_proj: matrix(inner, hidden),
        up_proj: matrix(inner, hidden),
        down_proj: matrix(hidden, inner),
        qkv_bias: None,
        qk_norm: None,
        post_norms: None,
    });
    let layers = layers.collect();
    ModelWeights {
        layers,
        embed_tokens: matrix(model.vocab_size, hidden),
        norm: ones(),
        lm_head: None,
    }
}

/// A super-network of random weights, and 1,024 tokens.
fn calibrated(model: ModelConfig) -> (Supernet, TokenWindows) {
    let weights = random_weights(&model);
    let tokens: Vec<u32> = (0..4 * 257).map(|i| i * 7919 % 4096).collect();
    let windows = TokenWindows::from_tokens(&tokens, 256);
    let unordered = Supernet::unordered(&model, weights.clone());
    let calibration = Calibration::measure(&unordered, &windows, |_| {});
    let importance = Importance::Fluctuation;
    let supernet = ImportanceOrder::of(&model, &weights, &calibration, &windows, importance)
        .and_then(|order| {
            let recovery = Recovery::LeastSquares;
            Supernet::ordered(
                &model,
                weights.clone(),
                calibration.clone(),
                &order,
                recovery,
            )
        })
        .expect("it was made for this");
    (supernet, windows)
}

fn evaluate(c: &mut Criterion) {
    let model = ModelConfig {
        num_hidden_layers: LAYERS,
        vocab_size: 4096,
        ..ModelConfig::smollm2_135m()
    };
    let (supernet, windows) = calibrated(model.clone());
    let evaluator = Evaluator::new(&supernet, &windows).expect("the tokens are of the vocabulary");
    let mut group = c.benchmark_group("score 1024 tokens, 6 layers");
    group.sample_size(10);
    group.throughput(Throughput::Elements(windows.token_count() as u64));
    for (name, kv_heads, width) in [("nearly full", 3, 1528), ("half", 1, 768)] {
        let attention = AttentionConfig::with_groups(&model, kv_heads);
        let config =
            SubnetConfig::uniform(&model, Some(attention), Some(MlpConfig::with_width(width)));
        let subnet = supernet.cut(&config).expect("it fits");
        group.bench_function(name, |b| b.iter(|| evaluator.perplexity(&subnet)));
    }
    group.finish();
}

/// A walk of local search: each candidate changes one block of one of the last few.
fn neighbours(model: &ModelConfig, count: usize) -> Vec<SubnetConfig> {
    const PARENTS: usize = 8;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut walk = vec![SubnetConfig::full(model)];
    while walk.len() < count {
        let parent = rng.random_range(walk.len().saturating_sub(PARENTS)..walk.len());
        let mut child = walk[parent].clone();
        let layer = &mut child.layers[rng.random_range(0..model.num_hidden_layers)];
        if rng.random_range(0..2) == 0 {
            let groups = rng.random_range(0..=model.num_key_value_heads);
            layer.attention = (groups > 0).then(|| AttentionConfig::with_groups(model, groups));
        } else {
            let width = rng.random_range(0..=8) * model.intermediate_size / 8;
            layer.mlp = (width > 0).then(|| MlpConfig::with_width(width));
        }
        walk.push(child);
    }
    walk
}

/// The same candidates with and without what the one before left behind.
fn local_search(c: &mut Criterion) {
    let (supernet, windows) = calibrated(ModelConfig {
        vocab_size: 4096,
        ..ModelConfig::smollm2_135m()
    });
    let windows = windows.up_to(256);
    let walk = neighbours(supernet.model(), 16);
    let cuts = walk
        .iter()
        .map(|config| supernet.cut(config).expect("it fits"));
    let cuts: Vec<_> = cuts.collect();
    let mut group = c.benchmark_group("16 neighbours, 30 layers");
    group.sample_size(10);
    group.bench_function("each from its first layer", |b| {
        b.iter(|| -> f64 {
            let scores = cuts.iter().map(|cut| perplexity(cut, &windows));
            let scores = scores.map(|quality| quality.map_or(0.0, |q| q.negative_log_likelihood));
            scores.sum()
        });
    });
    group.bench_function("each from its first change", |b| {
        b.iter_batched(
            || Evaluator::new(&supernet, &windows).expect("the tokens are of the vocabulary"),
            |evaluator| -> f64 {
                let scores = cuts.iter().map(|cut| evaluator.perplexity(cut));
                let scores = scores.map(|quality| quality.expect("nothing fails here"));
                scores.map(|quality| quality.negative_log_likelihood).sum()
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Questions whose choices are run behind one context, and the same choices as questions of their own.
fn questions(c: &mut Criterion) {
    let (supernet, _) = calibrated(ModelConfig {
        num_hidden_layers: LAYERS,
        vocab_size: 4096,
        ..ModelConfig::smollm2_135m()
    });
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
    let tokenizer = Checkpoint::load(&fixture).expect("a fixture").tokenizer;
    let question = |number: usize| Question {
        context: format!("{number} {}", "the quick brown fox ".repeat(16)),
        choices: ["over the dog", "into the fox", "by the model", "so it is"]
            .map(str::to_owned)
            .into(),
        delimiter: " ".to_owned(),
        answer: 0,
        topic: None,
    };
    let together: Vec<Question> = (0..16).map(question).collect();
    let apart = together.iter().flat_map(|question| {
        let alone = |choice: &String| Question {
            choices: vec![choice.clone()],
            ..question.clone()
        };
        question.choices.iter().map(alone)
    });
    let apart: Vec<Question> = apart.collect();
    let full = supernet.full();
    let mut group = c.benchmark_group("16 questions of 4 choices, 6 layers");
    group.sample_size(10);
    for (name, asked) in [("a context each", &apart), ("one context", &together)] {
        let set = QuestionSet::new(asked, &tokenizer, 512).expect("they have answers");
        group.bench_function(name, |b| b.iter(|| set.score(&full, |_, _| {})));
    }
    group.finish();
}

criterion_group!(benches, load, evaluate, local_search, questions);
criterion_main!(benches);
