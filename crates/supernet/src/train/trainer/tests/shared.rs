//! Training a super-network: what is trained is what is cut from it afterwards.

use lathe_arch::{MlpConfig, ModelConfig, SubnetConfig};

use super::{calibrated, fixture, gradient_is_difference, lora, settings, text, uneven};
use crate::checkpoint::Checkpoint;
use crate::parameters::Parameters;
use crate::train::trainer::BALANCE_NATS;
use crate::{
    Calibration, Evaluator, Importance, ImportanceOrder, Recovery, Supernet, SupernetError,
    TrainSettings, Trainer, perplexity, trained_weights,
};

const FAMILIES: [&str; 4] = ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"];

/// Sub-networks that between them lose units, heads in groups and blocks, which others stand in for.
fn networks(model: &ModelConfig) -> Vec<SubnetConfig> {
    let full = SubnetConfig::full(model);
    let mut narrow = full.clone();
    for layer in &mut narrow.layers {
        layer.mlp = Some(MlpConfig::with_width(model.intermediate_size / 2));
    }
    narrow.layers[0].attention = None;
    vec![full, uneven(model), narrow]
}

/// A super-network with another recovery.
fn recovered(name: &str, recovery: Recovery) -> Supernet {
    let checkpoint = Checkpoint::load(&fixture(name)).unwrap();
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let unordered = Supernet::unordered(model, weights.clone());
    let calibration = Calibration::measure(&unordered, &text(20), |_| {});
    let importance = Importance::Wanda;
    let order = ImportanceOrder::of(model, weights, &calibration, &text(20), importance).unwrap();
    Supernet::ordered(model, weights.clone(), calibration, &order, recovery).unwrap()
}

fn are_close(found: &Parameters, expected: &Parameters) {
    let names = |weights: &Parameters| -> Vec<_> { weights.iter().map(|(role, _)| role).collect() };
    assert_eq!(names(found), names(expected));
    for ((role, found), (_, expected)) in found.iter().zip(expected.iter()) {
        assert_eq!(found.dim(), expected.dim(), "{role}");
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let distance = (found - expected).abs();
            assert!(distance <= 2e-4 * largest, "{role}: {found} {expected}");
        }
    }
}

#[test]
fn sub_networks_are_those_that_are_cut() {
    let recoveries = [Recovery::None, Recovery::Bias, Recovery::LeastSquares];
    for name in FAMILIES {
        for recovery in recoveries {
            let supernet = recovered(name, recovery);
            let settings = TrainSettings::default();
            let mut trainer = Trainer::of_supernet(&supernet, &text(2), settings).unwrap();
            for config in networks(supernet.model()) {
                let found = trainer.weights_of(&config).unwrap();
                are_close(&found, &Parameters::of(&supernet.cut(&config).unwrap()));
            }
        }
    }
}

#[test]
fn gradients_go_back_through_slices_and_refits() {
    for name in FAMILIES {
        for lora in [None, lora()] {
            let supernet = calibrated(name);
            // Balancing is the same in every family.
            let balances = match name {
                "tiny-llama" => &[false, true][..],
                _ => &[false],
            };
            for &balance in balances {
                let settings = TrainSettings {
                    distill_share: 0.7,
                    temperature: 1.5,
                    lora: lora.clone(),
                    balance,
                    ..TrainSettings::default()
                };
                let trainer = Trainer::of_supernet(&supernet, &text(4), settings).unwrap();
                let count: fn(f64) -> f64 = match balance {
                    true => |loss| (loss + BALANCE_NATS).ln(),
                    false => |loss| loss,
                };
                gradient_is_difference(trainer, &networks(supernet.model()), count);
            }
        }
    }
}

/// Trains on all networks at every step.
fn train(trainer: &mut Trainer<'_>, networks: &[SubnetConfig], steps: usize) -> Vec<f64> {
    let steps = 0..steps;
    let losses = steps.map(|_| trainer.step_on(networks).unwrap().loss);
    losses.collect()
}

