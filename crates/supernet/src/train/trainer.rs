use std::path::Path;

use lathe_arch::SubnetConfig;

use super::adamw::{Moments, Update, norm};
use super::adapters::Adapters;
use super::losses::Losses;
use super::order::Order;
use super::schedule;
use super::settings::TrainSettings;
use super::state::State;
use super::teacher::Teacher;
use super::trainable::Trainable;
use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;
use crate::gradient::{
    Distillation, GradientSink, HeadLoss, LayerActivations, check_differentiable, loss_backward,
};
use crate::parameters::Parameters;
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations, which are kept for the way back.
const BATCH_TOKENS: usize = 1024;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps made, this one included.
    pub step: usize,
    /// The loss per token in nats, before the step.
    pub loss: f64,
    /// The next token's part in nats, whatever its share.
    pub next_token_loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// Tokens that were read.
    pub tokens: usize,
}

/// Trains the weights of one sub-network.
///
/// ```
/// use lathe_supernet::checkpoint::Checkpoint;
/// use lathe_supernet::{Parameters, Supernet, TokenWindows, TrainSettings, Trainer};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-llama");
/// let checkpoint = Checkpoint::load(path.as_ref())?;
/// let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights.clone());
/// let text = TokenWindows::from_tokens(&[5, 3, 8, 1, 7, 2, 6, 4], 3);
/// let settings = TrainSettings {
///     steps: Some(2),
///     distill_share: 0.5,
///     ..TrainSettings::default()
/// };
/// let full = supernet.full();
/// let weights = Parameters::of(&full);
/// let mut trainer = Trainer::new(&supernet, full.config(), weights, &text, settings)?;
/// while !trainer.is_done() {
///     println!("{:?}", trainer.step()?);
/// }
/// let trained = trainer.subnet()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trainer<'a> {
    supernet: &'a Supernet,
    text: TokenWindows,
    rope: RopeTable,
    teacher: Teacher<'a>,
    order: Order,
    config: SubnetConfig,
    state: State,
    /// The network as it is now, where that is not what is trained.
    merged: Option<Parameters>,
    gradient: Trainable,
}

impl<'a> Trainer<'a> {
    /// Begins with `weights`, of a sub-network of `config`, which has to be in f32.
    ///
    /// # Errors
    /// When a block is quantised, a setting or a token is out of range, or a window is longer than the model's context.
    pub fn new(
        supernet: &'a Supernet,
        config: &SubnetConfig,
        weights: Parameters,
        text: &TokenWindows,
        settings: TrainSettings,
    ) -> Result<Self, SupernetError> {
        settings.check()?;
        check_differentiable(&weights.subnet(supernet, config)?)?;
        let (base, trained) = match &settings.lora {
            None => (None, Trainable::Whole(weights)),
            Some(lora) => {
                let adapters = Adapters::new(&weights, lora, settings.seed);
                (Some(weights), Trainable::LowRank(adapters))
            }
        };
        let state = State {
            moments: Moments::new(&trained),
            trained,
            base,
            step: 0,
            losses: Losses::default(),
            settings,
        };
        Self::of(supernet, config, text, state)
    }

    /// Goes on from what [`Self::save`] wrote, of a sub-network of `config`. Where `settings` has no
    /// number of steps, that of the file stands.
    ///
    /// # Errors
    /// When the file cannot be read, or was made with other settings, of another text, model or
    /// sub-network.
    pub fn resume(
        path: &Path,
        supernet: &'a Supernet,
        config: &SubnetConfig,
        text: &TokenWindows,
        settings: &TrainSettings,
    ) -> Result<Self, SupernetError> {
        settings.check()?;
        let state = State::load(path, supernet, config, text, settings)?;
        Self::of(supernet, config, text, state)
    }

    fn of(
        supernet: &'a Supernet,
        config: &SubnetConfig,
        text: &TokenWindows,
        state: State,
    ) -> Result<Self, SupernetError> {
        check_tokens(supernet, text.tokens(), text.window_len())?;
        let windows = text.window_count();
        if windows == 0 {
            return Err(SupernetError::TooLittleText {
                split: "training",
                found: 0,
                window: text.window_len(),
                wanted: 1,
            });
        }
        let mut trainer = Self {
            supernet,
            text: text.clone(),
            rope: RopeTable::new(supernet.model(), text.window_len()),
            teacher: Teacher::new(supernet, windows),
            order: Order::new(state.settings.seed, windows),
            config: config.clone(),
            gradient: state.trained.zeros_like(),
            merged: state.base.clone(),
            state,
        };
        trainer.merge();
        Ok(trainer)
    }

    /// Steps made.
    pub fn steps_done(&self) -> usize {
        self.state.step
    }

    /// Steps in all, where that is known.
    pub fn steps(&self) -> Option<usize> {
        self.state.settings.steps
    }

    /// Says how many steps there will be. Has no effect on those of the warm-up.
    pub fn set_steps(&mut self, steps: usize) {
        self.state.settings.steps = Some(steps);
    }

    /// Whether nothing looks as if the training went wrong: its state is worth keeping.
    pub fn is_sound(&self) -> bool {
        !self.state.losses.is_last_high()
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.steps().is_some_and(|steps| self.state.step >= steps)
    }

    /// Tokens read in a step.
    pub fn tokens_per_step(&self) -> usize {
        self.state.settings.windows_per_step * self.text.window_len()
    }

