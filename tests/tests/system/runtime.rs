//! What ONNX Runtime computes is what the super-network computes.

use lathe_agent::{GenerateJob, SessionConfig};
use lathe_arch::{AttentionConfig, BlockShape, MlpConfig, Precision, SubnetConfig};
use lathe_export::export_onnx;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::{Agent, ProfilerError, check_structure};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Decoder, Recovery, Subnet, Supernet, logits};

/// Logits may differ by this share of the largest logit of their row: both sides sum hundreds of
/// f32 products in different orders.
const TOLERANCE: f32 = 1e-3;

/// Exports and generates with the runtime: the tokens, and every row of logits of the prefill and
/// of each step after it.
fn generate(subnet: &Subnet<'_>, prompt: &[u32], steps: usize) -> (Vec<i64>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    export_onnx(folder.path(), subnet, None, LogitRows::All).unwrap();
    let file = folder.path().join("logits");
    let mut agent = Agent::start(&lathe_tests::agent()).unwrap();
    let generated = agent
        .generate(GenerateJob {
            model: folder.path().join(MODEL_FILE),
            session: SessionConfig { threads: 2 },
            prompt: prompt.iter().map(|token| i64::from(*token)).collect(),
            max_new_tokens: steps,
            logits: Some(file.clone()),
        })
        .unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let numbers = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (generated.tokens, numbers.collect())
}

/// Compares the runtime's logits with ours: all rows of the prefill, then each step of a decode
/// with the KV cache.
fn agrees(subnet: &Subnet<'_>, prompt: &[u32], steps: usize) {
    let (tokens, theirs) = generate(subnet, prompt, steps);
    let mut ours = logits(subnet, prompt).unwrap();
    let mut decoder = Decoder::new(subnet, prompt.len() + steps).unwrap();
    decoder.feed(prompt).unwrap();
    for token in &tokens[..steps - 1] {
        ours.extend(decoder.feed(&[*token as u32]).unwrap());
    }
    assert_eq!(ours.len(), theirs.len());
    let vocab = subnet.supernet().model().vocab_size;
    for (row, (ours, theirs)) in ours.chunks(vocab).zip(theirs.chunks(vocab)).enumerate() {
        let largest = ours.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(
                (ours - theirs).abs() <= TOLERANCE * largest,
                "row {row}: {ours} {theirs}"
            );
        }
    }
}

fn full_and_uneven(checkpoint: &Checkpoint, supernet: &Supernet, prompt: &[u32]) {
    let model = &checkpoint.config;
    for config in [SubnetConfig::full(model), lathe_tests::uneven(model)] {
        let subnet = supernet.cut(&config).unwrap();
        agrees(&subnet, prompt, 8);
    }
}

#[test]
fn the_tiny_model_agrees() {
    let (checkpoint, supernet) = lathe_tests::tiny();
    full_and_uneven(&checkpoint, &supernet, &[3, 77, 12, 300, 9]);
    let nothing = SubnetConfig::uniform(&checkpoint.config, None, None);
    agrees(&supernet.cut(&nothing).unwrap(), &[3, 77, 12], 3);
}

/// Quantised weights give nearly the logits of the f32 weights that they stand for, embedding and
/// head included. A product in blocks of 32 random weights loses 0.7 % in int8 and 8 % in int4, and
/// a token passes 22 products; logits that have nothing to do with the exact ones are off by 1.4.
#[test]
fn quantised_exports_stay_near_the_model() {
    let (checkpoint, supernet) = lathe_tests::tiny();
    quantised_stay_near(&checkpoint, &supernet);
}

fn quantised_stay_near(checkpoint: &Checkpoint, supernet: &Supernet) {
    let prompt = [3, 77, 12, 300, 9, 41];
    for config in [
        SubnetConfig::full(&checkpoint.config),
        lathe_tests::uneven(&checkpoint.config),
    ] {
        let (_, exact) = generate(&supernet.cut(&config).unwrap(), &prompt, 1);
        let norm = exact.iter().map(|v| v * v).sum::<f32>().sqrt();
        let error = |precision: Precision| {
            let config = config.clone().with_precision(precision);
            let (_, logits) = generate(&supernet.cut(&config).unwrap(), &prompt, 1);
            assert_eq!(logits.len(), exact.len());
            let squares = logits.iter().zip(&exact).map(|(a, b)| (a - b).powi(2));
            squares.sum::<f32>().sqrt() / norm
        };
        let (int8, int4) = (error(Precision::Int8), error(Precision::Int4));
        assert!(0.0 < int8 && int8 < 0.1, "int8 is off by {int8}");
        assert!(int8 < int4 && int4 < 0.9, "int4 is off by {int4}");
    }
}

