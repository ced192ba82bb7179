//! Gradients of training steps are those of Lathe's own engine.

use std::path::Path;
use std::sync::Arc;

use crate::shared::{MODELS, calibrated, text, uneven};
use lathe_candle::{Candle, Dtype};
use lathe_supernet::{LoraSettings, Parameters, Supernet, Target, TrainSettings, Trainer};

/// The same sums in another order.
const F32: f64 = 1e-3;
/// Weights, activations and their gradients of 8 bits: of a random model's whole gradient up to 0.09.
const BF16: f64 = 0.15;

fn settings(lora: bool, distill_share: f32, temperature: f32) -> TrainSettings {
    TrainSettings {
        steps: Some(4),
        windows_per_step: 4,
        distill_share,
        temperature,
        lora: lora.then(|| LoraSettings {
            rank: 3,
            alpha: 6.0,
            targets: vec![Target::Q, Target::O, Target::Up, Target::Down],
        }),
        ..TrainSettings::default()
    }
}

/// How far the gradients of one step from the state in `path` are apart, against their norm: of
/// everything, and of the tensor where that is largest.
fn differences(
    supernet: &Supernet,
    path: &Path,
    settings: &TrainSettings,
    dtype: Dtype,
) -> [f64; 2] {
    let config = uneven(supernet.model());
    let resumed = || Trainer::resume(path, supernet, &config, &text(8), settings).unwrap();
    let mut own = resumed();
    let mut other = resumed().on(Arc::new(Candle::new(supernet, dtype).unwrap()));
    let [want, got] = [&mut own, &mut other].map(|trainer| trainer.step().unwrap());
    let tolerance = match dtype {
        Dtype::F32 => 1e-4,
        Dtype::Bf16 => BF16,
    };
    for (got, want) in [
        (got.loss, want.loss),
        (got.next_token_loss, want.next_token_loss),
    ] {
        assert!((got / want - 1.0).abs() < tolerance, "{got} {want}");
    }
    let (mut squares, mut total, mut worst) = (0.0, 0.0, 0.0f64);
    let all = want.gradient_norm;
    for (got, want) in other.gradient().into_iter().zip(own.gradient()) {
        let pairs = || got.iter().zip(want);
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        let difference: f64 = pairs().map(square).sum();
        let norm: f64 = want.iter().map(|v| f64::from(*v).powi(2)).sum();
        squares += difference;
        total += norm;
        // What hardly matters is held to the whole.
        worst = worst.max(difference.sqrt() / norm.sqrt().max(1e-2 * all));
    }
    [squares.sqrt() / total.sqrt(), worst]
}

/// A state after two steps of the own engine, from which both go on: adapters begin with half of them
/// at zero, where the other half has no gradient.
fn state(supernet: &Supernet, settings: &TrainSettings, path: &Path) {
    let config = uneven(supernet.model());
    let weights = Parameters::of(&supernet.cut(&config).unwrap());
    let settings = settings.clone();
    let mut trainer = Trainer::new(supernet, &config, weights, &text(8), settings).unwrap();
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    trainer.save(path).unwrap();
}

#[test]
fn gradients_are_those_of_the_own_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for name in MODELS {
        let supernet = calibrated(name);
        for lora in [false, true] {
            for (share, temperature) in [(1.0, 1.0), (0.7, 1.5), (0.0, 1.0)] {
                let settings = settings(lora, share, temperature);
                state(&supernet, &settings, &path);
                let case = format!("{name}, adapters {lora}, share {share}");
                let [_, worst] = differences(&supernet, &path, &settings, Dtype::F32);
                assert!(worst < F32, "{case}: {worst}");
                let [whole, _] = differences(&supernet, &path, &settings, Dtype::Bf16);
                assert!(whole < BF16, "{case}, bf16: {whole}");
            }
        }
    }
}

/// Several networks a step, through the weights that they share.
#[test]
fn a_super_network_is_trained_to_the_same_loss() {
    let supernet = calibrated("tiny-llama");
    let full = lathe_arch::SubnetConfig::full(supernet.model());
    let networks = [full, uneven(supernet.model())];
    let trainer = || Trainer::of_supernet(&supernet, &text(8), settings(false, 1.0, 1.0)).unwrap();
    let engine = Arc::new(Candle::new(&supernet, Dtype::F32).unwrap());
    let (mut own, mut other) = (trainer(), trainer().on(engine));
    for _ in 0..3 {
        let [want, got] = [&mut own, &mut other].map(|t| t.step_on(&networks).unwrap());
        for (got, want) in got.losses.iter().zip(&want.losses) {
            assert!((got - want).abs() < 1e-3 * want.max(1e-2), "{got} {want}");
        }
    }
}