    /// The weights as they are now, adapters merged.
    pub fn weights(&self) -> &Parameters {
        self.state.weights(self.merged.as_ref())
    }

    /// The sub-network as it is now.
    ///
    /// # Errors
    /// Never: what was cut fits its model.
    pub fn subnet(&self) -> Result<Subnet<'_>, SupernetError> {
        self.weights().subnet(self.supernet, &self.config)
    }

    /// Writes all that the next step depends on, whole or not at all.
    ///
    /// # Errors
    /// When the disk does not take the file.
    pub fn save(&self, path: &Path) -> Result<(), SupernetError> {
        self.state
            .save(path, self.supernet, &self.config, &self.text)
    }

    /// Makes one step.
    ///
    /// # Errors
    /// When the loss or its gradient is not a number, or the losses of the last steps are many times
    /// the lowest so far; the weights are then as they were before.
    pub fn step(&mut self) -> Result<StepReport, SupernetError> {
        let settings = self.state.settings.clone();
        let step = self.state.step;
        let windows = self.order.windows(step, settings.windows_per_step);
        let tokens = self.tokens_per_step();
        let sum = self.differentiate(&windows)?;
        let (loss, next_token_loss) = (sum.loss / tokens as f64, sum.next_token / tokens as f64);
        let gradient_norm = norm(&self.gradient);
        let losses = self.state.losses.with(loss);
        let Some(losses) = losses.filter(|_| gradient_norm.is_finite()) else {
            return Err(SupernetError::Diverged {
                step: step + 1,
                loss,
                lowest: self.state.losses.lowest(),
            });
        };
        let share = schedule::share(step, settings.warmup_steps, settings.steps);
        let learning_rate = settings.learning_rate * share;
        let update = Update {
            step,
            learning_rate,
            weight_decay: settings.weight_decay,
            scale: (settings.clip / gradient_norm.max(f64::MIN_POSITIVE)).min(1.0),
        };
        let State {
            moments, trained, ..
        } = &mut self.state;
        moments.apply(trained, &self.gradient, &update);
        self.merge();
        self.state.step += 1;
        self.state.losses = losses;
        Ok(StepReport {
            step: step + 1,
            loss,
            next_token_loss,
            learning_rate,
            gradient_norm,
            tokens,
        })
    }

    /// Brings the network up to date with its adapters.
    fn merge(&mut self) {
        if let (Trainable::LowRank(adapters), Some(base), Some(merged)) =
            (&self.state.trained, &self.state.base, &mut self.merged)
        {
            adapters.merge(base, merged);
        }
    }

    /// The gradient of the mean loss on some windows, and the summed loss.
    fn differentiate(&mut self, windows: &[usize]) -> Result<HeadLoss, SupernetError> {
        let subnet = self
            .state
            .weights(self.merged.as_ref())
            .subnet(self.supernet, &self.config)?;
        let settings = &self.state.settings;
        let mut pass = Pass {
            subnet: &subnet,
            teacher: &mut self.teacher,
            text: &self.text,
            rope: &self.rope,
            share: settings.distill_share,
            temperature: settings.temperature,
            weight: 1.0 / (windows.len() * self.text.window_len()) as f32,
        };
        self.gradient.fill_zero();
        let together = (BATCH_TOKENS / self.text.window_len().max(1)).max(1);
        let mut loss = HeadLoss::default();
        for windows in windows.chunks(together) {
            loss += match (&self.state.trained, &mut self.gradient) {
                (Trainable::LowRank(adapters), Trainable::LowRank(sums)) => {
                    pass.run(windows, &mut adapters.sink(sums))
                }
                (_, Trainable::Whole(sums)) => pass.run(windows, sums),
                (Trainable::Whole(_), Trainable::LowRank(_)) => {
                    unreachable!("a gradient was made of what it is of")
                }
            };
        }
        Ok(loss)
    }
}

/// There and back through a network.
struct Pass<'p, 'a> {
    subnet: &'p Subnet<'p>,
    teacher: &'p mut Teacher<'a>,
    text: &'p TokenWindows,
    rope: &'p RopeTable,
    share: f32,
    temperature: f32,
    /// What a token's loss counts.
    weight: f32,
}

impl Pass<'_, '_> {
    /// Runs some windows together, tells `sink` the gradients, and returns the summed loss.
    fn run(&mut self, windows: &[usize], sink: &mut dyn GradientSink) -> HeadLoss {
        let (subnet, rope, seq_len) = (self.subnet, self.rope, self.text.window_len());
        let batch = self.text.batch(windows);
        let answers = match self.share > 0.0 {
            true => self.teacher.answers(self.text, windows, rope),
            false => Vec::new(),
        };
        let mut x = forward::embed(subnet, &batch.inputs);
        let mut layers = Vec::new();
        for layer in 0..subnet.supernet().model().num_hidden_layers {
            let activations = LayerActivations::new(subnet, layer, x, seq_len, rope);
            x = activations.output(subnet, layer);
            layers.push(activations);
        }
        let distillation = (self.share > 0.0).then_some(Distillation {
            teacher: &self.teacher.net,
            normed: &answers,
            share: self.share,
            temperature: self.temperature,
        });
        let targets = &batch.targets;
        let (loss, mut d) = loss_backward(subnet, &x, targets, distillation, self.weight, sink);
        for (layer, activations) in layers.into_iter().enumerate().rev() {
            activations.backward(subnet, layer, &mut d, seq_len, rope, sink);
        }
        loss
    }
}

#[cfg(test)]
mod tests;
