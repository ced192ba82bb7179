use std::path::Path;
use std::sync::Arc;

use lathe_arch::SubnetConfig;

use super::adamw::{Moments, Update, norm};
use super::adapters::Adapters;
use super::losses::{Losses, STEPS_OF_MANY, STEPS_OF_ONE};
use super::order::Order;
use super::schedule;
use super::settings::TrainSettings;
use super::slicing::Slicing;
use super::state::State;
use super::sums::GradientSums;
use super::teacher::Teacher;
use super::trainable::Trainable;
use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::{Cpu, forward};
use crate::evaluate::check_tokens;
use crate::gradient::check_differentiable;
use crate::network::{Distillation, Engine, HeadLoss, Lesson};
use crate::parameters::Parameters;
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Tokens run together: bounds the memory of the activations, which are kept for the way back.
const BATCH_TOKENS: usize = 1024;
/// Added to a loss before its logarithm is taken: the full model's is zero at first.
const BALANCE_NATS: f64 = 0.05;
/// Windows of that size which are run together.
pub(super) fn windows_together(window_tokens: usize) -> usize {
    (BATCH_TOKENS / window_tokens.max(1)).max(1)
}

const SAME_KIND: &str = "a gradient is made of what it is of";

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Steps made, this one included.
    pub step: usize,
    /// The loss per token in nats, before the step; of several networks their mean.
    pub loss: f64,
    /// That of each network.
    pub losses: Vec<f64>,
    /// The next token's part in nats, whatever its share.
    pub next_token_loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// Tokens that were read.
    pub tokens: usize,
}

/// Trains the weights of one sub-network, or those that all sub-networks share.
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
    engine: Arc<dyn Engine + 'a>,
    text: TokenWindows,
    teacher: Teacher<'a>,
    order: Order,
    config: SubnetConfig,
    state: State,
    /// The network as it is now, where that is not what is trained.
    merged: Option<Parameters>,
    gradient: Trainable,
    /// Where sub-networks are cut out of what is trained.
    shared: Option<Shared<'a>>,
}

