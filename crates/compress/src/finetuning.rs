//! Fine-tuning the super-network: the weights that all sub-networks share learn, through a few of them a
//! step, to answer as the full model does.

use std::sync::Arc;

use lathe_arch::SubnetConfig;
use lathe_supernet::{
    Engine, Evaluator, Split, StepReport, SupernetError, TokenWindows, TrainSettings, Trainer,
};
use serde::Serialize;

use crate::adapter::{Adapter, MANIFEST};
use crate::training::{MOST_TRAINING_TOKENS, Task, TrainingEvent, TrainingRun, Validation};
use crate::{Prepared, Sampler, Validated};

/// What to train, and how.
pub struct Finetuning<'a> {
    /// The model, ordered and calibrated.
    pub prepared: &'a Prepared,
    /// Which sub-networks a step is made on.
    pub sampler: &'a Sampler,
    /// What computes.
    pub engine: Arc<dyn Engine + 'a>,
    /// How they are trained; the number of steps follows from the run's length.
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
pub struct Finetuned {
    /// Steps made.
    pub steps: usize,
    /// Whether there are more to make: the user stopped it.
    pub is_interrupted: bool,
    /// Tokens trained on, those read again counted again, whatever number of networks read them.
    pub trained_tokens: usize,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// The networks that were validated.
    pub validated: Vec<Validated>,
}

impl Finetuning<'_> {
    /// Trains, and writes the adapter into the folder.
    ///
    /// # Errors
    /// When there is too little text, the training goes wrong (its last state is kept), or something
    /// cannot be read or written.
    pub fn run(self, watch: &mut dyn FnMut(TrainingEvent<'_>)) -> anyhow::Result<Finetuned> {
        self.run.check_folder(MANIFEST)?;
        watch(TrainingEvent::Preparing("reading the text", 0, 1));
        let text = self
            .prepared
            .training_windows(self.window_tokens, MOST_TRAINING_TOKENS)?;
        let held_out = self
            .prepared
            .windows(Split::Search, self.validation_tokens)?;
        let settings = TrainSettings {
            steps: self.run.length.steps(),
            sampling: Some(self.sampler.describe()),
            ..self.settings.clone()
        };
        let mut trainer = self.trainer(&text, &settings)?;
        watch(TrainingEvent::Preparing("scoring the full model", 0, 1));
        let mut drawn = Drawn {
            sampler: self.sampler,
            evaluator: Evaluator::on(self.engine.clone(), &self.prepared.supernet, &held_out)?,
            yardsticks: self.sampler.yardsticks()?,
        };
        let (is_interrupted, validated) = self.run.train(&mut trainer, &mut drawn, watch)?;
        if !is_interrupted {
            let settings = TrainSettings {
                steps: trainer.steps(),
                ..settings
            };
            let near = self.sampler.front()?;
            Adapter::write(self.run.folder, self.prepared, &near, &trainer, &settings)?;
            self.run.finish()?;
        }
        Ok(Finetuned {
            steps: trainer.steps_done(),
            is_interrupted,
            trained_tokens: trainer.steps_done() * trainer.tokens_per_step(),
            validation_tokens: held_out.token_count(),
            validated,
        })
    }

    fn trainer(
        &self,
        text: &TokenWindows,
        settings: &TrainSettings,
    ) -> Result<Trainer<'_>, SupernetError> {
        let supernet = &self.prepared.supernet;
        let trainer = match self.run.resume {
            true => Trainer::resume_of_supernet(&self.run.state(), supernet, text, settings),
            false => Trainer::of_supernet(supernet, text, settings.clone()),
        };
        Ok(trainer?.on(self.engine.clone()))
    }
}

/// Networks are drawn anew for every step.
struct Drawn<'e> {
    sampler: &'e Sampler,
    evaluator: Evaluator<'e>,
    yardsticks: Vec<(&'static str, SubnetConfig)>,
}

impl<'a> Task<'a> for Drawn<'_> {
    fn step(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<StepReport> {
        let networks = self.sampler.networks(trainer.steps_done())?;
        Ok(trainer.step_on(&networks)?)
    }

    fn validate(&mut self, trainer: &mut Trainer<'a>) -> anyhow::Result<Vec<Validation>> {
        let supernet = self.evaluator.supernet();
        let networks = self.yardsticks.iter();
        let networks = networks.map(|(name, config)| {
            let weights = trainer.weights_of(config)?;
            let subnet = weights.subnet(supernet, config)?;
            Ok((Some(*name), self.evaluator.perplexity_and_kl(&subnet)?))
        });
        networks.collect()
    }
}
