//! Training on the tiny models, held to PyTorch, to differences and to itself.

mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};
use serde::Deserialize;

use super::{TrainSettings, Trainable, Trainer};
use crate::checkpoint::Checkpoint;
use crate::gradient::reference::random;
use crate::parameters::{Parameters, Part, Role};
use crate::train::LowRank;
use crate::{
    Calibration, Importance, ImportanceOrder, LoraSettings, Recovery, Subnet, Supernet,
    SupernetError, Target, TokenWindows, perplexity,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

fn tiny() -> Supernet {
    let checkpoint = Checkpoint::load(&fixture("tiny-llama")).unwrap();
    Supernet::unordered(&checkpoint.config, checkpoint.weights)
}

fn text(windows: usize) -> TokenWindows {
    let tokens: Vec<u32> = random(windows * 17, 5)
        .iter()
        .map(|v| ((v + 1.0) * 159.0) as u32)
        .collect();
    TokenWindows::from_tokens(&tokens, 16)
}

/// A super-network of which anything can be cut, refitted.
fn calibrated(name: &str) -> Supernet {
    let checkpoint = Checkpoint::load(&fixture(name)).unwrap();
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let unordered = Supernet::unordered(model, weights.clone());
    let windows = text(20);
    let calibration = Calibration::measure(&unordered, &windows, |_| {});
    let importance = Importance::Wanda;
    let order = ImportanceOrder::of(model, weights, &calibration, &windows, importance).unwrap();
    let recovery = Recovery::LeastSquares;
    Supernet::ordered(model, weights.clone(), calibration, &order, recovery).unwrap()
}

/// Lacks blocks, groups, heads in groups and neurons.
fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    subnet.layers[0].attention = Some(AttentionConfig {
        heads: 2,
        kv_heads: 2,
        ..AttentionConfig::full(model)
    });
    subnet.layers[0].mlp = Some(MlpConfig::with_width(41));
    subnet.layers[1].attention = None;
    subnet.layers[2].attention = Some(AttentionConfig::with_groups(model, 1));
    subnet.layers[2].mlp = None;
    subnet
}

fn lora() -> Option<LoraSettings> {
    Some(LoraSettings {
        rank: 3,
        alpha: 6.0,
        targets: Target::ALL.to_vec(),
    })
}

#[derive(Deserialize)]
struct Reference {
    distill_share: f32,
    temperature: f32,
    clip: f64,
    learning_rate: f64,
    warmup_steps: usize,
    weight_decay: f64,
    window: usize,
    tokens: Vec<u32>,
    steps: Vec<Step>,
    gradients: BTreeMap<String, Gradient>,
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    next_token: f64,
    norm: f64,
}

#[derive(Deserialize)]
struct Gradient {
    norm: f64,
    entries: Vec<f64>,
}

/// transformers' name of a tensor.
fn name_in_transformers(role: Role) -> String {
    let Role::Layer(layer, part) = role else {
        return "model.norm.weight".to_owned();
    };
    let name = match part {
        Part::AttentionNorm => "input_layernorm",
        Part::Query => "self_attn.q_proj",
        Part::Key => "self_attn.k_proj",
        Part::Value => "self_attn.v_proj",
        Part::Output => "self_attn.o_proj",
        Part::MlpNorm => "post_attention_layernorm",
        Part::Gate => "mlp.gate_proj",
        Part::Up => "mlp.up_proj",
        Part::Down => "mlp.down_proj",
        other => panic!("{other:?} is not of a Llama"),
    };
    format!("model.layers.{layer}.{name}.weight")
}

fn trainer<'a>(
    subnet: &Subnet<'a>,
    text: &TokenWindows,
    settings: TrainSettings,
) -> Result<Trainer<'a>, SupernetError> {
    let weights = Parameters::of(subnet);
    Trainer::new(subnet.supernet(), subnet.config(), weights, text, settings)
}

fn whole(trainable: &mut Trainable) -> &mut Parameters {
    match trainable {
        Trainable::Whole(weights) => weights,
        Trainable::LowRank(_) => panic!("these are adapters"),
    }
}

