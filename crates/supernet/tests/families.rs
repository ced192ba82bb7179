//! Families beside Llama, on tiny models made with transformers (tests/fixtures/make.py).

use std::fs;
use std::path::{Path, PathBuf};

use lathe_arch::{
    Activation, AttentionConfig, Family, LayerConfig, LayerType, MlpConfig, ModelConfig, Precision,
    RopeScaling, SUBNET_VERSION, SubnetConfig,
};
use lathe_supernet::checkpoint::{Checkpoint, ModelWeights, read_config};
use lathe_supernet::{
    Calibration, Decoder, Evaluator, Importance, ImportanceOrder, Recovery, Split, Supernet,
    TextSplits, TokenWindows, greedy, logits,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// What transformers makes of the models.
#[derive(Deserialize)]
struct References {
    models: Vec<Reference>,
    pieces: Vec<Tokens>,
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Reference {
    model: String,
    prompts: Vec<Prompt>,
    kept_kv_heads: Vec<Option<usize>>,
    kept_neurons: Vec<Option<usize>>,
    pruned_last_logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    token_ids: Vec<u32>,
    greedy: Vec<u32>,
    last_logits: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

fn references() -> References {
    let text = fs::read(fixture("family_logits.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn checkpoints() -> Vec<Checkpoint> {
    ["tiny-qwen2", "tiny-qwen3", "tiny-gemma3"]
        .map(|name| Checkpoint::load(&fixture(name)).unwrap())
        .into()
}

fn windows(seed: usize) -> TokenWindows {
    let tokens: Vec<u32> = (0..33 * 12)
        .map(|i| ((i + seed) * 7919 % 320) as u32)
        .collect();
    TokenWindows::from_tokens(&tokens, 32)
}

fn ordered(
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

/// Layers with pruned query heads, a pruned KV group, without attention, without MLP.
fn uneven(model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model);
    let attention = |heads, kv_heads| {
        Some(AttentionConfig {
            heads,
            kv_heads,
            precision: Precision::F32,
        })
    };
    let last = subnet.layers.len() - 1;
    subnet.layers[0].attention = attention(2, 2);
    subnet.layers[0].mlp = Some(MlpConfig::with_width(41));
    subnet.layers[1].attention = None;
    subnet.layers[last].attention = attention(2, 1);
    subnet.layers[last].mlp = None;
    subnet
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for reference in references().models {
        let checkpoint = Checkpoint::load(&fixture(&reference.model)).unwrap();
        let model = &checkpoint.config;
        let counted = SubnetConfig::full(model).parameters(model);
        assert_eq!(checkpoint.weights.parameters(), counted);
        let supernet = Supernet::unordered(model, checkpoint.weights.clone());
        for prompt in reference.prompts {
            let ids = checkpoint.tokenizer.encode(&prompt.text).unwrap();
            assert_eq!(ids, prompt.token_ids);
            let all = logits(&supernet.full(), &ids).unwrap();
            let last = &all[all.len() - prompt.last_logits.len()..];
            let difference = largest_difference(last, &prompt.last_logits);
            assert!(difference < 2e-4, "{}: {difference}", reference.model);
            let found = greedy(&supernet.full(), &ids, prompt.greedy.len()).unwrap();
            assert_eq!(found, prompt.greedy, "{}", reference.model);
        }
    }
}

/// transformers has zeros in the columns of the last matrices that are cut away here.
#[test]
fn pruned_logits_are_those_of_transformers() {
    for reference in references().models {
        let checkpoint = Checkpoint::load(&fixture(&reference.model)).unwrap();
        let (model, weights) = (&checkpoint.config, &checkpoint.weights);
        let unordered = Supernet::unordered(model, weights.clone());
        let calibration = Calibration::measure(&unordered, &windows(1), |_| {});
        let order = ImportanceOrder::identity(model);
        let supernet = Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order,
            Recovery::None,
        );
        let kept = reference.kept_kv_heads.iter().zip(&reference.kept_neurons);
        let layers = kept.map(|(groups, neurons)| LayerConfig {
            attention: groups.map(|groups| AttentionConfig::with_groups(model, groups)),
            mlp: neurons.map(MlpConfig::with_width),
        });
        let subnet = SubnetConfig {
            version: SUBNET_VERSION,
            model: String::new(),
            head_precision: Precision::F32,
            layers: layers.collect(),
        };
        let supernet = supernet.unwrap();
        let cut = supernet.cut(&subnet).unwrap();
        let prompt = reference.prompts.last().unwrap();
        let all = logits(&cut, &prompt.token_ids).unwrap();
        let last = &all[all.len() - model.vocab_size..];
        let difference = largest_difference(last, &reference.pruned_last_logits);
        assert!(difference < 2e-4, "{}: {difference}", reference.model);
    }
}

#[test]
fn gguf_files_hold_the_same_models() {
    for name in ["tiny-qwen2", "tiny-qwen3", "tiny-gemma3"] {
        let folder = Checkpoint::load(&fixture(name)).unwrap();
        let gguf = Checkpoint::load(&fixture(&format!("{name}.gguf"))).unwrap();
        assert_eq!(folder.weights, gguf.weights, "{name}");
        let mut config = gguf.config.clone();
        // Metadata is in single precision, and has no place for Gemma's scale of scores.
        assert!((config.rms_norm_eps - 1e-6).abs() < 1e-12);
        config.rms_norm_eps = 1e-6;
        config.query_pre_attn_scalar = folder.config.query_pre_attn_scalar;
        assert_eq!(folder.config, config, "{name}");
        let text = "the quick brown fox 42";
        let ids = gguf.tokenizer.encode(text).unwrap();
        assert_eq!(gguf.tokenizer.decode(&ids), text);
    }
}

/// Gemma's tokenizer lies in GGUF files as pieces and scores.
#[test]
fn pieces_are_merged_as_their_scores_say() {
    let tokenizer = Checkpoint::load(&fixture("tiny-gemma3.gguf"))
        .unwrap()
        .tokenizer;
    assert_eq!(tokenizer.text_start(), Some(2));
    let cases = references().pieces;
    assert_eq!(cases.len(), 200);
    for case in cases {
        assert_eq!(
            tokenizer.encode(&case.text).unwrap(),
            case.ids,
            "{}",
            case.text
        );
        assert_eq!(tokenizer.decode(&case.ids), case.text);
    }
}

/// A copy of a GGUF file with the first of some bytes replaced by as many others.
fn damaged_gguf(name: &str, from: &str, to: &str) -> String {
    let mut bytes = fs::read(fixture(name)).unwrap();
    let at = bytes.windows(from.len()).position(|b| b == from.as_bytes());
    let at = at.unwrap();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let message = Checkpoint::load(&path).err().unwrap().to_string();
    assert!(message.contains("model.gguf"), "{message}");
    message
}

#[test]
fn what_a_gguf_lacks_is_named() {
    for (name, from, to, word) in [
        (
            "tiny-qwen2.gguf",
            "blk.2.attn_k.bias",
            "blk.2.attn_k.bios",
            "blk.2.attn_k.bias",
        ),
        (
            "tiny-qwen3.gguf",
            "blk.1.attn_q_norm",
            "blk.1.attn_q_narm",
            "blk.1.attn_q_norm",
        ),
        (
            "tiny-gemma3.gguf",
            "blk.0.post_ffw_norm",
            "blk.0.post_ffx_norm",
            "blk.0.post_ffw_norm",
        ),
        (
            "tiny-gemma3.gguf",
            "gemma3.attention.sliding_window",
            "gemma3.attention.slipping_windo",
            "gemma3.attention.sliding_window",
        ),
        (
            "tiny-gemma3.gguf",
            "linear",
            "circle",
            "gemma3.rope.scaling.type",
        ),
    ] {
        let message = damaged_gguf(name, from, to);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn configurations_say_what_the_models_do() {
    let [qwen2, qwen3, gemma3] = &checkpoints()[..] else {
        panic!("three models");
    };
    assert!(qwen2.config.qkv_bias && !qwen2.config.qk_norm);
    assert!(qwen3.config.qk_norm && !qwen3.config.qkv_bias && !qwen3.config.post_norms);
    let model = &gemma3.config;
    assert!(model.qk_norm && model.post_norms);
    assert_eq!(model.hidden_act, Activation::GeluPytorchTanh);
    assert_eq!(model.embedding_scale, Some(8.0));
    assert_eq!(model.query_pre_attn_scalar, Some(24.0));
    assert_eq!(model.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let types: Vec<_> = (0..4).map(|layer| model.layer_type(layer)).collect();
    let (full, sliding) = (LayerType::FullAttention, LayerType::SlidingAttention);
    assert_eq!(types, [sliding, sliding, full, sliding]);
    assert_eq!((model.window(0), model.window(2)), (Some(8), None));
}

/// A copy of a fixture with another configuration.
fn with_config(name: &str, change: impl FnOnce(&mut Json)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap().flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    folder
}

fn remove(config: &mut Json, fields: &[&str]) {
    for field in fields {
        config.as_object_mut().unwrap().remove(*field);
    }
}

#[test]
fn the_spelling_of_transformers_4_is_read_too() {
    let old_qwen = |config: &mut Json| {
        remove(config, &["layer_types", "rope_parameters"]);
        config["rope_theta"] = json!(1e6);
        config["rope_scaling"] = json!(null);
        config["sliding_window"] = json!(32768);
    };
    for name in ["tiny-qwen2", "tiny-qwen3"] {
        let old = with_config(name, old_qwen);
        let new = read_config(&fixture(name)).unwrap();
        assert_eq!(read_config(old.path()).unwrap(), new);
    }
    let new = read_config(&fixture("tiny-gemma3")).unwrap();
    let old_gemma = |config: &mut Json| {
        // Published files leave out what the class has as its default.
        let silent = ["layer_types", "rope_parameters", "tie_word_embeddings"];
        remove(config, &silent);
        remove(config, &["_sliding_window_pattern", "rms_norm_eps"]);
        config["sliding_window_pattern"] = json!(3);
        config["rope_theta"] = json!(1e6);
        config["rope_local_base_freq"] = json!(1e4);
        config["rope_scaling"] = json!({"rope_type": "linear", "factor": 2.0});
    };
    let old = with_config("tiny-gemma3", old_gemma);
    assert_eq!(read_config(old.path()).unwrap(), new);
    let inside = with_config("tiny-gemma3", |config| {
        old_gemma(config);
        *config = json!({"model_type": "gemma3", "text_config": config.take()});
    });
    assert_eq!(read_config(inside.path()).unwrap(), new);
}

#[test]
fn a_language_model_is_found_inside_a_larger_model() {
    let plain = Checkpoint::load(&fixture("tiny-gemma3")).unwrap();
    let bytes = fs::read(fixture("tiny-gemma3/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for prefix in ["language_model.model.", "model.language_model."] {
        let folder = with_config("tiny-gemma3", |config| {
            *config = json!({"model_type": "gemma3", "text_config": config.take()});
        });
        let renamed = tensors.iter().map(|(name, tensor)| {
            let rest = name.strip_prefix("model.").unwrap();
            (format!("{prefix}{rest}"), tensor)
        });
        let path = folder.path().join("model.safetensors");
        safetensors::serialize_to_file(renamed, None, &path).unwrap();
        let found = Checkpoint::load(folder.path()).unwrap();
        assert_eq!(found.weights, plain.weights);
        assert_eq!(found.config, plain.config);
    }
}

#[test]
fn what_is_not_supported_is_named_by_file_and_field() {
    type Case = (&'static str, &'static str, Json);
    let cases: [Case; 13] = [
        ("tiny-qwen2", "use_sliding_window", json!(true)),
        ("tiny-qwen2", "model_type", json!("qwen2_moe")),
        ("tiny-qwen2", "hidden_act", json!("relu")),
        (
            "tiny-qwen2",
            "layer_types",
            json!(["full_attention", "full_attention", "sliding_attention"]),
        ),
        ("tiny-qwen3", "attention_bias", json!(true)),
        ("tiny-qwen3", "vocab_size", json!(null)),
        ("tiny-gemma3", "attn_logit_softcapping", json!(50.0)),
        ("tiny-gemma3", "final_logit_softcapping", json!(30.0)),
        ("tiny-gemma3", "hidden_activation", json!("gelu")),
        ("tiny-gemma3", "use_bidirectional_attention", json!(true)),
        ("tiny-gemma3", "layer_types", json!(["full_attention"])),
        (
            "tiny-gemma3",
            "layer_types",
            json!(["full_attention", "chunked_attention", "a", "b"]),
        ),
        ("tiny-gemma3", "sliding_window", json!(0)),
    ];
    let empty = with_config("tiny-gemma3", |config| {
        *config = json!({"model_type": "gemma3"});
    });
    let message = read_config(empty.path()).unwrap_err().to_string();
    assert!(message.contains("text_config"), "{message}");
    for (name, field, value) in cases {
        let folder = with_config(name, |config| config[field] = value.clone());
        let message = read_config(folder.path()).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{field}: {message}");
        assert!(message.contains(field), "{field}: {message}");
    }
    let folder = with_config("tiny-gemma3", |config| {
        remove(config, &["layer_types", "_sliding_window_pattern"]);
        config["sliding_window_pattern"] = json!(0);
    });
    let message = read_config(folder.path()).unwrap_err().to_string();
    assert!(message.contains("sliding_window_pattern"), "{message}");
    let folder = with_config("tiny-gemma3", |config| {
        config["rope_parameters"]["sliding_attention"]["rope_type"] = json!("yarn");
    });
    let message = read_config(folder.path()).unwrap_err().to_string();
    assert!(message.contains("sliding_attention.rope_type"), "{message}");
    let folder = with_config("tiny-qwen3", |config| {
        config["rope_parameters"]["rope_type"] = json!("yarn");
    });
    let message = read_config(folder.path()).unwrap_err().to_string();
    assert!(message.contains("rope_type"), "{message}");
    // Without its biases a Qwen2 is no Qwen2.
    let folder = with_config("tiny-qwen3", |config| {
        config["model_type"] = json!("qwen2");
    });
    let message = Checkpoint::load(folder.path()).err().unwrap().to_string();
    assert!(message.contains("q_proj.bias"), "{message}");
}

#[test]
fn windows_begin_as_the_tokenizer_begins_a_text() {
    let plain = Checkpoint::load(&fixture("tiny-gemma3")).unwrap().tokenizer;
    assert_eq!(plain.text_start(), None);
    let folder = with_config("tiny-gemma3", |_| {});
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (start, text) = (
        json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
    );
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]},
        },
    });
    fs::write(&path, tokenizer.to_string()).unwrap();
    let starting = Checkpoint::load(folder.path()).unwrap().tokenizer;
    assert_eq!(starting.text_start(), Some(0));
    let passages = (0..200).map(|i| format!("the quick brown fox {i} jumps"));
    let text = TextSplits::new(passages, 1);
    let windows = |tokenizer| text.windows(Split::Test, tokenizer, 5, 32).unwrap();
    let (plain, starting) = (windows(&plain), windows(&starting));
    assert_eq!(plain.token_count(), starting.token_count());
    let (plain, starting) = (plain.first(33), starting.first(66));
    assert_eq!((starting[0], starting[33]), (0, 0));
    assert_eq!(starting[1..33], plain[..32]);
    assert_eq!(starting[34], plain[32]);
}

/// The tokenizer of small Gemma models has a token for images, and their embedding no row.
#[test]
fn an_added_token_may_lie_outside_the_vocabulary() {
    let folder = with_config("tiny-gemma3", |_| {});
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // The vocabulary has 315 tokens, the embedding 320 rows: the last of six has none.
    for id in 315..=320 {
        let mut added = tokenizer["added_tokens"][0].clone();
        (added["id"], added["content"]) = (json!(id), json!(format!("<image{id}>")));
        tokenizer["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(added);
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    let tokenizer = Checkpoint::load(folder.path()).unwrap().tokenizer;
    let ids = tokenizer.encode("a <image319>").unwrap();
    assert_eq!(ids.last(), Some(&319));
    let message = tokenizer.encode("a <image320>").unwrap_err().to_string();
    assert!(message.contains("token id 320"), "{message}");
}

#[test]
fn ordering_keeps_the_function() {
    for checkpoint in checkpoints() {
        let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
        let tokens: Vec<u32> = (5..45).collect();
        let before = logits(&unordered.full(), &tokens).unwrap();
        for importance in Importance::ALL {
            let is_differentiable = checkpoint.config.family == Family::Qwen2;
            if importance == Importance::Taylor && !is_differentiable {
                continue;
            }
            let recovery = Recovery::LeastSquares;
            let ordered = ordered(&checkpoint, &windows(1), importance, recovery);
            let after = logits(&ordered.full(), &tokens).unwrap();
            let difference = largest_difference(&before, &after);
            assert!(difference < 2e-4, "{difference}");
        }
    }
}

/// The same sub-network by zeroing columns of `o_proj` and `down_proj` in the full model.
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
    for checkpoint in checkpoints() {
        let importance = Importance::Fluctuation;
        let supernet = ordered(&checkpoint, &windows(1), importance, Recovery::None);
        let subnet = uneven(&checkpoint.config);
        let tokens: Vec<u32> = (100..150).collect();
        let sliced = logits(&supernet.cut(&subnet).unwrap(), &tokens).unwrap();
        let masked = masked(&checkpoint, &supernet, &subnet);
        let masked = Supernet::unordered(&checkpoint.config, masked);
        let masked = logits(&masked.full(), &tokens).unwrap();
        let difference = largest_difference(&sliced, &masked);
        assert!(difference < 2e-4, "{difference}");
    }
}

#[test]
fn pruned_and_removed_blocks_leave_their_mean_output() {
    // With a constant input the mean output is the output, so removal changes nothing.
    for checkpoint in checkpoints() {
        let constant = TokenWindows::from_tokens(&[7; 33 * 4], 32);
        for recovery in [Recovery::Bias, Recovery::LeastSquares] {
            let supernet = ordered(&checkpoint, &constant, Importance::Fluctuation, recovery);
            let full = logits(&supernet.full(), &[7; 32]).unwrap();
            let mut subnet = SubnetConfig::full(&checkpoint.config);
            subnet.layers[0].mlp = Some(MlpConfig::with_width(10));
            subnet.layers[0].attention = Some(AttentionConfig::with_groups(&checkpoint.config, 1));
            subnet.layers[1].mlp = None;
            subnet.layers[2].attention = None;
            let cut = logits(&supernet.cut(&subnet).unwrap(), &[7; 32]).unwrap();
            let difference = largest_difference(&full, &cut);
            assert!(difference < 5e-3, "{recovery:?}: {difference}");
        }
    }
}

#[test]
fn a_refit_is_closer_to_the_teacher_than_a_bias_and_a_bias_closer_than_nothing() {
    for checkpoint in checkpoints() {
        let tokens: Vec<u32> = (0..33 * 200).map(|i| i * i % 317 + i % 3).collect();
        let calibration = TokenWindows::from_tokens(&tokens, 32);
        let text = windows(2);
        let score = |recovery| {
            let importance = Importance::Fluctuation;
            let supernet = ordered(&checkpoint, &calibration, importance, recovery);
            let evaluator = Evaluator::new(&supernet, &text).unwrap();
            let mut subnet = SubnetConfig::full(&checkpoint.config);
            subnet.layers.last_mut().unwrap().mlp = Some(MlpConfig::with_width(48));
            let cut = supernet.cut(&subnet).unwrap();
            evaluator
                .perplexity_and_kl(&cut)
                .unwrap()
                .kl_divergence
                .unwrap()
        };
        let [none, bias, fitted] =
            [Recovery::None, Recovery::Bias, Recovery::LeastSquares].map(score);
        assert!(fitted < bias && bias < none, "{fitted} {bias} {none}");
    }
}

/// The text is several times as long as Gemma's window.
#[test]
fn decoding_step_by_step_equals_one_pass() {
    for checkpoint in checkpoints() {
        let recovery = Recovery::LeastSquares;
        let supernet = ordered(&checkpoint, &windows(1), Importance::Fluctuation, recovery);
        let model = &checkpoint.config;
        for config in [SubnetConfig::full(model), uneven(model)] {
            let subnet = supernet.cut(&config).unwrap();
            let tokens: Vec<u32> = (20..60).collect();
            let whole = logits(&subnet, &tokens).unwrap();
            let mut decoder = Decoder::new(&subnet, tokens.len()).unwrap();
            let mut last = decoder.feed(&tokens[..5]).unwrap();
            for (position, token) in tokens.iter().enumerate().skip(5) {
                let want = &whole[(position - 1) * 320..position * 320];
                assert!(largest_difference(&last, want) < 1e-3);
                last = decoder.feed(&[*token]).unwrap();
            }
        }
    }
}

#[test]
fn a_calibration_is_read_back_with_its_means_and_refused_without() {
    let checkpoint = Checkpoint::load(&fixture("tiny-gemma3")).unwrap();
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let unordered = Supernet::unordered(model, weights.clone());
    let mut calibration = Calibration::measure(&unordered, &windows(1), |_| {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.safetensors");
    calibration.save(&path, "this text").unwrap();
    let stored = Calibration::load(&path, "this text").unwrap();
    assert_eq!(stored.as_ref(), Some(&calibration));
    let ordered = |calibration: &Calibration| {
        let order = ImportanceOrder::identity(model);
        Supernet::ordered(
            model,
            weights.clone(),
            calibration.clone(),
            &order,
            Recovery::Bias,
        )
    };
    let digest = ordered(&calibration).unwrap().digest();
    let means = calibration.layers[1].normed_outputs.as_mut().unwrap();
    means.mlp[3] += 1.0;
    assert_ne!(ordered(&calibration).unwrap().digest(), digest);
    calibration.layers[1].normed_outputs.as_mut().unwrap().mlp[3] = f64::NAN;
    let message = ordered(&calibration).err().unwrap().to_string();
    assert!(message.contains("layer 1, mlp: channel 3"), "{message}");
    calibration.layers[1].normed_outputs = None;
    let message = ordered(&calibration).err().unwrap().to_string();
    assert!(message.contains("means of normed outputs"), "{message}");
}
