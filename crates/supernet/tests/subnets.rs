//! Ordering, cutting and scoring, on the tiny model.

use std::path::Path;

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, Precision, SubnetConfig};
use lathe_supernet::checkpoint::{Checkpoint, ModelWeights};
use lathe_supernet::{
    Calibration, Decoder, Evaluator, Importance, ImportanceOrder, Recovery, Subnet, Supernet,
    SupernetError, TokenWindows, logits, perplexity_and_kl,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn checkpoint() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llama");
    Checkpoint::load(&path).unwrap()
}

fn windows(seed: u64) -> TokenWindows {
    random_windows(seed, 12)
}

fn random_windows(seed: u64, count: usize) -> TokenWindows {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tokens: Vec<u32> = (0..33 * count).map(|_| rng.random_range(0..320)).collect();
    TokenWindows::from_tokens(&tokens, 32)
}

fn ordered(checkpoint: &Checkpoint) -> Supernet {
    ordered_by(
        checkpoint,
        &windows(1),
        Importance::Reconstruction,
        Recovery::LeastSquares,
    )
}

fn ordered_by(
    checkpoint: &Checkpoint,
    windows: &TokenWindows,
    importance: Importance,
    recovery: Recovery,
) -> Supernet {
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let unordered = Supernet::unordered(model, weights.clone());
    let calibration = Calibration::measure(&unordered, windows, |_| {});
    let order = ImportanceOrder::of(model, weights, &calibration, windows, importance).unwrap();
    Supernet::ordered(
        model,
        weights.clone(),
        calibration.clone(),
        &order,
        recovery,
    )
    .unwrap()
}

fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    let attention = |heads, kv_heads| {
        Some(AttentionConfig {
            heads,
            kv_heads,
            precision: Precision::F32,
        })
    };
    subnet.layers[0].attention = attention(2, 2);
    subnet.layers[0].mlp = Some(MlpConfig::with_width(41));
    subnet.layers[1].attention = None;
    subnet.layers[2].attention = attention(2, 1);
    subnet.layers[2].mlp = None;
    subnet
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn ordering_keeps_the_function() {
    let checkpoint = checkpoint();
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let tokens: Vec<u32> = (5..45).collect();
    let before = logits(&unordered.full(), &tokens).unwrap();
    let mut orders = Vec::new();
    for importance in Importance::ALL {
        let ordered = ordered_by(&checkpoint, &windows(1), importance, Recovery::LeastSquares);
        let after = logits(&ordered.full(), &tokens).unwrap();
        assert!(largest_difference(&before, &after) < 1e-4);
        assert!(!orders.contains(ordered.order()));
        orders.push(ordered.order().clone());
        // The same again gives the same order.
        let again = ordered_by(&checkpoint, &windows(1), importance, Recovery::None);
        assert_eq!(again.order(), ordered.order());
    }
    assert!(!orders.contains(unordered.order()));
}

/// The same sub-network by zeroing in the full model: columns of `o_proj` and `down_proj` that
/// belong to removed units become zero.
fn masked(checkpoint: &Checkpoint, supernet: &Supernet, subnet: &SubnetConfig) -> ModelWeights {
    let model = &checkpoint.config;
    let mut weights = checkpoint.weights.clone();
    for (index, layer) in weights.layers.iter_mut().enumerate() {
        let (order, blocks) = (&supernet.order().layers[index], &subnet.layers[index]);
        let (groups, heads) = blocks
            .attention
            .map_or((0, 0), |a| (a.kv_heads, a.heads_per_group()));
        for (rank, group) in order.kv_groups.iter().enumerate() {
            for (head_rank, head) in order.heads_in_group[rank].iter().enumerate() {
                if rank >= groups || head_rank >= heads {
                    let head = group * model.heads_per_group() + head;
                    for channel in head * model.head_dim..(head + 1) * model.head_dim {
                        layer.o_proj.column_mut(channel).fill(0.0);
                    }
                }
            }
        }
        let width = blocks.mlp.map_or(0, |mlp| mlp.intermediate_size);
        for neuron in &order.neurons[width..] {
            layer.down_proj.column_mut(*neuron).fill(0.0);
        }
    }
    weights
}

#[test]
fn slicing_equals_masking_when_nothing_is_compensated() {
    let checkpoint = checkpoint();
    let importance = Importance::Fluctuation;
    let supernet = ordered_by(&checkpoint, &windows(1), importance, Recovery::None);
    let subnet = uneven(&checkpoint.config);
    let tokens: Vec<u32> = (100..150).collect();
    let sliced = logits(&supernet.cut(&subnet).unwrap(), &tokens).unwrap();
    let masked = masked(&checkpoint, &supernet, &subnet);
    let masked = Supernet::unordered(&checkpoint.config, masked);
    let masked = logits(&masked.full(), &tokens).unwrap();
    assert!(largest_difference(&sliced, &masked) < 1e-4);
}

