//! What `train` and `heal` have in common.

use std::process::ExitCode;
use std::time::Duration;

use lathe_compress::{TrainingEvent, TrainingLength, TrainingRun};
use lathe_supernet::{LoraSettings, TrainSettings};

use crate::arguments::TrainingArguments;
use crate::interrupt;
use crate::progress::Steps;

/// Learning rates by default, of all weights and of adapters.
const LEARNING_RATES: [f64; 2] = [3e-4, 3e-3];
/// Stopped by Ctrl-C, as shells report it.
const INTERRUPTED: u8 = 130;

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
            is_interrupted: &interrupt::is_asked,
        }
    }

    /// The text to train on, where it is not the calibration's.
    pub fn passages(&self) -> anyhow::Result<Option<Vec<String>>> {
        let passages = self.train_text.as_deref();
        passages.map(lathe_compress::read_text).transpose()
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
            distill_share: self.distill_share,
            temperature: self.temperature,
            seed: self.seed,
            lora,
            vectors: !self.freeze_vectors,
            sampling: None,
            balance: true,
        }
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
