//! What `train` and `heal` have in common.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use lathe_arch::{ModelConfig, SubnetConfig};
use lathe_compress::{MOST_TRAINING_TOKENS, TrainingEvent, TrainingLength, TrainingRun};
use lathe_supernet::{
    LoraSettings, TextNeeds, TrainSettings, TrainingMemory, step_flops, teacher_flops,
};
use serde::Serialize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::print_json;
use crate::arguments::{LessonArguments, TrainingArguments};
use crate::interrupt;
use crate::progress::Steps;

/// Learning rates by default, of all weights and of adapters.
const LEARNING_RATES: [f64; 2] = [3e-4, 3e-3];
const GIB: f64 = 1_073_741_824.0;
const GIGA: f64 = 1e9;
/// Stopped by Ctrl-C, as shells report it.
const INTERRUPTED: u8 = 130;

impl LessonArguments {
    /// The text to train on, where it is not the calibration's.
    pub fn passages(&self) -> anyhow::Result<Option<Vec<String>>> {
        let passages = self.train_text.as_deref();
        passages.map(lathe_compress::read_text).transpose()
    }
}

impl TrainingArguments {
    /// How long, how often, and where.
    pub fn run(&self) -> TrainingRun<'_> {
        TrainingRun {
            length: match self.steps {
                Some(steps) => TrainingLength::Steps(steps),
                None => TrainingLength::Time(Duration::from_secs_f64(60.0 * self.minutes)),
            },
            save_every: self.save_every,
            validate_every: self.validate_every,
            folder: &self.out,
            resume: self.resume,
            pause_at: None,
            is_interrupted: &interrupt::is_asked,
        }
    }

    /// How much text there is at most.
    fn text(&self, model: &ModelConfig) -> TextNeeds {
        TextNeeds {
            window_tokens: self.window_tokens.min(model.max_position_embeddings),
            training_tokens: MOST_TRAINING_TOKENS,
            validation_tokens: self.validation_tokens,
        }
    }

    /// Everything else, of steps in windows of `window_tokens`.
    pub fn settings(&self, window_tokens: usize) -> TrainSettings {
        let lora = self.rank.map(|rank| LoraSettings {
            rank,
            alpha: self.alpha.unwrap_or(2.0 * rank as f64),
            targets: self.targets.clone(),
        });
        let learning_rate = LEARNING_RATES[usize::from(lora.is_some())];
        TrainSettings {
            steps: None,
            warmup_steps: self.warmup_steps,
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            weight_decay: self.weight_decay,
            clip: self.clip,
            windows_per_step: self.batch_tokens.div_ceil(window_tokens),
            distill_share: self.lesson.distill_share,
            temperature: self.lesson.temperature as f32,
            seed: self.seed,
            lora,
            vectors: !self.freeze_vectors,
            sampling: None,
            balance: true,
        }
    }
}

/// What a training takes.
#[derive(Serialize)]
pub struct Needs {
    /// At most.
    total_bytes: u64,
    memory: TrainingMemory,
    /// Tokens of text a step.
    step_tokens: usize,
    /// Floating point operations of a step.
    step_flops: u64,
    /// Those of the teacher that come on top the first time over the text.
    teacher_flops: u64,
}

impl Needs {
    /// Of one network.
    pub fn of_network(
        model: &ModelConfig,
        network: &SubnetConfig,
        settings: &TrainSettings,
        training: &TrainingArguments,
    ) -> Self {
        let text = training.text(model);
        let memory = TrainingMemory::of_network(model, network, settings, &text);
        Self::of(model, &memory, [network], 1, settings, &text)
    }

    /// Of all, by the networks of the first `steps` steps.
    pub fn of_supernet(
        model: &ModelConfig,
        networks: &[SubnetConfig],
        steps: usize,
        settings: &TrainSettings,
        training: &TrainingArguments,
    ) -> Self {
        let text = training.text(model);
        let memory = TrainingMemory::of_supernet(model, networks, settings, &text);
        Self::of(model, &memory, networks, steps, settings, &text)
    }

    fn of<'n>(
        model: &ModelConfig,
        memory: &TrainingMemory,
        networks: impl IntoIterator<Item = &'n SubnetConfig>,
        steps: usize,
        settings: &TrainSettings,
        text: &TextNeeds,
    ) -> Self {
        let flops = step_flops(model, networks, settings, text.window_tokens);
        Self {
            total_bytes: memory.total_bytes(),
            memory: *memory,
            step_tokens: settings.windows_per_step * text.window_tokens,
            step_flops: flops / steps as u64,
            teacher_flops: teacher_flops(model, settings, text.window_tokens),
        }
    }

    /// Refuses what this machine cannot hold.
    pub fn check(&self) -> anyhow::Result<()> {
        let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
        // Where the machine does not tell, nothing is refused.
        let machine = System::new_with_specifics(kind).ok();
        let there = machine.map_or(0, |machine| machine.total_memory() + machine.total_swap());
        ensure!(
            there == 0 || self.total_bytes <= there,
            "the training takes {:.1} GiB and this machine has {:.1}: train adapters (--rank), fewer tokens a step (--batch-tokens), or a smaller model (--estimate says what for)",
            self.total_bytes as f64 / GIB,
            there as f64 / GIB
        );
        Ok(())
    }

    /// Tells them.
    pub fn print(&self, json: bool) -> anyhow::Result<ExitCode> {
        if json {
            print_json(self)?;
            return Ok(ExitCode::SUCCESS);
        }
        let memory = &self.memory;
        println!(
            "{:<41} {:>9.3} GiB",
            "memory at most",
            self.total_bytes as f64 / GIB
        );
        for (what, bytes) in [
            ("the full model's weights", memory.model_bytes),
            ("what is trained", memory.trained_bytes),
            ("its gradient", memory.gradient_bytes),
            ("AdamW's moments", memory.moment_bytes),
            ("a sub-network and its gradient", memory.network_bytes),
            ("maps of refits", memory.map_bytes),
            ("activations", memory.activation_bytes),
            ("the full model's answers, kept", memory.teacher_bytes),
            ("the full model's validation, kept", memory.validation_bytes),
        ] {
            println!("  {what:<39} {:>9.3} GiB", bytes as f64 / GIB);
        }
        println!(
            "{:<41} {:>9.0} GFLOP on {} tokens",
            "arithmetic of a step",
            self.step_flops as f64 / GIGA,
            self.step_tokens
        );
        println!(
            "  {:<39} {:>9.0} GFLOP",
            "the first time over a text besides",
            self.teacher_flops as f64 / GIGA
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows what is being done.
pub fn show(steps: &mut Steps, label: &str, event: &TrainingEvent<'_>) {
    match event {
        TrainingEvent::Preparing(label, done, total) => steps.show(label, *done, *total),
        TrainingEvent::Trained {
            report,
            steps: in_all,
            tokens_per_second,
            validation_kl,
        } => {
            let in_all = in_all.unwrap_or(0).max(report.step + 1);
            steps.show(label, report.step, in_all);
            let validations: Vec<String> =
                validation_kl.iter().map(|v| format!("{v:.4}")).collect();
            steps.note(&format!(
                "loss {:.4}, validation {}, {tokens_per_second:.0} tokens/s",
                report.loss,
                validations.join(" ")
            ));
        }
    }
}

/// How the program ends.
pub fn exit_code(is_interrupted: bool) -> ExitCode {
    match is_interrupted {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    }
}