#[test]
fn steps_are_those_of_pytorch() {
    let reference = std::fs::read(fixture("tiny_training.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let supernet = tiny();
    let text = TokenWindows::from_tokens(&reference.tokens, reference.window);
    let settings = TrainSettings {
        steps: None,
        warmup_steps: reference.warmup_steps,
        learning_rate: reference.learning_rate,
        weight_decay: reference.weight_decay,
        clip: reference.clip,
        windows_per_step: text.window_count(),
        distill_share: reference.distill_share,
        temperature: reference.temperature,
        seed: 1,
        lora: None,
        ..TrainSettings::default()
    };
    let mut trainer = trainer(&supernet.full(), &text, settings).unwrap();
    for layer in 0..3 {
        let weights = whole(&mut trainer.state.trained);
        let down = weights.get_mut(Role::Layer(layer, Part::Down)).unwrap();
        down.mapv_inplace(|w| 0.5 * w);
    }
    for (index, want) in reference.steps.iter().enumerate() {
        let report = trainer.step().unwrap();
        for (got, want) in [
            (report.loss, want.loss),
            (report.next_token_loss, want.next_token),
            (report.gradient_norm, want.norm),
        ] {
            assert!((got / want - 1.0).abs() < 1e-4, "{index}: {got} {want}");
        }
        if index > 0 {
            continue;
        }
        let mut compared = 0;
        for (role, gradient) in whole(&mut trainer.gradient).iter() {
            let want = &reference.gradients[&name_in_transformers(role)];
            let got: Vec<f64> = gradient.t().iter().map(|v| f64::from(*v)).collect();
            let norm = got.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!((norm / want.norm - 1.0).abs() < 1e-4, "{role}: {norm}");
            let entries = got.iter().step_by(got.len() / 8 + 1);
            assert_eq!(entries.len(), want.entries.len());
            for (got, want) in entries.zip(&want.entries) {
                assert!((got - want).abs() < 1e-5 * norm, "{role}: {got} {want}");
            }
            compared += 1;
        }
        assert_eq!(compared, reference.gradients.len());
    }
}

#[test]
fn gradients_are_differences_of_the_loss() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"] {
        for lora in [None, lora()] {
            are_differences(&calibrated(name), lora);
        }
    }
}

fn are_differences(supernet: &Supernet, lora: Option<LoraSettings>) {
    let subnet = supernet.cut(&uneven(supernet.model())).unwrap();
    let settings = TrainSettings {
        distill_share: 0.7,
        temperature: 1.5,
        lora,
        ..TrainSettings::default()
    };
    let trainer = trainer(&subnet, &text(4), settings).unwrap();
    gradient_is_difference(trainer, &[], |loss| loss);
}

/// Holds the gradient of the mean over networks of `count` of their losses to differences.
pub(super) fn gradient_is_difference(
    mut trainer: Trainer<'_>,
    networks: &[SubnetConfig],
    count: fn(f64) -> f64,
) {
    const STEP: f32 = 2e-3;
    // Adapters begin with half of them at zero, where the other half has no gradient.
    for (at, values) in trainer.state.trained.values_mut().into_iter().enumerate() {
        let noise = random(values.numbers.len(), 50 + at as u64);
        for (value, noise) in values.numbers.iter_mut().zip(noise) {
            *value += 0.05 * noise;
        }
    }
    let windows = [0, 1, 2, 3];
    trainer.merge();
    trainer.differentiate(&windows, networks).unwrap();
    let gradients: Vec<Vec<f32>> = trainer
        .gradient
        .values()
        .iter()
        .map(|values| values.numbers.to_vec())
        .collect();
    let tokens = 64.0;
    for (at, gradient) in gradients.iter().enumerate() {
        let direction = random(gradient.len(), 100 + at as u64);
        let derivative = gradient.iter().zip(&direction);
        let derivative: f64 = derivative.map(|(g, d)| f64::from(g * d)).sum();
        let mut loss_at = |step: f32| {
            let mut tensors = trainer.state.trained.values_mut();
            for (value, d) in tensors[at].numbers.iter_mut().zip(&direction) {
                *value += step * d;
            }
            trainer.merge();
            let losses = trainer.differentiate(&windows, networks).unwrap();
            let losses = losses.iter().map(|sum| count(sum.loss / tokens));
            losses.sum::<f64>() / networks.len().max(1) as f64
        };
        let (above, below) = (loss_at(STEP), loss_at(-2.0 * STEP));
        loss_at(STEP);
        let difference = (above - below) / (2.0 * f64::from(STEP));
        assert!(
            (derivative - difference).abs() < 1e-3 + 0.01 * difference.abs(),
            "tensor {at} of {} numbers: {derivative} {difference}",
            gradient.len()
        );
    }
}

