//! Which of several networks heals best: a race.
//!
//! What a network loses when it is cut does not tell what it loses once it is healed, but a part of the
//! healing does. So all are healed for a part of the steps, the better half of them for twice as many, and so on
//! (successive halving, 1502.07943); the last is healed to the end. One whose training goes wrong drops out. All
//! read the same text in the same order, so they are held against each other by what they lost on it before they
//! learnt it, text by text: on far more of it than a validation has. At first the network is ahead that lost the
//! least when it was cut, and that lead goes; so the last two are healed for half of the steps. What each learns
//! in a leg is not learnt again: its training goes on, and the winner's is the one that it would have had alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use lathe_arch::SubnetConfig;
use lathe_profiler::statistics::{mean, median};
use lathe_supernet::{Engine, Parameters, SupernetError, TrainSettings};
use serde::Serialize;

use crate::artefact::{SUBNET, WEIGHTS, remove_file, write_yaml};
use crate::training::{METRICS, RACE, STATE, TrainingEvent, TrainingRun, losses, validation_at};
use crate::{Healed, Healing, Prepared};

/// What each begins with, in its own.
const BEGINNING: &str = "beginning.safetensors";

/// Several networks that are healed until one is left.
pub struct Race<'a> {
    /// The model, as [`Healing`] wants it.
    pub prepared: &'a Prepared,
    /// The networks; each is lined up before ([`Race::line_up`]).
    pub networks: &'a [SubnetConfig],
    /// What computes.
    pub engine: Arc<dyn Engine + 'a>,
    /// How they are trained.
    pub settings: TrainSettings,
    /// Tokens of a window of text.
    pub window_tokens: usize,
    /// Tokens of a validation.
    pub validation_tokens: usize,
    /// How long the winner is trained, how often all are validated, and where the winner goes.
    pub run: TrainingRun<'a>,
}

/// How far one network came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Leg {
    /// The network, counted from 0.
    pub network: usize,
    /// Its steps so far.
    pub steps: usize,
    /// Mean loss of the second half of them.
    pub training_loss: f64,
    /// Median, over the same steps, of its loss above the mean of all that are in the leg: by it networks are
    /// compared.
    pub excess_loss: f64,
    /// Divergence from the full model after them, in nats per token.
    pub validation_kl: f64,
    /// Perplexity after them.
    pub validation_perplexity: f64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Raced {
    /// All legs, in order.
    pub legs: Vec<Leg>,
    /// Networks whose training went wrong in a leg, and which dropped out so.
    pub went_wrong: Vec<usize>,
    /// The network that is left, counted from 0, where the race got so far.
    pub winner: Option<usize>,
    /// What healing made of it.
    pub healed: Option<Healed>,
}

impl Raced {
    /// Whether there is more to do: the user stopped it.
    pub fn is_interrupted(&self) -> bool {
        self.healed
            .as_ref()
            .is_none_or(|healed| healed.is_interrupted)
    }
}

/// How many networks `steps` steps allow a race of.
pub(crate) fn most_networks(steps: usize) -> usize {
    1 << steps.max(1).ilog2()
}

/// Steps after which half of `networks` drop out each time, the last after half of all `steps`.
fn rungs(steps: usize, networks: usize) -> anyhow::Result<Vec<usize>> {
    ensure!(networks > 1, "a race is between two networks at least");
    let rounds = networks.next_power_of_two().ilog2();
    ensure!(
        steps >> rounds > 0,
        "{steps} steps are too few for a race of {networks} networks: give at least {}",
        1 << rounds
    );
    Ok((0..rounds).map(|round| steps >> (rounds - round)).collect())
}

