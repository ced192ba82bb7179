//! The backward pass and what is made of it, on the tiny model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, Precision, SubnetConfig};
use lathe_supernet::checkpoint::{Checkpoint, LayerWeights, ModelWeights};
use lathe_supernet::{
    AttentionGradient, Calibration, Evaluator, Importance, ImportanceOrder, LayerGradient,
    MlpGradient, Recovery, Subnet, Supernet, SupernetError, TokenWindows, loss_gradient,
    perplexity,
};
use ndarray::{Array1, Array2, Axis, concatenate, s};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// `tests/fixtures/tiny_gradients.json`
#[derive(Deserialize)]
struct Reference {
    #[serde(flatten)]
    loss: Loss,
    taylor: Vec<Scores>,
}

/// `tests/fixtures/family_gradients.json`
#[derive(Deserialize)]
struct Families {
    models: Vec<Family>,
}

#[derive(Deserialize)]
struct Family {
    model: String,
    #[serde(flatten)]
    loss: Loss,
}

/// A mean loss and its gradient.
#[derive(Deserialize)]
struct Loss {
    window: usize,
    tokens: Vec<u32>,
    loss: f64,
    gradients: BTreeMap<String, Expected>,
}

/// Of one tensor, `[out, in]` as PyTorch has it.
#[derive(Deserialize)]
struct Expected {
    norm: f64,
    /// Every n-th number.
    entries: Vec<f64>,
}

#[derive(Deserialize)]
struct Scores {
    kv_groups: Vec<f64>,
    heads: Vec<f64>,
    neurons: Vec<f64>,
}

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("../../tests/fixtures").join(name)
}

