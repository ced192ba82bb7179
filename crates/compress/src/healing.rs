//! Healing one sub-network: its own weights learn to answer as the full model does.

use std::sync::Arc;

use lathe_arch::{Precision, SubnetConfig};
use lathe_supernet::{
    Engine, Evaluator, Parameters, Split, StepReport, TokenWindows, TrainSettings, Trainer,
};
use serde::Serialize;

use crate::Prepared;
use crate::artefact::{WEIGHTS, write_trained};
use crate::training::{MOST_TRAINING_TOKENS, Task, TrainingEvent, TrainingRun, Validation};

/// What to heal, and how.
pub struct Healing<'a> {
    /// The model, as [`Prepared::unpruned`] makes it: with its units in another order the full model
    /// rounds otherwise, and what is resumed would not be what was begun.
    pub prepared: &'a Prepared,
    /// The sub-network.
    pub config: &'a SubnetConfig,
    /// Its weights to begin with, in f32; those of an unfinished training are in the folder.
    pub weights: Option<Parameters>,
    /// What computes.
    pub engine: Arc<dyn Engine + 'a>,
    /// How it is trained; the number of steps follows from `length`.
    pub settings: TrainSettings,
    /// Tokens of a window of text.
    pub window_tokens: usize,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// How long, how often, and where.
    pub run: TrainingRun<'a>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Healed {
    /// Steps made.
    pub steps: usize,
    /// Whether there are more to make: the user stopped it.
    pub is_interrupted: bool,
    /// Tokens trained on, those read again counted again.
    pub trained_tokens: usize,
    /// Parameters of the sub-network.
    pub parameters: u64,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// Divergence from the full model before and after, in nats per token.
    pub validation_kl: [f64; 2],
    /// Perplexity before and after.
    pub validation_perplexity: [f64; 2],
}

impl Healing<'_> {
    /// Trains, and writes `subnet.yaml` and the weights beside it into the folder.
    ///
    /// # Errors
    /// When there is too little text, the training goes wrong (its last state is kept), or something
    /// cannot be read or written.
    pub fn run(mut self, watch: &mut dyn FnMut(TrainingEvent<'_>)) -> anyhow::Result<Healed> {
        self.run.check_folder(WEIGHTS)?;
        watch(TrainingEvent::Preparing("reading the text", 0, 1));
        let text = self
            .prepared
            .training_windows(self.window_tokens, MOST_TRAINING_TOKENS)?;
        let held_out = self
            .prepared
            .windows(Split::Search, self.validation_tokens)?;
        let weights = self.weights.take();
        let mut trainer = self.trainer(weights, &text)?;
        watch(TrainingEvent::Preparing("scoring the full model", 0, 1));
        let supernet = &self.prepared.supernet;
        let mut alone = Alone(Evaluator::on(self.engine.clone(), supernet, &held_out)?);
        let (is_interrupted, validated) = self.run.train(&mut trainer, &mut alone, watch)?;
        if !is_interrupted {
            let weights = self.run.folder.join(WEIGHTS);
            trainer.weights().save(&weights, supernet)?;
            write_trained(self.run.folder, self.config)?;
            self.run.finish()?;
        }
        let of_network = |of: fn(&crate::Validated) -> [f64; 2]| {
            let found = validated.first().map(of);
            found.unwrap_or([f64::NAN; 2])
        };
        Ok(Healed {
            steps: trainer.steps_done(),
            is_interrupted,
            trained_tokens: trainer.steps_done() * trainer.tokens_per_step(),
            parameters: self.config.parameters(self.prepared.model()),
            validation_tokens: held_out.token_count(),
            validation_kl: of_network(|network| network.kl),
            validation_perplexity: of_network(|network| network.perplexity),
        })
    }

    fn trainer(
        &self,
        weights: Option<Parameters>,
        text: &TokenWindows,
    ) -> anyhow::Result<Trainer<'_>> {
        let supernet = &self.prepared.supernet;
        // Rounded weights have no gradient: they are rounded again when they are used.
        let config = self.config.clone().with_precision(Precision::F32);
        let settings = TrainSettings {
            steps: self.run.length.steps(),
            ..self.settings.clone()
        };
        let trainer = match weights.filter(|_| !self.run.resume) {
            Some(weights) => Trainer::new(supernet, &config, weights, text, settings)?,
            None => {
                let path = self.run.state();
                Trainer::resume(&path, supernet, &config, text, &settings)?
            }
        };
        Ok(trainer.on(self.engine.clone()))
    }
}

/// One network alone is trained.
struct Alone<'e>(Evaluator<'e>);

impl<'a> Task<'a> for Alone<'_> {
    fn step(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<StepReport> {
        Ok(trainer.step()?)
    }

    fn validate(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<Vec<Validation>> {
        let quality = self.0.perplexity_and_kl(&trainer.subnet()?)?;
        Ok(vec![(None, quality)])
    }
}
