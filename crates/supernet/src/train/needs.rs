//! What a training takes, counted from sizes alone, before anything is loaded.

use std::collections::BTreeMap;

use lathe_arch::{FullShapes, LogitRows, ModelConfig, Phase, SubnetConfig};
use serde::Serialize;

use super::settings::TrainSettings;
use super::{slicing, teacher, trainer};
use crate::absorption::{absorbed_by, reach};
use crate::engine::head::ROWS;
use crate::parameters::shapes;
use crate::supernet::RefitKey;

/// Bytes of a number, all of which are f32.
const F32: u64 = 4;
/// Gradients that AdamW keeps averages of: itself and its square.
const MOMENTS: u64 = 2;

/// How much text a training reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextNeeds {
    /// Tokens of a window.
    pub window_tokens: usize,
    /// Tokens of all windows.
    pub training_tokens: usize,
    /// Tokens of a validation, for which the full model's residual streams are kept.
    pub validation_tokens: usize,
}

/// Memory of a training in bytes at the moment when it takes most, by what it is for: on the way back
/// through the last layer or the LM head of its dearest network. What the program itself takes and what
/// reading a checkpoint takes for a moment are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// Weights of the full model, which is the teacher.
    pub model_bytes: u64,
    /// What is trained: weights, or adapters with the weights they stand beside and the sums of both.
    pub trained_bytes: u64,
    /// Its gradient, and where adapters are trained through sub-networks that of the weights.
    pub gradient_bytes: u64,
    /// AdamW's moments.
    pub moment_bytes: u64,
    /// A sub-network that is cut out of what is trained, and its gradient.
    pub network_bytes: u64,
    /// Maps by which last matrices are refitted.
    pub map_bytes: u64,
    /// What the layers keep for the way back, and that itself.
    pub activation_bytes: u64,
    /// The full model's answers that are kept for the next time.
    pub teacher_bytes: u64,
    /// The full model's residual streams of a validation.
    pub validation_bytes: u64,
}

impl TrainingMemory {
    /// Of one network that is trained by itself.
    pub fn of_network(
        model: &ModelConfig,
        network: &SubnetConfig,
        settings: &TrainSettings,
        text: &TextNeeds,
    ) -> Self {
        let weights = numbers(model, network);
        let trained = trained_numbers(model, network, settings);
        let merged = if settings.lora.is_some() {
            2 * weights
        } else {
            0
        };
        Self {
            model_bytes: F32 * SubnetConfig::full(model).parameters(model),
            trained_bytes: F32 * (trained + merged),
            gradient_bytes: F32 * trained,
            moment_bytes: F32 * MOMENTS * trained,
            network_bytes: 0,
            map_bytes: 0,
            activation_bytes: activation_bytes(model, network, settings, text),
            teacher_bytes: teacher_bytes(model, settings, text),
            validation_bytes: validation_bytes(model, text),
        }
    }

    /// Of the weights that all sub-networks share, through `networks`, in turn.
    pub fn of_supernet<'n>(
        model: &ModelConfig,
        networks: impl IntoIterator<Item = &'n SubnetConfig>,
        settings: &TrainSettings,
        text: &TextNeeds,
    ) -> Self {
        let full = SubnetConfig::full(model);
        let mut memory = Self::of_network(model, &full, settings, text);
        if settings.lora.is_some() {
            memory.gradient_bytes += F32 * numbers(model, &full);
        }
        let mut kept = Maps::default();
        for network in networks {
            let of_network = F32 * 2 * numbers(model, network);
            let activations = activation_bytes(model, network, settings, text);
            if of_network + activations > memory.network_bytes + memory.activation_bytes
                || memory.network_bytes == 0
            {
                (memory.network_bytes, memory.activation_bytes) = (of_network, activations);
            }
            kept.add(model, network);
        }
        memory.map_bytes = kept.bytes();
        memory
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.model_bytes
            + self.trained_bytes
            + self.gradient_bytes
            + self.moment_bytes
            + self.network_bytes
            + self.map_bytes
            + self.activation_bytes
            + self.teacher_bytes
            + self.validation_bytes
    }
}

/// Floating point operations of a step on `networks`, two a multiply-accumulate: three passes' worth
/// through the layers (there, and back to inputs and to weights), two through the LM head, which is not
/// trained, and the teacher's LM head. The first time over a text its layers come on top:
/// [`teacher_flops`].
pub fn step_flops<'n>(
    model: &ModelConfig,
    networks: impl IntoIterator<Item = &'n SubnetConfig>,
    settings: &TrainSettings,
    window_tokens: usize,
) -> u64 {
    let tokens = (settings.windows_per_step * window_tokens) as u64;
    let head = 2 * (model.vocab_size * model.hidden_size) as u64 * tokens;
    let heads = if settings.distill_share > 0.0 { 3 } else { 2 };
    let flops = |network: &SubnetConfig| 3 * layer_flops(model, network, settings, window_tokens);
    let networks = networks.into_iter();
    networks.map(|network| flops(network) + heads * head).sum()
}

/// Floating point operations of the full model's answers to the text of a step, which are kept.
pub fn teacher_flops(model: &ModelConfig, settings: &TrainSettings, window_tokens: usize) -> u64 {
    match settings.distill_share > 0.0 {
        true => layer_flops(model, &SubnetConfig::full(model), settings, window_tokens),
        false => 0,
    }
}