#[test]
fn what_was_trained_is_what_is_cut_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for lora in [None, lora()] {
        let supernet = calibrated("tiny-llama");
        let networks = networks(supernet.model());
        let settings = TrainSettings {
            steps: Some(40),
            ..settings(lora.clone())
        };
        let mut trainer = Trainer::of_supernet(&supernet, &text(7), settings).unwrap();
        let losses = train(&mut trainer, &networks, 40);
        assert!(losses[39] < 0.8 * losses[0], "{} {}", losses[0], losses[39]);
        trainer.save_trained(&path).unwrap();
        let expected = networks
            .iter()
            .map(|config| trainer.weights_of(config).unwrap());
        let expected: Vec<Parameters> = expected.collect();
        let teacher = perplexity(&supernet.full(), &text(3)).unwrap();
        drop(trainer);

        let untrained = supernet.digest();
        let weights = trained_weights(&path, &supernet, lora.as_ref()).unwrap();
        let trained = supernet.with_weights(&weights).unwrap();
        assert_ne!(trained.digest(), untrained);
        assert_eq!(perplexity(&trained.teacher(), &text(3)).unwrap(), teacher);
        let evaluator = Evaluator::new(&trained, &text(3)).unwrap();
        for (config, expected) in networks.iter().zip(&expected) {
            let cut = trained.cut(config).unwrap();
            are_close(&Parameters::of(&cut), expected);
            // Held against the checkpoint's own weights, also where nothing is cut away.
            let found = evaluator.perplexity_and_kl(&cut).unwrap();
            let own = expected.subnet(&trained, config).unwrap();
            let expected = evaluator.perplexity_and_kl(&own).unwrap();
            let pairs = [
                (found.perplexity(), expected.perplexity()),
                (
                    found.kl_divergence.unwrap(),
                    expected.kl_divergence.unwrap(),
                ),
            ];
            for (found, expected) in pairs {
                assert!(expected > 0.0);
                assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
            }
        }
    }
}

#[test]
fn the_training_of_a_super_network_goes_on_where_it_was_stopped() {
    let supernet = calibrated("tiny-llama");
    let networks = networks(supernet.model());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for lora in [None, lora()] {
        let settings = TrainSettings {
            sampling: Some("all".to_owned()),
            ..settings(lora)
        };
        let mut straight = Trainer::of_supernet(&supernet, &text(7), settings.clone()).unwrap();
        let losses = train(&mut straight, &networks, 8);
        let mut stopped = Trainer::of_supernet(&supernet, &text(7), settings.clone()).unwrap();
        let mut found = train(&mut stopped, &networks, 3);
        stopped.save(&path).unwrap();
        let resume = |supernet, settings: &TrainSettings| {
            Trainer::resume_of_supernet(&path, supernet, &text(7), settings).map(drop)
        };
        let other = TrainSettings {
            sampling: Some("others".to_owned()),
            ..settings.clone()
        };
        let refused = resume(&supernet, &other).unwrap_err();
        assert!(refused.to_string().contains("settings"), "{refused}");
        let other = recovered("tiny-llama", Recovery::Bias);
        let refused = resume(&other, &settings).unwrap_err();
        assert!(matches!(refused, SupernetError::Format { .. }), "{refused}");
        let resumed = Trainer::resume_of_supernet(&path, &supernet, &text(7), &settings);
        let mut resumed = resumed.unwrap();
        found.extend(train(&mut resumed, &networks, 5));
        assert_eq!(found, losses);
        assert_eq!(resumed.weights(), straight.weights());
    }
}

#[test]
fn vectors_stay_where_they_are_not_trained() {
    let supernet = calibrated("tiny-llama");
    let networks = networks(supernet.model());
    let settings = TrainSettings {
        vectors: false,
        ..settings(None)
    };
    let mut trainer = Trainer::of_supernet(&supernet, &text(7), settings).unwrap();
    let before = trainer.weights().clone();
    train(&mut trainer, &networks, 3);
    for ((role, before), (_, after)) in before.iter().zip(trainer.weights().iter()) {
        assert_eq!(before == after, before.nrows() == 1, "{role}");
    }
}
