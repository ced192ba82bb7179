//! Narrowing the residual stream, on tiny models.

use std::path::Path;

use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Supernet, TokenWindows, logits, narrowed, perplexity_and_kl};
use ndarray::{Array2, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn checkpoint(name: &str) -> Checkpoint {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    Checkpoint::load(&fixtures.join(name)).unwrap()
}

fn windows() -> TokenWindows {
    let tokens: Vec<u32> = (0..33 * 24u32).map(|i| i * 7919 % 320).collect();
    TokenWindows::from_tokens(&tokens, 32)
}

fn narrowed_to(checkpoint: &Checkpoint, hidden_size: usize) -> Supernet {
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let (config, weights) = narrowed(model, weights, &windows(), hidden_size, |_| {}).unwrap();
    assert_eq!(config.hidden_size, hidden_size);
    Supernet::unordered(&config, weights)
}

/// Largest difference of two models' logits over the largest logit.
fn difference(a: &Supernet, b: &Supernet) -> f32 {
    let tokens: Vec<u32> = (0..40).map(|i| i * 31 % 320).collect();
    let [a, b] = [a, b].map(|net| logits(&net.full(), &tokens).unwrap());
    let largest = a.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    let pairs = a.iter().zip(&b);
    pairs.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn another_basis_of_the_same_width_computes_the_same() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let checkpoint = checkpoint(name);
        let hidden_size = checkpoint.config.hidden_size;
        let full = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
        let found = difference(&full, &narrowed_to(&checkpoint, hidden_size));
        assert!(found < 1e-4, "{name}: {found}");
    }
}

#[test]
fn a_stream_that_uses_fewer_dimensions_loses_nothing() {
    let mut checkpoint = checkpoint("tiny-llama");
    let (hidden, used) = (checkpoint.config.hidden_size, 40);
    // Everything that is written to the stream keeps to `used` of its dimensions, in a turned basis.
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let turn = Array2::from_shape_simple_fn((hidden, hidden), || rng.random_range(-1.0..1.0));
    let turn = orthonormal(turn);
    let kept = turn.slice(s![.., ..used]);
    let projection = kept.dot(&kept.t());
    let weights = &mut checkpoint.weights;
    weights.embed_tokens = weights.embed_tokens.dot(&projection);
    for layer in &mut weights.layers {
        layer.o_proj = projection.dot(&layer.o_proj);
        layer.down_proj = projection.dot(&layer.down_proj);
    }
    let full = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let found = difference(&full, &narrowed_to(&checkpoint, used));
    assert!(found < 1e-3, "{found}");
    let found = difference(&full, &narrowed_to(&checkpoint, used - 8));
    assert!(found > 1e-2, "{found}");
}

/// Gram-Schmidt over columns.
fn orthonormal(mut matrix: Array2<f32>) -> Array2<f32> {
    for column in 0..matrix.ncols() {
        for _ in 0..2 {
            for before in 0..column {
                let other = matrix.column(before).to_owned();
                let share = other.dot(&matrix.column(column));
                matrix.column_mut(column).scaled_add(-share, &other);
            }
        }
        let norm = matrix.column(column).dot(&matrix.column(column)).sqrt();
        matrix.column_mut(column).mapv_inplace(|v| v / norm);
    }
    matrix
}

#[test]
fn wider_streams_lose_less() {
    let checkpoint = checkpoint("tiny-llama");
    let loss = |hidden_size| {
        let narrow = narrowed_to(&checkpoint, hidden_size);
        let score = perplexity_and_kl(&narrow.full(), &windows()).unwrap();
        score.negative_log_likelihood
    };
    let full = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let base = perplexity_and_kl(&full.full(), &windows()).unwrap();
    let [narrow, wide] = [32, 60].map(|width| (loss(width) - base.negative_log_likelihood).abs());
    assert!(wide < narrow, "{wide} of 60, {narrow} of 32");
}

#[test]
fn what_cannot_be_narrowed_is_refused() {
    let message = |name, hidden_size| {
        let Checkpoint {
            config, weights, ..
        } = checkpoint(name);
        let refused = narrowed(&config, &weights, &windows(), hidden_size, |_| {});
        refused.unwrap_err().to_string()
    };
    for width in [0, 65] {
        let message = message("tiny-llama", width);
        assert!(message.contains("1 to the model's 64"), "{message}");
    }
    let message = message("tiny-gemma3", 32);
    assert!(message.contains("norms behind blocks"), "{message}");
}

#[test]
fn a_saved_checkpoint_is_read_back() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let saved = checkpoint(name);
        let folder = tempfile::tempdir().unwrap();
        saved.save(folder.path()).unwrap();
        let read = Checkpoint::load(folder.path()).unwrap();
        assert_eq!(read.config, saved.config);
        assert_eq!(read.weights, saved.weights);
        let ids = |checkpoint: &Checkpoint| {
            let text = "A saved tokenizer splits likewise.";
            let start = checkpoint.tokenizer.bos_token_id();
            (checkpoint.tokenizer.encode(text).unwrap(), start)
        };
        assert_eq!(ids(&read), ids(&saved));
    }
    let gemma = checkpoint("tiny-gemma3");
    let folder = tempfile::tempdir().unwrap();
    let message = gemma.save(folder.path()).unwrap_err().to_string();
    assert!(message.contains("config.json"), "{message}");
    assert!(!folder.path().join("model.safetensors").exists());
}