fn layer_flops(
    model: &ModelConfig,
    network: &SubnetConfig,
    settings: &TrainSettings,
    window_tokens: usize,
) -> u64 {
    let phase = Phase::Prefill {
        batch: settings.windows_per_step,
        seq_len: window_tokens,
    };
    let head = network.head(LogitRows::Last).flops(model, &phase);
    network.flops(model, &phase) - head
}

/// Weights of a network but for the matrices at both ends, which are the full model's.
fn numbers(model: &ModelConfig, network: &SubnetConfig) -> u64 {
    let matrices = if model.tie_word_embeddings { 1 } else { 2 };
    network.parameters(model) - matrices * (model.vocab_size * model.hidden_size) as u64
}

/// Numbers that a step changes.
fn trained_numbers(model: &ModelConfig, network: &SubnetConfig, settings: &TrainSettings) -> u64 {
    let all = numbers(model, network);
    let Some(lora) = &settings.lora else {
        return all;
    };
    let matrices = shapes(model, network);
    let matrices = matrices.iter().filter(|(_, expected)| expected.shape.0 > 1);
    let (mut in_matrices, mut in_adapters) = (0, 0);
    for (role, expected) in matrices {
        let (inputs, outputs) = expected.shape;
        in_matrices += inputs * outputs;
        in_adapters += if lora.has(*role) {
            lora.rank * (inputs + outputs)
        } else {
            0
        };
    }
    all - in_matrices as u64 + in_adapters as u64
}

/// Between the way there and the way back, and at the end of the former.
fn activation_bytes(
    model: &ModelConfig,
    network: &SubnetConfig,
    settings: &TrainSettings,
    text: &TextNeeds,
) -> u64 {
    let windows = settings
        .windows_per_step
        .min(trainer::windows_together(text.window_tokens));
    let rows = windows * text.window_tokens;
    let hidden = model.hidden_size;
    let layers = network.layers.iter().map(|layer| {
        let attention = layer.attention.map_or(0, |block| {
            // What is mixed has the queries' shape.
            (2 * block.heads + 2 * block.kv_heads) * model.head_dim
        });
        let mlp = layer.mlp.map_or(0, |block| 2 * block.intermediate_size);
        2 * hidden + attention + mlp
    });
    let kept: usize = layers.sum::<usize>() * rows;
    // The stream, the teacher's and its norm, and the gradients of both; logits of both, a few at a time.
    let head = 5 * rows * hidden + 2 * ROWS.min(rows) * model.vocab_size;
    let last = network.layers.iter().rev().find_map(|layer| layer.mlp);
    let last = last.map_or(0, |block| block.intermediate_size);
    let back = 3 * rows * hidden + 2 * rows * last;
    F32 * (kept + head.max(back)) as u64
}

fn teacher_bytes(model: &ModelConfig, settings: &TrainSettings, text: &TextNeeds) -> u64 {
    match settings.distill_share > 0.0 {
        true => {
            let all = F32 * (text.training_tokens * model.hidden_size) as u64;
            all.min(teacher::KEPT_BYTES as u64)
        }
        false => 0,
    }
}

/// Before every layer and after the last norm.
fn validation_bytes(model: &ModelConfig, text: &TextNeeds) -> u64 {
    let streams = model.num_hidden_layers + 1;
    F32 * (streams * text.validation_tokens * model.hidden_size) as u64
}

/// The maps of networks that take turns.
#[derive(Default)]
struct Maps {
    /// Numbers by map.
    numbers: BTreeMap<RefitKey, u64>,
    /// Bytes of the network that has most.
    most: u64,
}

impl Maps {
    fn add(&mut self, model: &ModelConfig, network: &SubnetConfig) {
        let full = FullShapes::of(model);
        let mut of_network = 0;
        for (index, layer) in network.layers.iter().enumerate() {
            let attention = layer.attention.map_or([0, 0], |a| [a.heads, a.kv_heads]);
            let mlp = layer.mlp.map_or([0, 0], |m| [m.intermediate_size, 0]);
            let blocks = [
                (
                    full.is_attention_pruned(layer.attention),
                    attention,
                    model.head_dim,
                    full.attention.heads,
                ),
                (
                    full.is_mlp_pruned(layer.mlp),
                    mlp,
                    1,
                    full.mlp.intermediate_size,
                ),
            ];
            for (at, (is_pruned, kept, width, units)) in blocks.into_iter().enumerate() {
                let block = 2 * index + at;
                let absorbed = absorbed_by(&network.layers, block).min(reach(model, block));
                if kept[0] == 0 || !is_pruned && absorbed == 0 {
                    continue;
                }
                let channels = kept[0] * width;
                let outputs = if absorbed > 0 { model.hidden_size } else { 0 };
                let map = (channels * ((units - kept[0]) * width + outputs)) as u64;
                self.numbers.insert((block, kept, absorbed), map);
                of_network += F32 * map;
            }
        }
        self.most = self.most.max(of_network);
    }

    /// Those that are kept for the next time, or those of one network where it has more.
    fn bytes(&self) -> u64 {
        let all = F32 * self.numbers.values().sum::<u64>();
        all.min(self.most.max(slicing::KEPT_BYTES as u64))
    }
}