#[test]
fn a_removed_block_leaves_its_mean_output() {
    // With a constant input the mean output is the output, so removal changes nothing.
    let checkpoint = checkpoint();
    let constant = TokenWindows::from_tokens(&[7; 33 * 4], 32);
    let importance = Importance::Fluctuation;
    let supernet = ordered_by(&checkpoint, &constant, importance, Recovery::Bias);
    let full = logits(&supernet.full(), &[7; 32]).unwrap();
    let mut subnet = SubnetConfig::full(&checkpoint.config);
    subnet.layers[1].mlp = None;
    subnet.layers[2].attention = None;
    subnet.layers[0].mlp = Some(MlpConfig::with_width(10));
    let cut = logits(&supernet.cut(&subnet).unwrap(), &[7; 32]).unwrap();
    assert!(largest_difference(&full, &cut) < 1e-3);
}

#[test]
fn a_kept_block_stands_in_for_a_removed_one_better_than_a_mean() {
    let checkpoint = checkpoint();
    // Ten times as many tokens as the widest block has channels.
    let seen = random_windows(1, 30);
    let divergence = |recovery| {
        let supernet = ordered_by(&checkpoint, &seen, Importance::Reconstruction, recovery);
        let evaluator = Evaluator::new(&supernet, &windows(2)).unwrap();
        [1, 2].map(|layer| {
            let mut subnet = SubnetConfig::full(&checkpoint.config);
            subnet.layers[layer].attention = None;
            subnet.layers[layer].mlp = None;
            let quality = evaluator
                .perplexity_and_kl(&supernet.cut(&subnet).unwrap())
                .unwrap();
            quality.kl_divergence.unwrap()
        })
    };
    let (fitted, means) = (
        divergence(Recovery::LeastSquares),
        divergence(Recovery::Bias),
    );
    for (fitted, mean) in fitted.iter().zip(means) {
        // Of random weights little can be foretold.
        assert!(*fitted < 0.98 * mean, "{fitted} {mean}");
    }
}

#[test]
fn correcting_drift_brings_a_sub_network_nearer_to_the_full_model() {
    let checkpoint = checkpoint();
    let (model, seen) = (&checkpoint.config, random_windows(1, 60));
    let supernet = ordered_by(
        &checkpoint,
        &seen,
        Importance::Reconstruction,
        Recovery::LeastSquares,
    );
    let divergence = |subnet: &Subnet<'_>| {
        let quality = perplexity_and_kl(subnet, &windows(2)).unwrap();
        quality.kl_divergence.unwrap()
    };
    for config in [uneven(model), {
        let mut narrow = SubnetConfig::full(model);
        for layer in &mut narrow.layers {
            layer.mlp = Some(MlpConfig::with_width(48));
        }
        narrow
    }] {
        let plain = supernet.cut(&config).unwrap();
        let corrected = supernet.cut(&config).unwrap();
        let corrected = corrected.correct_drift(&seen, |_| {}).unwrap();
        let evaluator = Evaluator::new(&supernet, &windows(2)).unwrap();
        // What is kept of one does not pass for the other, though their choices are the same.
        for subnet in [&plain, &corrected, &plain] {
            let quality = evaluator
                .perplexity_and_kl(subnet)
                .unwrap()
                .kl_divergence
                .unwrap();
            assert!((quality / divergence(subnet) - 1.0).abs() < 1e-6);
        }
        let (plain, corrected) = (divergence(&plain), divergence(&corrected));
        assert!(corrected < 0.99 * plain, "{corrected} {plain}");
    }
    // Where nothing has drifted, nothing changes.
    let full = SubnetConfig::full(model);
    let full = supernet.cut(&full).unwrap();
    let same = full.correct_drift(&seen, |_| {}).unwrap();
    assert!(divergence(&same).abs() < 1e-9);
}