/// Prompt and decode are each longer than Gemma's window of 8 tokens.
#[test]
fn other_families_agree() {
    for name in lathe_tests::OTHER_FAMILIES {
        let (checkpoint, supernet) = lathe_tests::tiny_of(name);
        let prompt: Vec<u32> = (0..19).map(|i| 3 + i * 41 % 300).collect();
        let model = &checkpoint.config;
        for config in [SubnetConfig::full(model), lathe_tests::uneven(model)] {
            agrees(&supernet.cut(&config).unwrap(), &prompt, 12);
        }
        agrees(&supernet.full(), &prompt[..3], 16);
        let nothing = SubnetConfig::uniform(model, None, None);
        agrees(&supernet.cut(&nothing).unwrap(), &[3, 77, 12], 3);
    }
}

#[test]
fn quantised_exports_of_other_families_stay_near_the_models() {
    for name in lathe_tests::OTHER_FAMILIES {
        let (checkpoint, supernet) = lathe_tests::tiny_of(name);
        quantised_stay_near(&checkpoint, &supernet);
    }
}

/// A network holds the operators of its blocks as they are priced, whatever the family.
#[test]
fn networks_of_other_families_are_the_sums_of_their_blocks() {
    for name in lathe_tests::OTHER_FAMILIES {
        let (checkpoint, _) = lathe_tests::tiny_of(name);
        let model = &checkpoint.config;
        let sizes = [
            BlockShape::Attention(AttentionConfig::full(model)),
            BlockShape::Attention(AttentionConfig::with_groups(model, 1)),
            BlockShape::Mlp(MlpConfig::full(model)),
            BlockShape::Mlp(MlpConfig::with_width(32)),
        ];
        let precisions = [Precision::F32, Precision::Int8];
        let blocks: Vec<BlockShape> = precisions
            .iter()
            .flat_map(|precision| sizes.map(|block| block.with_precision(*precision)))
            .collect();
        let work = tempfile::tempdir().unwrap();
        let found = check_structure(&lathe_tests::agent(), model, &blocks, 1, work.path()).unwrap();
        assert_eq!(found.len(), 2);
        for structure in found {
            let none: [String; 0] = [];
            assert_eq!(structure.differences, none, "{name}");
        }
    }
}

#[test]
fn the_real_model_agrees() {
    let checkpoint = lathe_tests::smollm2();
    let supernet = lathe_tests::calibrated(&checkpoint, 256, Recovery::LeastSquares);
    let prompt = checkpoint
        .tokenizer
        .encode("The capital of France is a city that")
        .unwrap();
    full_and_uneven(&checkpoint, &supernet, &prompt);
}

#[test]
fn the_agent_names_what_it_cannot_do_and_goes_on() {
    let mut agent = Agent::start(&lathe_tests::agent()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.onnx");
    std::fs::write(&garbage, b"not a model").unwrap();
    for model in [folder.path().join("missing.onnx"), garbage] {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let refused = agent.generate(GenerateJob {
            model,
            session: SessionConfig { threads: 1 },
            prompt: vec![1],
            max_new_tokens: 1,
            logits: None,
        });
        match refused {
            Err(ProfilerError::Refused { message }) => {
                assert!(message.contains(&name), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
    let (_, supernet) = lathe_tests::tiny();
    export_onnx(folder.path(), &supernet.full(), None, LogitRows::Last).unwrap();
    let generated = agent.generate(GenerateJob {
        model: folder.path().join(MODEL_FILE),
        session: SessionConfig { threads: 1 },
        prompt: vec![1, 2],
        max_new_tokens: 4,
        logits: None,
    });
    assert_eq!(generated.unwrap().tokens.len(), 4);
}

#[test]
fn a_library_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnot.so");
    std::fs::write(&library, b"no library").unwrap();
    let mut command = lathe_tests::agent();
    command.ort_lib = library;
    let message = Agent::start(&command).err().unwrap().to_string();
    assert!(message.contains("libnot.so"), "{message}");
}
