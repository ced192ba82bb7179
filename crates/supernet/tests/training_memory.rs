//! Memory of a training as counted and as the kernel tells it.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use lathe_supernet::checkpoint::{LayerWeights, ModelWeights};
use lathe_supernet::{
    Calibration, Evaluator, ImportanceOrder, LoraSettings, Parameters, Recovery, Supernet, Target,
    TextNeeds, TokenWindows, TrainSettings, Trainer, TrainingMemory,
};
use ndarray::{Array1, Array2};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Names the case to a process of its own, and where its files are.
const CASE: &str = "LATHE_TEST_MEMORY_CASE";
const FOLDER: &str = "LATHE_TEST_MEMORY_FOLDER";
/// Stands before its answer.
const MEASURED: &str = "measured bytes: ";
const CALIBRATION: &str = "calibration.safetensors";
const WEIGHTS: &str = "weights.safetensors";
const MIB: f64 = 1048576.0;
/// Counted and measured may differ by so much: code, stacks, and what a product packs.
const TOLERANCE: f64 = 0.05;
/// Has glibc give back what is freed, at once, and all threads share what is kept.
const GIVE_BACK: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ("MALLOC_ARENA_MAX", "1"),
];

/// `VmHWM:` or `VmRSS:`, the most and the present, in bytes.
fn status(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    1024.0 * words[0].parse::<f64>().unwrap()
}

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 8192,
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 8,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 32,
        max_position_embeddings: 512,
        ..ModelConfig::smollm2_135m()
    }
}

fn weights(model: &ModelConfig) -> ModelWeights {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let hidden = model.hidden_size;
    let (queries, keys) = (
        model.num_attention_heads * model.head_dim,
        model.num_key_value_heads * model.head_dim,
    );
    let layers = (0..model.num_hidden_layers).map(|_| LayerWeights {
        input_layernorm: Array1::ones(hidden),
        q_proj: random(rng, queries, hidden),
        k_proj: random(rng, keys, hidden),
        v_proj: random(rng, keys, hidden),
        o_proj: random(rng, hidden, queries),
        post_attention_layernorm: Array1::ones(hidden),
        gate_proj: random(rng, model.intermediate_size, hidden),
        up_proj: random(rng, model.intermediate_size, hidden),
        down_proj: random(rng, hidden, model.intermediate_size),
        qkv_bias: None,
        qk_norm: None,
        post_norms: None,
    });
    ModelWeights {
        layers: layers.collect(),
        embed_tokens: random(&mut ChaCha8Rng::seed_from_u64(2), model.vocab_size, hidden),
        norm: Array1::ones(hidden),
        lm_head: None,
    }
}

fn random(rng: &mut impl Rng, rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |_| rng.random_range(-0.05..0.05))
}

fn text(model: &ModelConfig, tokens: usize) -> TokenWindows {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let vocabulary = model.vocab_size as u32;
    let tokens: Vec<u32> = (0..tokens)
        .map(|_| rng.random_range(0..vocabulary))
        .collect();
    TokenWindows::from_tokens(&tokens, 256)
}

/// Half of everything, and a whole layer removed.
fn pruned(model: &ModelConfig) -> SubnetConfig {
    let mut network = SubnetConfig::full(model);
    for layer in &mut network.layers {
        layer.attention = Some(AttentionConfig {
            heads: 4,
            kv_heads: 2,
            ..AttentionConfig::full(model)
        });
        layer.mlp = Some(MlpConfig {
            intermediate_size: 512,
            ..MlpConfig::full(model)
        });
    }
    network.layers[5].attention = None;
    network.layers[5].mlp = None;
    network
}

/// What is trained, and how.
struct Case {
    name: &'static str,
    rank: Option<usize>,
    is_shared: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "one network",
        rank: None,
        is_shared: false,
    },
    Case {
        name: "adapters of one network",
        rank: Some(8),
        is_shared: false,
    },
    Case {
        name: "all networks",
        rank: None,
        is_shared: true,
    },
    Case {
        name: "adapters of all networks",
        rank: Some(8),
        is_shared: true,
    },
];

