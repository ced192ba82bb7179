//! Reading a checkpoint and scoring sub-networks, on weights of the default model's shape.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_supernet::checkpoint::{Checkpoint, LayerWeights, ModelWeights};
use lathe_supernet::{
    Calibration, Evaluator, Importance, ImportanceOrder, Recovery, Supernet, TokenWindows,
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

fn evaluate(c: &mut Criterion) {
    let model = ModelConfig {
        num_hidden_layers: LAYERS,
        vocab_size: 4096,
        ..ModelConfig::smollm2_135m()
    };
    let weights = random_weights(&model);
    let tokens: Vec<u32> = (0..4 * 257).map(|i| i * 7919 % 4096).collect();
    let windows = TokenWindows::from_tokens(&tokens, 256);
    let unordered = Supernet::unordered(&model, weights.clone());
    let calibration = Calibration::measure(&unordered, &windows, |_| {});
    let importance = Importance::Fluctuation;
    let supernet = ImportanceOrder::of(&model, &weights, &calibration, &windows, importance)
        .and_then(|order| {
            Supernet::ordered(
                &model,
                weights.clone(),
                calibration.clone(),
                &order,
                Recovery::LeastSquares,
            )
        })
        .expect("it was made for this");
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

criterion_group!(benches, load, evaluate);
criterion_main!(benches);
