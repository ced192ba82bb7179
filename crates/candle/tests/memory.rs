//! A training's memory, as the allocator tells it; on processors a device's memory is this.

use std::path::Path;
use std::sync::Arc;

use lathe_arch::ModelConfig;
use lathe_candle::{Candle, Dtype};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Parameters, Supernet, TokenWindows, TrainSettings, Trainer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const WINDOWS: usize = 16;
const WINDOW_TOKENS: usize = 32;

/// The tiny Llama with its layers over and over.
fn deep(layers: usize) -> (ModelConfig, Supernet) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let checkpoint = Checkpoint::load(&fixtures.join("tiny-llama")).unwrap();
    let (mut model, mut weights) = (checkpoint.config, checkpoint.weights);
    let own = std::mem::take(&mut weights.layers);
    weights.layers = own.iter().cycle().take(layers).cloned().collect();
    model.num_hidden_layers = layers;
    let supernet = Supernet::unordered(&model, weights);
    (model, supernet)
}

/// The most bytes that a step takes beside what a trainer holds.
fn step_bytes(supernet: &Supernet) -> f64 {
    let full = supernet.full();
    let settings = TrainSettings {
        steps: Some(2),
        windows_per_step: WINDOWS,
        distill_share: 0.0,
        ..TrainSettings::default()
    };
    let weights = Parameters::of(&full);
    let tokens: Vec<u32> = (0..WINDOWS * (WINDOW_TOKENS + 1))
        .map(|i| (i * 7919 % 320) as u32)
        .collect();
    let text = TokenWindows::from_tokens(&tokens, WINDOW_TOKENS);
    let trainer = Trainer::new(supernet, full.config(), weights, &text, settings).unwrap();
    let engine = Candle::new(supernet, Dtype::F32).unwrap();
    let mut trainer = trainer.on(Arc::new(engine));
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    trainer.step().unwrap();
    (ALLOCATOR.peak_usage() - before) as f64
}

#[test]
fn a_layer_more_takes_its_weights_and_one_residual_stream() {
    let (few, many) = (2, 6);
    let (model, shallow) = deep(few);
    // Threads and what they keep for products come with the first step.
    step_bytes(&shallow);
    let difference = step_bytes(&deep(many).1) - step_bytes(&shallow);
    let a_layer = difference / (many - few) as f64;
    let bytes = |numbers: usize| 4.0 * numbers as f64;
    let weights = bytes(Parameters::of(&shallow.full()).count() / few);
    let tokens = WINDOWS * WINDOW_TOKENS;
    let stream = bytes(tokens * model.hidden_size);
    // Gate, up and their product alone.
    let activations = bytes(3 * tokens * model.intermediate_size);
    let rest = a_layer - weights;
    assert!(rest < 1.1 * stream, "{rest} bytes, a stream has {stream}");
    assert!(rest < 0.5 * activations, "{rest} of {activations} bytes");
}