/// What it takes to train weights through the sub-networks that share them.
struct Shared<'a> {
    slicing: Slicing<'a>,
    /// The gradient of the weights, where adapters are trained beside them.
    of_weights: Option<Parameters>,
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

    /// Begins with the weights of a whole super-network; [`Self::step_on`] then trains what some of its
    /// sub-networks have of them.
    ///
    /// # Errors
    /// When a setting or a token is out of range, or a window is longer than the model's context.
    pub fn of_supernet(
        supernet: &'a Supernet,
        text: &TokenWindows,
        settings: TrainSettings,
    ) -> Result<Self, SupernetError> {
        let full = supernet.full();
        let weights = Parameters::of(&full);
        Ok(Self::new(supernet, full.config(), weights, text, settings)?.shared())
    }

    /// Goes on with the weights of a whole super-network, as [`Self::resume`].
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub fn resume_of_supernet(
        path: &Path,
        supernet: &'a Supernet,
        text: &TokenWindows,
        settings: &TrainSettings,
    ) -> Result<Self, SupernetError> {
        let config = SubnetConfig::full(supernet.model());
        Ok(Self::resume(path, supernet, &config, text, settings)?.shared())
    }

    fn shared(mut self) -> Self {
        let is_beside = matches!(self.gradient, Trainable::LowRank(_));
        let weights = self.state.weights(self.merged.as_ref());
        self.shared = Some(Shared {
            slicing: Slicing::new(self.supernet),
            of_weights: is_beside.then(|| Parameters::zeros_like(weights)),
        });
        self
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
            engine: Arc::new(Cpu::new(supernet)),
            teacher: Teacher::new(supernet, windows),
            order: Order::new(state.settings.seed, windows),
            config: config.clone(),
            gradient: state.trained.zeros_like(),
            merged: state.base.clone(),
            state,
            shared: None,
        };
        trainer.merge();
        Ok(trainer)
    }

    /// Goes on with another engine for networks of the same super-network.
    pub fn on(mut self, engine: Arc<dyn Engine + 'a>) -> Self {
        self.engine = engine;
        self
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

    /// The gradient of the last step before it was clipped, tensor by tensor.
    pub fn gradient(&self) -> Vec<&[f32]> {
        let values = self.gradient.values().into_iter();
        values.map(|values| values.numbers).collect()
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

    /// One of the sub-networks of the super-network that is trained, as it is now; the network that is
    /// trained alone where that is asked for.
    ///
    /// # Errors
    /// When it does not fit the model, or cannot be cut from what is trained.
    pub fn weights_of(&mut self, config: &SubnetConfig) -> Result<Parameters, SupernetError> {
        let weights = self.state.weights(self.merged.as_ref());
        let Some(shared) = &mut self.shared else {
            weights.subnet(self.supernet, config)?;
            return Ok(weights.clone());
        };
        let slices = shared.slicing.slices(config)?;
        Ok(slices.cut(self.supernet.model(), weights))
    }

    /// What is trained by name, for a file that [`trained_weights`](super::trained_weights) reads.
    ///
    /// # Errors
    /// When the disk does not take the file.
    pub fn save_trained(&self, path: &Path) -> Result<(), SupernetError> {
        self.state.save_trained(path)
    }

    /// Makes one step.
    ///
    /// # Errors
    /// When the loss or its gradient is not a number, or the losses of the last steps are many times
    /// the lowest so far; the weights are then as they were before.
    pub fn step(&mut self) -> Result<StepReport, SupernetError> {
        let network = self.config.clone();
        self.step_on(std::slice::from_ref(&network))
    }

    /// Makes one step on the mean loss of some sub-networks, all on the same text.
    ///
    /// # Errors
    /// As [`Self::step`]; also when one of them is quantised, does not fit the model, or there is none.
    pub fn step_on(&mut self, networks: &[SubnetConfig]) -> Result<StepReport, SupernetError> {
        let settings = self.state.settings.clone();
        let step = self.state.step;
        let windows = self.order.windows(step, settings.windows_per_step);
        let tokens = self.tokens_per_step();
        let sums = self.differentiate(&windows, networks)?;
        let per_token =
            |of: fn(&HeadLoss) -> f64| sums.iter().map(move |sum| of(sum) / tokens as f64);
        let losses: Vec<f64> = per_token(|sum| sum.loss).collect();
        let loss = losses.iter().sum::<f64>() / sums.len() as f64;
        let next_token_loss = per_token(|sum| sum.next_token).sum::<f64>() / sums.len() as f64;
        if !settings.vectors {
            self.gradient.fill_vectors_zero();
        }
        let gradient_norm = norm(&self.gradient);
        let steps = match self.shared {
            Some(_) => STEPS_OF_MANY,
            None => STEPS_OF_ONE,
        };
        let of_networks = losses;
        let losses = self.state.losses.with(loss, steps);
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
            losses: of_networks,
            next_token_loss,
            learning_rate,
            gradient_norm,
            tokens: tokens * networks.len(),
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

    /// The gradient of the networks' mean loss on some windows, and the summed loss of each.
    fn differentiate(
        &mut self,
        windows: &[usize],
        networks: &[SubnetConfig],
    ) -> Result<Vec<HeadLoss>, SupernetError> {
        self.gradient.fill_zero();
        let weights = self.state.weights(self.merged.as_ref());
        let settings = &self.state.settings;
        let mut passes = Passes {
            engine: &*self.engine,
            teacher: &mut self.teacher,
            text: &self.text,
            share: settings.distill_share,
            temperature: settings.temperature,
            windows,
        };
        let Some(shared) = &mut self.shared else {
            let subnet = weights.subnet(self.supernet, &self.config)?;
            let mut sums = match (&self.state.trained, &mut self.gradient) {
                (Trainable::LowRank(adapters), Trainable::LowRank(sums)) => {
                    GradientSums::LowRank(adapters.sums(sums))
                }
                (_, Trainable::Whole(sums)) => GradientSums::Whole(sums),
                (Trainable::Whole(_), Trainable::LowRank(_)) => unreachable!("{SAME_KIND}"),
            };
            return Ok(vec![passes.run(&subnet, &mut sums)?]);
        };
        let mut losses = Vec::new();
        let of_weights = match (&mut shared.of_weights, &mut self.gradient) {
            (Some(sums), _) => {
                sums.fill_zero();
                sums
            }
            (None, Trainable::Whole(sums)) => sums,
            (None, Trainable::LowRank(_)) => unreachable!("{SAME_KIND}"),
        };
        let (model, tokens) = (self.supernet.model(), passes.token_count());
        for config in networks {
            let slices = shared.slicing.slices(config)?;
            let own = slices.cut(model, weights);
            let subnet = own.subnet(self.supernet, config)?;
            check_differentiable(&subnet)?;
            let mut gradient = Parameters::zeros_like(&own);
            let loss = passes.run(&subnet, &mut GradientSums::Whole(&mut gradient))?;
            let scale = match settings.balance {
                true => 1.0 / (loss.loss / tokens as f64 + BALANCE_NATS),
                false => 1.0,
            };
            let scale = (scale / networks.len() as f64) as f32;
            slices.add_back(model, &gradient, scale, of_weights);
            losses.push(loss);
        }
        if let (Trainable::LowRank(adapters), Trainable::LowRank(sums), Some(of_weights)) =
            (&self.state.trained, &mut self.gradient, &shared.of_weights)
        {
            adapters.project(of_weights, sums);
        }
        Ok(losses)
    }
}

/// Passes of a step's text through networks.
struct Passes<'p, 'a> {
    engine: &'p dyn Engine,
    teacher: &'p mut Teacher<'a>,
    text: &'p TokenWindows,
    share: f32,
    temperature: f32,
    windows: &'p [usize],
}

impl Passes<'_, '_> {
    fn token_count(&self) -> usize {
        self.windows.len() * self.text.window_len()
    }

    /// Adds the gradient of a network's mean loss to `sums`, and returns the loss's sum.
    fn run(
        &mut self,
        subnet: &Subnet<'_>,
        sums: &mut GradientSums<'_>,
    ) -> Result<HeadLoss, SupernetError> {
        let network = self.engine.network(subnet)?;
        let weight = 1.0 / self.token_count() as f32;
        let mut loss = HeadLoss::default();
        for windows in self
            .windows
            .chunks(windows_together(self.text.window_len()))
        {
            let batch = self.text.batch(windows);
            let answers = match self.share > 0.0 {
                true => self.teacher.answers(self.engine, self.text, windows)?,
                false => Vec::new(),
            };
            let distillation = (self.share > 0.0).then_some(Distillation {
                normed: &answers,
                share: self.share,
                temperature: self.temperature,
            });
            let lesson = Lesson {
                embedded: forward::embed(subnet, &batch.inputs),
                seq_len: self.text.window_len(),
                targets: &batch.targets,
                weight,
                distillation,
            };
            loss += network.differentiate(lesson, sums)?;
        }
        Ok(loss)
    }
}

#[cfg(test)]
mod tests;