#[test]
fn the_prefix_of_the_teacher_changes_no_score() {
    let checkpoint = checkpoint();
    let supernet = ordered(&checkpoint);
    let windows = windows(2);
    let evaluator = Evaluator::new(&supernet, &windows).unwrap();
    let mut subnet = SubnetConfig::full(&checkpoint.config);
    subnet.layers[2].mlp = Some(MlpConfig::with_width(30));
    let cut = supernet.cut(&subnet).unwrap();
    let quality = evaluator.perplexity_and_kl(&cut).unwrap();
    // The same by the definition, from all logits of every window.
    let (mut loss, mut divergence, mut count) = (0.0, 0.0, 0);
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let total: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        row.iter().map(|v| f64::from(*v) - total.ln()).collect()
    };
    for window in windows.first(usize::MAX).chunks_exact(33) {
        let student = logits(&cut, &window[..32]).unwrap();
        let teacher = logits(&supernet.full(), &window[..32]).unwrap();
        for (position, (s, t)) in student.chunks(320).zip(teacher.chunks(320)).enumerate() {
            let (s, t) = (log_softmax(s), log_softmax(t));
            loss -= s[window[position + 1] as usize];
            divergence += t
                .iter()
                .zip(&s)
                .map(|(t, s)| t.exp() * (t - s))
                .sum::<f64>();
            count += 1;
        }
    }
    let count = f64::from(count);
    assert!((quality.negative_log_likelihood - loss / count).abs() < 1e-5);
    assert!((quality.kl_divergence.unwrap() - divergence / count).abs() < 1e-5);
    assert_eq!(quality.tokens, windows.token_count());
    assert_eq!(perplexity_and_kl(&cut, &windows).unwrap(), quality);
    let full = evaluator.perplexity_and_kl(&supernet.full()).unwrap();
    assert!(full.kl_divergence.unwrap() < 1e-6);
}

#[test]
fn what_is_kept_of_earlier_sub_networks_changes_no_score_and_saves_layers() {
    let checkpoint = checkpoint();
    let supernet = ordered(&checkpoint);
    let windows = windows(2);
    let evaluator = Evaluator::new(&supernet, &windows).unwrap();
    let full = SubnetConfig::full(&checkpoint.config);
    let layers = full.layers.len();
    // A parent pruned in its first layer, and children that differ from it in a later one.
    let mut parent = full.clone();
    parent.layers[0].mlp = Some(MlpConfig::with_width(50));
    let mut family = vec![parent.clone()];
    for layer in 1..layers {
        let mut child = parent.clone();
        child.layers[layer].attention = None;
        family.push(child);
    }
    // The last differs before the first layer: its embedding is another.
    family.push(full.with_precision(Precision::Int8));
    family.push(parent);
    let mut scores = Vec::new();
    for config in &family {
        let cut = supernet.cut(config).unwrap();
        let alone = Evaluator::new(&supernet, &windows).unwrap();
        scores.push(evaluator.perplexity(&cut).unwrap().negative_log_likelihood);
        let want = alone.perplexity(&cut).unwrap().negative_log_likelihood;
        assert_eq!(scores.last(), Some(&want));
    }
    assert_eq!(scores.first(), scores.last());
    // The full model and the parent in full, each child from the layer on whose MLP stands in for
    // the removed attention, the quantised one in full, the parent again from its last layer on.
    let children: usize = (1..layers).map(|layer| layers - (layer - 1)).sum();
    let want = 2 * layers + children + layers + 1;
    assert_eq!(evaluator.layers_run(), want as u64);
}

#[test]
fn decoding_step_by_step_equals_one_pass() {
    let checkpoint = checkpoint();
    let supernet = ordered(&checkpoint);
    let subnet = supernet.cut(&uneven(&checkpoint.config)).unwrap();
    let tokens: Vec<u32> = (20..60).collect();
    let whole = logits(&subnet, &tokens).unwrap();
    let mut decoder = Decoder::new(&subnet, tokens.len()).unwrap();
    let mut last = decoder.feed(&tokens[..5]).unwrap();
    for (position, token) in tokens.iter().enumerate().skip(5) {
        assert!(largest_difference(&last, &whole[(position - 1) * 320..position * 320]) < 1e-3);
        last = decoder.feed(&[*token]).unwrap();
    }
    assert!(matches!(
        decoder.feed(&[1]),
        Err(SupernetError::TooLong { .. })
    ));
}