impl Race<'_> {
    /// Nothing that took long is overwritten: neither an unfinished race nor a finished one.
    ///
    /// # Errors
    /// When `folder` holds what must not be there, or nothing to resume.
    pub fn check_folder(folder: &Path, resume: bool) -> anyhow::Result<()> {
        let shown = folder.display();
        let [is_begun, has_state, is_made] =
            [RACE, STATE, WEIGHTS].map(|file| folder.join(file).exists());
        ensure!(
            has_state || !is_made,
            "{shown} holds a finished training: name another folder"
        );
        ensure!(
            is_begun || !has_state,
            "{shown} holds an unfinished training of one network: name another folder"
        );
        ensure!(
            resume || !is_begun,
            "{shown} holds an unfinished race: go on with --resume, or name another folder"
        );
        ensure!(
            is_begun || !resume,
            "{shown} holds no unfinished race: leave --resume away to begin one"
        );
        Ok(())
    }

    /// The file of the weights that a network begins with.
    pub fn beginning(folder: &Path, network: usize) -> PathBuf {
        folder_of(folder, network).join(BEGINNING)
    }

    /// Has a network, counted from 0, begin the race in `folder` with these weights, in f32.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn line_up(
        folder: &Path,
        network: usize,
        weights: &Parameters,
        prepared: &Prepared,
    ) -> anyhow::Result<()> {
        let path = Self::beginning(folder, network);
        let parent = folder_of(folder, network);
        fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
        Ok(weights.save(&path, &prepared.supernet)?)
    }

    /// Heals them, and writes the winner as [`Healing::run`] does. Metrics and choices of the others stay in
    /// `race`, a folder for each. `watch` is told the network, where it is one of several.
    ///
    /// # Errors
    /// As [`Healing::run`], where none is left that trains well; when there are too few steps; or when the
    /// folder holds the race of other networks.
    pub fn run(
        &self,
        watch: &mut dyn FnMut(Option<usize>, TrainingEvent<'_>),
    ) -> anyhow::Result<Raced> {
        let steps = self.run.length.steps();
        let steps = steps.context("a race needs a number of steps")?;
        let rungs = rungs(steps, self.networks.len())?;
        self.check_networks()?;
        let mut raced = Raced {
            legs: Vec::new(),
            went_wrong: Vec::new(),
            winner: None,
            healed: None,
        };
        let mut running: Vec<usize> = (0..self.networks.len()).collect();
        // Once the winner's state is its own, the race is over, and its legs are on record.
        for steps in rungs {
            let places = running.len().div_ceil(2);
            let (mut legs, mut losses) = (Vec::new(), Vec::new());
            let (mut is_interrupted, mut wrong) = (false, None);
            for &network in &running {
                match self.leg(network, steps, watch) {
                    Ok(Some((leg, of_steps))) => {
                        legs.push(leg);
                        losses.push(of_steps);
                    }
                    Ok(None) => {
                        is_interrupted = true;
                        break;
                    }
                    // Its last state stays: resumed, it goes wrong again at once.
                    Err(error) if is_divergence(&error) => {
                        raced.went_wrong.push(network);
                        wrong = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            for (leg, excess) in legs.iter_mut().zip(excess_losses(&losses)) {
                leg.excess_loss = excess;
            }
            raced.legs.extend(&legs);
            if is_interrupted {
                return Ok(raced);
            }
            if let (true, Some(error)) = (legs.is_empty(), wrong) {
                return Err(error);
            }
            legs.sort_by(|a, b| a.excess_loss.total_cmp(&b.excess_loss));
            for lost in legs.split_off(places.min(legs.len())) {
                remove_file(&folder_of(self.run.folder, lost.network).join(STATE))?;
            }
            running = legs.into_iter().map(|leg| leg.network).collect();
        }
        let winner = *running.first().context("a race without networks")?;
        raced.winner = Some(winner);
        raced.healed = Some(self.finish(winner, watch)?);
        Ok(raced)
    }

    /// The same networks as when it began.
    fn check_networks(&self) -> anyhow::Result<()> {
        for (network, config) in self.networks.iter().enumerate() {
            let path = folder_of(self.run.folder, network).join(SUBNET);
            if !path.exists() {
                write_yaml(&path, config)?;
                continue;
            }
            let begun = crate::read_subnet(&path, self.prepared.model())?;
            ensure!(
                begun.config == *config,
                "{} is another network: the race was begun with others",
                path.display()
            );
        }
        let more = folder_of(self.run.folder, self.networks.len());
        ensure!(
            !more.exists(),
            "{} is another network: the race was begun with more",
            more.display()
        );
        Ok(())
    }

    /// One network's training up to `steps`, and its losses in the second half of them; nothing when the user
    /// stopped it.
    fn leg(
        &self,
        network: usize,
        steps: usize,
        watch: &mut dyn FnMut(Option<usize>, TrainingEvent<'_>),
    ) -> anyhow::Result<Option<(Leg, Vec<f64>)>> {
        let folder = folder_of(self.run.folder, network);
        let known = || -> anyhow::Result<Option<(Leg, Vec<f64>)>> {
            let Some([validation_kl, validation_perplexity]) = validation_at(&folder, steps)?
            else {
                return Ok(None);
            };
            let losses = losses(&folder, steps / 2..=steps)?;
            let leg = Leg {
                network,
                steps,
                training_loss: mean(&losses),
                excess_loss: 0.0,
                validation_kl,
                validation_perplexity,
            };
            Ok(Some((leg, losses)))
        };
        if let Some(leg) = known()? {
            return Ok(Some(leg));
        }
        let run = TrainingRun {
            folder: &folder,
            resume: folder.join(STATE).exists(),
            pause_at: Some(steps),
            ..self.run
        };
        let path = Self::beginning(self.run.folder, network);
        let supernet = &self.prepared.supernet;
        let weights = (!run.resume)
            .then(|| Parameters::load(&path, supernet, &self.networks[network]))
            .transpose()?;
        let healing = self.healing(network, weights, run);
        let healed = healing.run(&mut |event| watch(Some(network), event))?;
        match healed.steps < steps {
            true => Ok(None),
            false => known(),
        }
    }

    /// The winner's training to the end, in the race's own folder.
    fn finish(
        &self,
        winner: usize,
        watch: &mut dyn FnMut(Option<usize>, TrainingEvent<'_>),
    ) -> anyhow::Result<Healed> {
        let (from, to) = (folder_of(self.run.folder, winner), self.run.folder);
        let state = from.join(STATE);
        if state.exists() {
            let failed = || state.display().to_string();
            fs::copy(from.join(METRICS), to.join(METRICS)).with_context(failed)?;
            fs::rename(&state, to.join(STATE)).with_context(failed)?;
        }
        let run = TrainingRun {
            resume: true,
            ..self.run
        };
        let healed = self
            .healing(winner, None, run)
            .run(&mut |event| watch(None, event))?;
        if !healed.is_interrupted {
            for network in 0..self.networks.len() {
                remove_file(&Self::beginning(self.run.folder, network))?;
                remove_file(&folder_of(self.run.folder, network).join(STATE))?;
            }
        }
        Ok(healed)
    }

    fn healing<'h>(
        &'h self,
        network: usize,
        weights: Option<Parameters>,
        run: TrainingRun<'h>,
    ) -> Healing<'h> {
        Healing {
            prepared: self.prepared,
            config: &self.networks[network],
            weights,
            engine: self.engine.clone(),
            settings: self.settings.clone(),
            window_tokens: self.window_tokens,
            validation_tokens: self.validation_tokens,
            run,
        }
    }
}

fn folder_of(folder: &Path, network: usize) -> PathBuf {
    folder.join(RACE).join((network + 1).to_string())
}

/// Of each network the median, over steps, of its loss above the mean of all. A text that only some of them
/// know badly, and much worse than all other, would decide by its mean.
fn excess_losses(losses: &[Vec<f64>]) -> Vec<f64> {
    let of = |network: &Vec<f64>| {
        let above = network.iter().enumerate().map(|(step, loss)| {
            let all = losses.iter().filter_map(|other| other.get(step));
            loss - mean(&all.copied().collect::<Vec<_>>())
        });
        median(&above.collect::<Vec<_>>())
    };
    losses.iter().map(of).collect()
}

/// Whether a training went wrong for what it trained, not for want of text or disk.
fn is_divergence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SupernetError::Diverged { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_text_decides_nothing() {
        let better = vec![2.0, 3.0, 9.0, 2.5, 1.0];
        let worse = vec![2.1, 3.1, 3.0, 2.7, 1.1];
        assert!(mean(&better) > mean(&worse));
        let [better, worse] = excess_losses(&[better, worse])[..] else {
            panic!("two networks")
        };
        assert!((better + 0.05).abs() < 1e-12 && (worse - 0.05).abs() < 1e-12);
        assert_eq!(excess_losses(&[vec![1.0, 2.0]]), [0.0]);
    }

    #[test]
    fn half_of_the_networks_drop_out_each_time() {
        assert!(rungs(1080, 1).is_err());
        assert_eq!(rungs(1080, 2).unwrap(), [540]);
        for networks in [3, 4] {
            assert_eq!(rungs(1080, networks).unwrap(), [270, 540]);
        }
        assert_eq!(rungs(1080, 5).unwrap(), [135, 270, 540]);
        assert_eq!(rungs(8, 4).unwrap(), [2, 4]);
        for steps in 2..100 {
            let most = most_networks(steps);
            assert!(rungs(steps, most).is_ok() && rungs(steps, most + 1).is_err());
        }
        assert_eq!([0, 1, 3].map(most_networks), [1, 1, 2]);
        let error = rungs(3, 4).unwrap_err().to_string();
        assert!(error.contains("at least 4"), "{error}");
    }
}