impl Case {
    fn settings(&self) -> TrainSettings {
        TrainSettings {
            steps: Some(3),
            windows_per_step: 4,
            lora: self.rank.map(|rank| LoraSettings {
                rank,
                alpha: 16.0,
                targets: Target::ALL.to_vec(),
            }),
            ..TrainSettings::default()
        }
    }

    fn counted(&self) -> TrainingMemory {
        let (model, settings) = (model(), self.settings());
        let text = TextNeeds {
            window_tokens: 256,
            training_tokens: 256 * 16,
            validation_tokens: 256 * 8,
        };
        match self.is_shared {
            true => TrainingMemory::of_supernet(&model, &networks(&model), &settings, &text),
            false => TrainingMemory::of_network(&model, &pruned(&model), &settings, &text),
        }
    }

    /// Trains, in a process that has done nothing before, and returns the memory that this added.
    fn measured(&self, folder: &Path) -> f64 {
        let before = status("VmRSS:");
        let model = model();
        let (training, held_out) = (text(&model, 257 * 16), text(&model, 257 * 8));
        let supernet = match self.is_shared {
            true => {
                let path = folder.join(CALIBRATION);
                let calibration = Calibration::load(&path, "test").unwrap().unwrap();
                let order = ImportanceOrder::identity(&model);
                let recovery = Recovery::LeastSquares;
                Supernet::ordered(&model, weights(&model), calibration, &order, recovery).unwrap()
            }
            false => Supernet::unordered(&model, weights(&model)),
        };
        let evaluator = Evaluator::new(&supernet, &held_out).unwrap();
        let network = pruned(&model);
        let networks = networks(&model);
        let mut trainer = match self.is_shared {
            true => Trainer::of_supernet(&supernet, &training, self.settings()),
            false => {
                let begin = Parameters::load(&folder.join(WEIGHTS), &supernet, &network).unwrap();
                Trainer::new(&supernet, &network, begin, &training, self.settings())
            }
        }
        .unwrap();
        while !trainer.is_done() {
            match self.is_shared {
                true => trainer.step_on(&networks),
                false => trainer.step(),
            }
            .unwrap();
        }
        assert!(evaluator.perplexity(&supernet.full()).unwrap().tokens > 0);
        status("VmHWM:") - before
    }
}

fn networks(model: &ModelConfig) -> [SubnetConfig; 2] {
    [SubnetConfig::full(model), pruned(model)]
}

#[test]
fn a_training_takes_the_memory_that_is_counted() {
    if let (Ok(name), Ok(folder)) = (env::var(CASE), env::var(FOLDER)) {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        println!("{MEASURED}{}", case.measured(folder.as_ref()));
        return;
    }
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let training = text(&model, 257 * 16);
    let unordered = Supernet::unordered(&model, weights(&model));
    let calibration = Calibration::measure(&unordered, &training, |_| {});
    calibration
        .save(&folder.path().join(CALIBRATION), "test")
        .unwrap();
    let order = ImportanceOrder::identity(&model);
    let recovery = Recovery::LeastSquares;
    let ordered = Supernet::ordered(&model, weights(&model), calibration, &order, recovery);
    let ordered = ordered.unwrap();
    let begin = Parameters::of(&ordered.cut(&pruned(&model)).unwrap());
    begin.save(&folder.path().join(WEIGHTS), &ordered).unwrap();
    for case in CASES {
        let child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "a_training_takes_the_memory_that_is_counted",
                "--nocapture",
            ])
            .envs(GIVE_BACK)
            .env(CASE, case.name)
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let output = String::from_utf8(child.stdout).unwrap();
        let errors = String::from_utf8_lossy(&child.stderr);
        let measured = output.lines().find_map(|line| line.split(MEASURED).nth(1));
        let measured: f64 = measured.expect(&errors).parse().unwrap();
        let counted = case.counted();
        let total = counted.total_bytes() as f64;
        let text = format!(
            "{}: counted {:.0} MiB, measured {:.0} MiB; {counted:?}",
            case.name,
            total / MIB,
            measured / MIB
        );
        println!("{text}");
        assert!((measured / total - 1.0).abs() < TOLERANCE, "{text}");
    }
}