fn checkpoint() -> Checkpoint {
    Checkpoint::load(&fixture("tiny-llama")).unwrap()
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn reference() -> Reference {
    read("tiny_gradients.json")
}

fn windows(reference: &Loss) -> TokenWindows {
    TokenWindows::from_tokens(&reference.tokens, reference.window)
}

/// Its layers' gradients, the first layer first, and the loss.
fn gradients(subnet: &Subnet<'_>, windows: &TokenWindows) -> (f64, Vec<LayerGradient>) {
    let mut layers = Vec::new();
    let loss = loss_gradient(subnet, windows, |layer, gradient| {
        layers.push((layer, gradient));
    });
    layers.reverse();
    let is_in_order = layers
        .iter()
        .enumerate()
        .all(|(at, (layer, _))| at == *layer);
    assert!(is_in_order);
    let gradients = layers.into_iter().map(|(_, gradient)| gradient);
    (loss.unwrap(), gradients.collect())
}

/// Every number in PyTorch's order, `[out, in]`.
fn by_output(matrix: &Array2<f32>) -> Vec<f64> {
    matrix.t().iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn gradients_are_those_of_pytorch() {
    are_those_of_pytorch("tiny-llama", &reference().loss);
    // Biases; norms of queries and keys; these, norms behind blocks, GeGLU and sliding windows.
    let families: Families = read("family_gradients.json");
    let names: Vec<&str> = families.models.iter().map(|f| f.model.as_str()).collect();
    assert_eq!(names, ["tiny-qwen2", "tiny-qwen3", "tiny-gemma3"]);
    for family in &families.models {
        are_those_of_pytorch(&family.model, &family.loss);
    }
}

fn are_those_of_pytorch(model: &str, reference: &Loss) {
    let checkpoint = Checkpoint::load(&fixture(model)).unwrap();
    let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let (loss, layers) = gradients(&supernet.full(), &windows(reference));
    assert!((loss - reference.loss).abs() < 1e-5, "{model}: {loss}");
    let mut compared = 0;
    for (index, layer) in layers.iter().enumerate() {
        let tensors = named_as_in_transformers(layer);
        assert_eq!(tensors.len() * layers.len(), reference.gradients.len());
        for (name, got) in tensors {
            let name = format!("model.layers.{index}.{name}.weight");
            let want = &reference.gradients[&name];
            let norm = got.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!(
                (norm / want.norm - 1.0).abs() < 1e-4,
                "{model}, {name}: {norm} {}",
                want.norm
            );
            let entries = got.iter().step_by(got.len() / 8 + 1);
            assert_eq!(entries.len(), want.entries.len());
            for (got, want) in entries.zip(&want.entries) {
                // f32 rounds sums over tokens whose terms are as large as their norm.
                assert!(
                    (got - want).abs() < 1e-5 * norm,
                    "{model}, {name}: {got} {want}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 7 * reference.gradients.len());
}

/// What a layer holds, by the names that transformers gives it.
fn named_as_in_transformers(layer: &LayerGradient) -> Vec<(&'static str, Vec<f64>)> {
    let attention = layer.attention.as_ref().unwrap();
    let mlp = layer.mlp.as_ref().unwrap();
    let vector = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect();
    let mut tensors = vec![
        ("input_layernorm", vector(&attention.norm)),
        ("self_attn.q_proj", by_output(&attention.q)),
        ("self_attn.k_proj", by_output(&attention.k)),
        ("self_attn.v_proj", by_output(&attention.v)),
        ("self_attn.o_proj", by_output(&attention.o)),
        ("mlp.gate_proj", by_output(&mlp.gate)),
        ("mlp.up_proj", by_output(&mlp.up)),
        ("mlp.down_proj", by_output(&mlp.down)),
    ];
    let before_mlp = match mlp.post_norm {
        // Where norms stand behind blocks, this name is taken by the one behind attention.
        Some(_) => "pre_feedforward_layernorm",
        None => "post_attention_layernorm",
    };
    tensors.push((before_mlp, vector(&mlp.norm)));
    for (name, gain) in [
        ("self_attn.q_norm", &attention.q_norm),
        ("self_attn.k_norm", &attention.k_norm),
        ("post_attention_layernorm", &attention.post_norm),
        ("post_feedforward_layernorm", &mlp.post_norm),
    ] {
        tensors.extend(gain.as_deref().map(|gain| (name, vector(gain))));
    }
    tensors
}

/// A sub-network that lacks blocks, groups, heads in groups and neurons.
fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    subnet.layers[0].attention = Some(AttentionConfig {
        heads: 2,
        kv_heads: 2,
        precision: Precision::F32,
    });
    subnet.layers[0].mlp = Some(MlpConfig::with_width(41));
    subnet.layers[1].attention = None;
    subnet.layers[2].attention = Some(AttentionConfig::with_groups(model, 1));
    subnet.layers[2].mlp = None;
    subnet
}

fn calibrated(checkpoint: &Checkpoint, windows: &TokenWindows) -> Calibration {
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    Calibration::measure(&unordered, windows, |_| {})
}

fn taylor_order(checkpoint: &Checkpoint, windows: &TokenWindows) -> ImportanceOrder {
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let calibration = calibrated(checkpoint, windows);
    ImportanceOrder::of(model, weights, &calibration, windows, Importance::Taylor).unwrap()
}

/// A tensor of a layer of a sub-network.
struct Tensor {
    name: &'static str,
    gradient: Vec<f32>,
    values: Vec<f32>,
    /// Whether a number of the residual stream is a row of it; else it is a column.
    is_by_row: bool,
    /// Multiplies what belongs to each number of the residual stream in the checkpoint.
    grow: fn(&mut LayerWeights, &Array1<f32>),
}

fn tensors(subnet: &Subnet<'_>, layer: usize, gradient: &LayerGradient) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut add = |name, gradient: Vec<f32>, values: Option<Vec<f32>>, is_by_row, grow| {
        tensors.push(Tensor {
            name,
            gradient,
            values: values.unwrap(),
            is_by_row,
            grow,
        });
    };
    let numbers = |matrix: &Array2<f32>| matrix.iter().copied().collect();
    if let Some(AttentionGradient {
        norm, q, k, v, o, ..
    }) = &gradient.attention
    {
        let qkv = concatenate(Axis(1), &[q.view(), k.view(), v.view()]).unwrap();
        let norms = subnet.input_norm(layer);
        add("norm", norm.clone(), norms, true, |w, by| {
            w.input_layernorm *= by
        });
        add(
            "q, k, v",
            numbers(&qkv),
            subnet.qkv_proj(layer),
            true,
            |w, by| {
                w.q_proj *= by;
                w.k_proj *= by;
                w.v_proj *= by;
            },
        );
        add("o", numbers(o), subnet.o_proj(layer), false, |w, by| {
            w.o_proj *= &by.view().insert_axis(Axis(1));
        });
    }
    if let Some(MlpGradient {
        norm,
        gate,
        up,
        down,
        ..
    }) = &gradient.mlp
    {
        let norms = subnet.post_attention_norm(layer);
        add("norm", norm.clone(), norms, true, |w, by| {
            w.post_attention_layernorm *= by
        });
        add(
            "gate",
            numbers(gate),
            subnet.gate_proj(layer),
            true,
            |w, by| w.gate_proj *= by,
        );
        add("up", numbers(up), subnet.up_proj(layer), true, |w, by| {
            w.up_proj *= by
        });
        add(
            "down",
            numbers(down),
            subnet.down_proj(layer),
            false,
            |w, by| {
                w.down_proj *= &by.view().insert_axis(Axis(1));
            },
        );
    }
    tensors
}

#[test]
fn gradients_of_a_sub_network_are_differences_of_its_loss() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"] {
        are_differences(&Checkpoint::load(&fixture(name)).unwrap());
    }
}

fn are_differences(checkpoint: &Checkpoint) {
    const STEP: f32 = 3e-3;
    let windows = windows(&reference().loss);
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let calibration = calibrated(checkpoint, &windows);
    let importance = Importance::Wanda;
    let order = ImportanceOrder::of(model, weights, &calibration, &windows, importance).unwrap();
    let ordered = |weights: &ModelWeights| {
        Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order,
            Recovery::None,
        )
        .unwrap()
    };
    let supernet = ordered(weights);
    let config = uneven(model);
    let subnet = supernet.cut(&config).unwrap();
    let (loss, layers) = gradients(&subnet, &windows);
    let scored = perplexity(&subnet, &windows).unwrap();
    assert!((loss - scored.negative_log_likelihood).abs() < 1e-6);

    // Everything that belongs to a number of the residual stream grows by the same share: orders
    // do not permute those numbers.
    let hidden = model.hidden_size;
    let growth = Array1::from_shape_fn(hidden, |i| (i as f32).sin());
    let mut compared = 0;
    for (layer, gradient) in layers.iter().enumerate() {
        for tensor in tensors(&subnet, layer, gradient) {
            let width = tensor.values.len() / hidden;
            let growth_at = |at: usize| {
                growth[if tensor.is_by_row {
                    at / width
                } else {
                    at % hidden
                }]
            };
            let products = tensor.gradient.iter().zip(&tensor.values).enumerate();
            let derivative = products.map(|(at, (g, w))| f64::from(g * w * growth_at(at)));
            let derivative: f64 = derivative.sum();
            let [above, below] = [STEP, -STEP].map(|step| {
                let mut weights = weights.clone();
                (tensor.grow)(&mut weights.layers[layer], &(1.0 + step * &growth));
                let quality = perplexity(&ordered(&weights).cut(&config).unwrap(), &windows);
                quality.unwrap().negative_log_likelihood
            });
            let difference = (above - below) / (2.0 * f64::from(STEP));
            assert!(
                (derivative - difference).abs() < 5e-4 + 0.01 * difference.abs(),
                "layer {layer}, {}: {derivative} {difference}",
                tensor.name
            );
            compared += 1;
        }
    }
    let attentions = config
        .layers
        .iter()
        .filter(|layer| layer.attention.is_some());
    let mlps = config.layers.iter().filter(|layer| layer.mlp.is_some());
    assert_eq!(compared, 3 * attentions.count() + 4 * mlps.count());
}

#[test]
fn what_has_no_gradient_is_refused() {
    let checkpoint = checkpoint();
    let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
    let mut config = SubnetConfig::full(supernet.model());
    config.layers[1].mlp.as_mut().unwrap().precision = Precision::Int8;
    let quantized = supernet.cut(&config).unwrap();
    let windows = windows(&reference().loss);
    let message = loss_gradient(&quantized, &windows, |_, _| {}).unwrap_err();
    assert!(message.to_string().contains("int8"), "{message}");
    let outside = TokenWindows::from_tokens(&[1, 2, 400], 2);
    let refused = loss_gradient(&supernet.full(), &outside, |_, _| {});
    assert!(matches!(
        refused,
        Err(SupernetError::Token { position: 2, .. })
    ));
}

#[test]
fn units_are_ordered_by_the_scores_that_pytorch_gives() {
    let (checkpoint, reference) = (checkpoint(), reference());
    let order = taylor_order(&checkpoint, &windows(&reference.loss));
    let is_descending = |order: &[usize], scores: &[f64]| {
        let sorted: Vec<f64> = order.iter().map(|unit| scores[*unit]).collect();
        // Scores that differ by what f32 rounds may change places.
        sorted
            .windows(2)
            .all(|pair| pair[0] >= pair[1] * (1.0 - 1e-4))
    };
    let per_group = checkpoint.config.heads_per_group();
    for (order, scores) in order.layers.iter().zip(&reference.taylor) {
        assert!(is_descending(&order.kv_groups, &scores.kv_groups));
        assert!(is_descending(&order.neurons, &scores.neurons));
        for (group, heads) in order.kv_groups.iter().zip(&order.heads_in_group) {
            let heads: Vec<usize> = heads.iter().map(|head| group * per_group + head).collect();
            assert!(is_descending(&heads, &scores.heads));
        }
    }
}

#[test]
fn a_unit_that_does_nothing_is_last_and_one_that_decides_is_first() {
    let mut checkpoint = checkpoint();
    let head_dim = checkpoint.config.head_dim;
    let layer = &mut checkpoint.weights.layers[1];
    // Neuron 17 and head 3 write nothing: neither their outputs nor their inputs matter.
    layer.down_proj.column_mut(17).fill(0.0);
    layer.o_proj.slice_mut(s![.., 3 * head_dim..]).fill(0.0);
    // Neuron 40 and head 0 write ten times as much as any other.
    layer.down_proj.column_mut(40).mapv_inplace(|w| 10.0 * w);
    layer
        .o_proj
        .slice_mut(s![.., ..head_dim])
        .mapv_inplace(|w| 10.0 * w);
    let order = taylor_order(&checkpoint, &windows(&reference().loss));
    let layer = &order.layers[1];
    assert_eq!((layer.neurons[0], layer.neurons[95]), (40, 17));
    assert_eq!(layer.kv_groups, [0, 1]);
    assert_eq!(
        (layer.heads_in_group[0][0], layer.heads_in_group[1][1]),
        (0, 1)
    );
}

#[test]
fn pruning_by_taylor_harms_less_than_in_random_order() {
    let (checkpoint, windows) = (checkpoint(), windows(&reference().loss));
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let calibration = calibrated(&checkpoint, &windows);
    let mut config = SubnetConfig::full(model);
    for layer in &mut config.layers {
        layer.mlp = Some(MlpConfig::with_width(72));
    }
    let divergence = |importance| {
        let order = ImportanceOrder::of(model, weights, &calibration, &windows, importance);
        let recovery = Recovery::None;
        let supernet = Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order.unwrap(),
            recovery,
        )
        .unwrap();
        let evaluator = Evaluator::new(&supernet, &windows).unwrap();
        let quality = evaluator
            .perplexity_and_kl(&supernet.cut(&config).unwrap())
            .unwrap();
        quality.kl_divergence.unwrap()
    };
    let [taylor, random] = [Importance::Taylor, Importance::Random].map(divergence);
    assert!(taylor < 0.8 * random, "{taylor} {random}");
}