fn settings(lora: Option<LoraSettings>) -> TrainSettings {
    TrainSettings {
        steps: Some(8),
        warmup_steps: 2,
        learning_rate: 3e-3,
        weight_decay: 0.01,
        windows_per_step: 3,
        lora,
        ..TrainSettings::default()
    }
}

fn run(trainer: &mut Trainer<'_>, steps: usize) -> Vec<f64> {
    (0..steps).map(|_| trainer.step().unwrap().loss).collect()
}

#[test]
fn what_was_stopped_and_resumed_is_what_was_not() {
    let supernet = calibrated("tiny-llama");
    let config = uneven(supernet.model());
    let subnet = supernet.cut(&config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let text = text(7);
    for lora in [None, lora()] {
        let settings = settings(lora);
        let mut straight = trainer(&subnet, &text, settings.clone()).unwrap();
        let losses = run(&mut straight, 8);
        assert!(straight.is_done());
        assert!(losses[7] < losses[0]);
        let mut stopped = trainer(&subnet, &text, settings.clone()).unwrap();
        let mut found = run(&mut stopped, 3);
        stopped.save(&path).unwrap();
        drop(stopped);
        let open = TrainSettings {
            steps: None,
            ..settings.clone()
        };
        let mut resumed = Trainer::resume(&path, &supernet, &config, &text, &open).unwrap();
        assert_eq!((resumed.steps_done(), resumed.steps()), (3, Some(8)));
        found.extend(run(&mut resumed, 5));
        assert_eq!(found, losses);
        assert_eq!(resumed.weights(), straight.weights());
    }
}

#[test]
fn a_state_of_something_else_is_refused() {
    let supernet = calibrated("tiny-llama");
    let config = uneven(supernet.model());
    let subnet = supernet.cut(&config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let text = text(7);
    let mut trainer = trainer(&subnet, &text, settings(None)).unwrap();
    run(&mut trainer, 1);
    trainer.save(&path).unwrap();
    let refused = |text: &TokenWindows, config: &SubnetConfig, settings: &TrainSettings| {
        let resumed = Trainer::resume(&path, &supernet, config, text, settings);
        resumed.err().expect("it is refused").to_string()
    };
    let full = SubnetConfig::full(supernet.model());
    assert!(refused(&text, &full, &settings(None)).contains("sub-network"));
    assert!(refused(&text.up_to(32), &config, &settings(None)).contains("text"));
    assert!(refused(&text, &config, &settings(lora())).contains("settings"));
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..10], &whole[..whole.len() - 4], b"", &[0xff; 64]] {
        std::fs::write(&path, damaged).unwrap();
        refused(&text, &config, &settings(None));
    }
}

#[test]
fn merged_adapters_are_the_adapters() {
    let supernet = calibrated("tiny-llama");
    let subnet = supernet.cut(&uneven(supernet.model())).unwrap();
    let mut trainer = trainer(&subnet, &text(7), settings(lora())).unwrap();
    let before = trainer.weights().clone();
    run(&mut trainer, 8);
    let Trainable::LowRank(adapters) = &trainer.state.trained else {
        panic!("adapters were asked for");
    };
    let mut compared = 0;
    for (role, merged) in trainer.weights().iter() {
        // On rows of its own: `x W + (alpha / rank) (x A) B`, in f64.
        let Some(LowRank { a, b, scale }) = adapters.adapter(role) else {
            continue;
        };
        let wide = |matrix: &ndarray::Array2<f32>| matrix.mapv(f64::from);
        let rows = 5;
        let x = random(rows * merged.nrows(), 9);
        let x = ndarray::Array2::from_shape_vec((rows, merged.nrows()), x).unwrap();
        let x = wide(&x);
        let through = x.dot(&wide(a)).dot(&wide(b)) * f64::from(scale);
        let unmerged = x.dot(&wide(before.get(role).unwrap())) + &through;
        let merged = x.dot(&wide(merged));
        let largest = unmerged.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let error = (&merged - &unmerged).mapv(f64::abs);
        assert!(error.iter().all(|e| *e < 1e-5 * largest));
        assert!(through.iter().any(|v| v.abs() > 1e-3), "{role} is trained");
        compared += 1;
    }
    assert_eq!(compared, 4 + 4 + 3 + 3);
}

