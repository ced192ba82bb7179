//! What ONNX Runtime computes is what the super-network computes.

use std::path::Path;

use lathe_agent::{GenerateJob, SessionConfig};
use lathe_arch::{AttentionConfig, BlockShape, MlpConfig, Precision, SubnetConfig};
use lathe_export::export_onnx;
use lathe_onnx::{
    BlockKind, LogitRows, MODEL_FILE, Network, RandomWeights, TensorRole, WeightSource,
    write_network,
};
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
    generate_in(folder.path(), prompt, steps)
}

/// The same with the model in `folder`.
fn generate_in(folder: &Path, prompt: &[u32], steps: usize) -> (Vec<i64>, Vec<f32>) {
    let file = folder.join("logits");
    let mut agent = Agent::start(&lathe_tests::agent()).unwrap();
    let generated = agent
        .generate(GenerateJob {
            model: folder.join(MODEL_FILE),
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
/// The super-network scores what the runtime computes: it is nearer to it than either is to f32.
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
        let distance = |a: &[f32], b: &[f32]| {
            assert_eq!(a.len(), b.len());
            let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
            squares.sum::<f32>().sqrt() / norm
        };
        let error = |precision: Precision| {
            let config = config.clone().with_precision(precision);
            let subnet = supernet.cut(&config).unwrap();
            let (_, theirs) = generate(&subnet, &prompt, 1);
            let error = distance(&theirs, &exact);
            let between = distance(&theirs, &logits(&subnet, &prompt).unwrap());
            assert!(between < 0.4 * error, "{precision}: {between} {error}");
            error
        };
        let [int8, w8a8, int4] = [Precision::Int8, Precision::W8A8, Precision::Int4].map(error);
        assert!(0.0 < int8 && int8 < 0.1, "int8 is off by {int8}");
        assert!(int8 < w8a8 && w8a8 < 0.3, "w8a8 is off by {w8a8}");
        assert!(w8a8 < int4 && int4 < 0.9, "int4 is off by {int4}");
    }
}

/// Random weights, but nothing leaves the neurons of an MLP.
struct SilentNeurons<'a>(RandomWeights<'a>);

impl WeightSource for SilentNeurons<'_> {
    fn tensor(&self, role: TensorRole) -> Vec<f32> {
        let mut values = self.0.tensor(role);
        if matches!(role, TensorRole::UpProj(_)) {
            values.fill(0.0);
        }
        values
    }

    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>> {
        self.0.output_bias(layer, block)
    }
}

/// A row of zeros has no scale.
#[test]
fn rows_of_zeros_stay_zero_in_w8a8() {
    let (checkpoint, _) = lathe_tests::tiny();
    let model = &checkpoint.config;
    let logits = |precision| {
        let mlp = MlpConfig {
            precision,
            ..MlpConfig::full(model)
        };
        let subnet = SubnetConfig::uniform(model, None, Some(mlp));
        let weights = SilentNeurons(RandomWeights {
            model,
            subnet: &subnet,
            seed: 5,
        });
        let network = Network {
            model,
            subnet: &subnet,
            weights: &weights,
            logit_rows: LogitRows::All,
        };
        let folder = tempfile::tempdir().unwrap();
        write_network(folder.path(), &network).unwrap();
        generate_in(folder.path(), &[3, 77, 12], 2).1
    };
    let (w8a8, f32) = (logits(Precision::W8A8), logits(Precision::F32));
    assert_eq!(w8a8.len(), f32.len());
    for (w8a8, f32) in w8a8.iter().zip(&f32) {
        assert!(
            (w8a8 - f32).abs() <= 1e-5 * f32.abs().max(1.0),
            "{w8a8} {f32}"
        );
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
        let precisions = [Precision::F32, Precision::Int8, Precision::W8A8];
        let blocks: Vec<BlockShape> = precisions
            .iter()
            .flat_map(|precision| sizes.map(|block| block.with_precision(*precision)))
            .collect();
        let work = tempfile::tempdir().unwrap();
        let found = check_structure(&lathe_tests::agent(), model, &blocks, 1, work.path()).unwrap();
        assert_eq!(found.len(), precisions.len());
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