#[test]
fn what_cannot_be_cut_or_run_is_refused() {
    let checkpoint = checkpoint();
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let uneven = uneven(&checkpoint.config);
    assert!(matches!(
        unordered.cut(&uneven),
        Err(SupernetError::NotCalibrated)
    ));
    let mut wide = SubnetConfig::full(&checkpoint.config);
    wide.layers[1].mlp = Some(MlpConfig::with_width(97));
    let message = unordered.cut(&wide).err().unwrap().to_string();
    assert!(
        message.contains("layers[1].mlp.intermediate_size"),
        "{message}"
    );
    assert!(matches!(
        logits(&unordered.full(), &[3, 320]),
        Err(SupernetError::Token { position: 1, .. })
    ));
    assert!(matches!(
        logits(&unordered.full(), &[0; 513]),
        Err(SupernetError::TooLong { .. })
    ));
    let mut calibration = Calibration::measure(&unordered, &windows(1), |_| {});
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let of = |calibration: &Calibration| {
        let order =
            ImportanceOrder::of(model, weights, calibration, &windows(1), Importance::Wanda)?;
        Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order,
            Recovery::Bias,
        )
    };
    let mut twice = ImportanceOrder::identity(model);
    twice.layers[1].neurons[5] = 4;
    let message = Supernet::ordered(
        model,
        weights.clone(),
        calibration.clone(),
        &twice,
        Recovery::Bias,
    );
    assert!(message.err().unwrap().to_string().contains("neurons"));
    calibration.layers[1].mlp.mean[3] = f64::NAN;
    assert!(
        of(&calibration)
            .err()
            .unwrap()
            .to_string()
            .contains("channel 3")
    );
    calibration.layers.pop();
    assert!(
        of(&calibration)
            .err()
            .unwrap()
            .to_string()
            .contains("layers")
    );
}

#[test]
fn a_refit_is_closer_to_the_teacher_than_a_bias_and_a_bias_closer_than_nothing() {
    let checkpoint = checkpoint();
    let importance = Importance::Fluctuation;
    let score = |recovery| {
        let supernet = ordered_by(&checkpoint, &random_windows(1, 200), importance, recovery);
        let text = windows(2);
        let evaluator = Evaluator::new(&supernet, &text).unwrap();
        let mut subnet = SubnetConfig::full(&checkpoint.config);
        // The last layer: what is fitted, its output, is what the logits are made of.
        subnet.layers.last_mut().unwrap().mlp = Some(MlpConfig::with_width(48));
        let cut = supernet.cut(&subnet).unwrap();
        evaluator
            .perplexity_and_kl(&cut)
            .unwrap()
            .kl_divergence
            .unwrap()
    };
    let [none, bias, fitted] = [Recovery::None, Recovery::Bias, Recovery::LeastSquares].map(score);
    assert!(fitted < bias && bias < none, "{fitted} {bias} {none}");
}

#[test]
fn a_calibration_is_read_back_and_a_stale_one_is_not() {
    let checkpoint = checkpoint();
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let calibration = Calibration::measure(&unordered, &windows(1), |_| {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.safetensors");
    calibration.save(&path, "this text").unwrap();
    assert_eq!(
        Calibration::load(&path, "this text").unwrap(),
        Some(calibration)
    );
    assert_eq!(Calibration::load(&path, "another text").unwrap(), None);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(Calibration::load(&path, "this text").is_err());
    let huge_header = [&u64::MAX.to_le_bytes(), &bytes[8..]].concat();
    std::fs::write(&path, huge_header).unwrap();
    assert!(Calibration::load(&path, "this text").is_err());
    let tail = bytes.len() - 8;
    let not_a_number = [&bytes[..tail], &f64::NAN.to_le_bytes()].concat();
    std::fs::write(&path, not_a_number).unwrap();
    let message = Calibration::load(&path, "this text")
        .unwrap_err()
        .to_string();
    assert!(message.contains("not finite"), "{message}");
}

#[test]
fn quantised_weights_move_the_logits_a_little_and_fewer_bits_more() {
    let checkpoint = checkpoint();
    let supernet = ordered(&checkpoint);
    let tokens: Vec<u32> = (100..150).collect();
    let full = SubnetConfig::full(&checkpoint.config);
    let want = logits(&supernet.full(), &tokens).unwrap();
    let error = |precision| {
        let subnet = supernet
            .cut(&full.clone().with_precision(precision))
            .unwrap();
        largest_difference(&logits(&subnet, &tokens).unwrap(), &want)
    };
    let [int8, w8a8, int4] = [Precision::Int8, Precision::W8A8, Precision::Int4].map(error);
    assert!(0.0 < int8 && int8 < 0.2 * int4, "{int8} {int4}");
    assert!(int8 < w8a8 && w8a8 < 0.5 * int4, "{int8} {w8a8} {int4}");
    // One quantised block in the middle: what comes before it is the teacher's.
    let text = windows(2);
    let evaluator = Evaluator::new(&supernet, &text).unwrap();
    let mut subnet = full;
    subnet.layers[1].mlp.as_mut().unwrap().precision = Precision::Int4;
    let cut = supernet.cut(&subnet).unwrap();
    let divergence = evaluator
        .perplexity_and_kl(&cut)
        .unwrap()
        .kl_divergence
        .unwrap();
    assert!(divergence > 1e-6, "{divergence}");
}