#[test]
fn only_targets_have_adapters() {
    let supernet = tiny();
    let only = LoraSettings {
        rank: 2,
        alpha: 4.0,
        targets: vec![Target::Down],
    };
    let mut trainer = trainer(&supernet.full(), &text(7), settings(Some(only))).unwrap();
    let before = trainer.weights().clone();
    // Without a divergence to begin with there is only rounding to learn from.
    trainer.state.settings.distill_share = 0.0;
    run(&mut trainer, 3);
    for (role, now) in trainer.weights().iter() {
        let is_trained = now != before.get(role).unwrap();
        let is_matrix = now.nrows() > 1;
        let is_target = matches!(role, Role::Layer(_, Part::Down));
        assert_eq!(is_trained, is_target || !is_matrix, "{role}");
    }
}

#[test]
fn healing_halves_what_pruning_lost() {
    let supernet = calibrated("tiny-llama");
    let subnet = supernet.cut(&uneven(supernet.model())).unwrap();
    let settings = TrainSettings {
        steps: Some(60),
        learning_rate: 1e-2,
        ..settings(None)
    };
    let mut trainer = trainer(&subnet, &text(7), settings).unwrap();
    let losses = run(&mut trainer, 60);
    assert!(losses[59] < 0.5 * losses[0], "{} {}", losses[0], losses[59]);
}

#[test]
fn weights_come_back_from_their_file() {
    let supernet = calibrated("tiny-llama");
    let config = uneven(supernet.model());
    let mut trainer = {
        let subnet: Subnet<'_> = supernet.cut(&config).unwrap();
        trainer(&subnet, &text(7), settings(None)).unwrap()
    };
    run(&mut trainer, 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    trainer.weights().save(&path, &supernet).unwrap();
    let loaded = Parameters::load(&path, &supernet, &config).unwrap();
    assert_eq!(&loaded, trainer.weights());
    let score = |weights: &Parameters| {
        let subnet = weights.subnet(&supernet, &config).unwrap();
        perplexity(&subnet, &text(3)).unwrap()
    };
    assert_eq!(score(&loaded), score(trainer.weights()));

    let full = SubnetConfig::full(supernet.model());
    let other = Parameters::load(&path, &supernet, &full).unwrap_err();
    assert!(matches!(other, SupernetError::Format { .. }), "{other}");
    let other = loaded.subnet(&supernet, &full).err().unwrap();
    assert!(matches!(other, SupernetError::Parameter { .. }), "{other}");
    let stranger = calibrated("tiny-qwen2");
    let other = Parameters::load(&path, &stranger, &config).unwrap_err();
    assert!(other.to_string().contains("--model"), "{other}");
}

#[test]
fn a_training_that_goes_wrong_stops_before_the_weights_do() {
    let supernet = calibrated("tiny-llama");
    let subnet = supernet.cut(&uneven(supernet.model())).unwrap();
    let settings = TrainSettings {
        learning_rate: 1e4,
        warmup_steps: 0,
        ..settings(None)
    };
    let mut trainer = trainer(&subnet, &text(7), settings).unwrap();
    let mut before = trainer.weights().clone();
    let error = loop {
        match trainer.step() {
            Ok(_) => before = trainer.weights().clone(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SupernetError::Diverged { .. }), "{error}");
    assert_eq!(trainer.weights(), &before);
    assert!(trainer.steps_done() < 8);
}
