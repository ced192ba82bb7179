//! Healing the winners and the best baselines alike; of what a search found, the one that heals best.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use lathe_arch::{Precision, SubnetConfig};
use lathe_supernet::{Cpu, Parameters};
use serde::{Deserialize, Serialize};

use super::exam::Exam;
use super::{Compared, Comparison, Contender, slug};
use crate::artefact::{WEIGHTS, cached, write_text};
use crate::prepared::WINDOW_TOKENS;
use crate::race::most_networks;
use crate::training::{RACE, STATE, TrainingEvent, TrainingLength, TrainingRun};
use crate::{Healing, Progress, Race};

/// Tokens of the validations at the beginning and at the end, of which no choice depends.
const VALIDATION_TOKENS: usize = 1024;
/// Networks of a search at one level that are healed to find the best, at most.
const MOST_RACED: usize = 4;
/// Steps between two states on the disk.
const SAVE_EVERY: usize = 50;

/// What healing made of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealedScore {
    /// Steps, each on two windows of text.
    pub steps: usize,
    /// Perplexity on the text of the others.
    pub perplexity: f64,
    /// Its logarithm over the full model's.
    pub log_perplexity_increase: f64,
    /// The network, where it is not the one that was cut but one of fewer layers that healed better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<SubnetConfig>,
}

/// A healed network.
#[derive(Serialize, Deserialize)]
struct Outcome {
    log_perplexity: f64,
    subnet: SubnetConfig,
}

/// How far an earlier run came with a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Nothing,
    /// There is a state to go on from.
    State,
    /// It is healed, and not scored.
    Done,
}

/// The file in a network's folder that says what it is healed with.
const KEY: &str = "key.txt";

/// What `folder` holds of a healing with these settings; that of other settings is removed.
fn begun(folder: &Path, key: &str) -> anyhow::Result<Begun> {
    let is_same = fs::read_to_string(folder.join(KEY)).is_ok_and(|found| found == key);
    let has = |file: &str| is_same && folder.join(file).exists();
    if has(WEIGHTS) && !has(STATE) {
        return Ok(Begun::Done);
    }
    if has(STATE) || has(RACE) {
        return Ok(Begun::State);
    }
    let failed = || folder.display().to_string();
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(failed)?;
    }
    fs::create_dir_all(folder).with_context(failed)?;
    write_text(&folder.join(KEY), key)?;
    Ok(Begun::Nothing)
}

impl Comparison<'_> {
    /// Heals the winners of each level, all weights and the same steps on the same text.
    pub(super) fn heal(
        &self,
        compared: &mut Compared,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        if self.heal_steps == 0 {
            return Ok(());
        }
        let base = exam.base;
        for &objective in &self.objectives {
            for &level in &self.levels {
                for index in Self::winners(compared, objective, level) {
                    let contender = &compared.contenders[index];
                    let outcome = self.healed(contender, exam, progress)?;
                    let score = outcome.log_perplexity;
                    let subnet = Some(outcome.subnet).filter(|s| *s != contender.subnet);
                    compared.contenders[index].healed = Some(HealedScore {
                        steps: self.heal_steps,
                        perplexity: score.exp(),
                        log_perplexity_increase: score - base,
                        subnet,
                    });
                }
            }
        }
        Ok(())
    }

    /// What healing makes of a contender.
    fn healed(
        &self,
        contender: &Contender,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<Outcome> {
        let of = (contender.objective.name(), contender.level);
        let name = format!("healed-{}-{}-{}", slug(contender.made_by()), of.0, of.1);
        let networks = [
            std::slice::from_ref(&contender.subnet),
            &contender.shallower,
        ];
        let mut networks = networks.concat();
        networks.truncate(most_networks(self.heal_steps).min(MOST_RACED));
        let key = format!(
            "{} steps, {:?}, text {:016x}, {} {} {networks:?}",
            self.heal_steps,
            self.heal_settings,
            self.prepared.training_digest(),
            self.score_key(exam),
            contender.is_corrected,
        );
        let path = self.folder.join(format!("{name}.json"));
        let folder = self.folder.join(format!("{name}.unfinished"));
        let outcome = cached(&path, &key, || {
            let begun = begun(&folder, &key)?;
            if begun != Begun::Done {
                let is_begun = begun == Begun::State;
                match &networks[..] {
                    [one] => self.heal_one((contender, one), &folder, is_begun, progress)?,
                    several => self.race((contender, several), &folder, is_begun, progress)?,
                }
            }
            let supernet = &self.prepared.supernet;
            let subnet = crate::read_subnet(&folder, self.prepared.model())?.config;
            let weights = Parameters::load(&folder.join(WEIGHTS), supernet, &subnet)?;
            let healed = weights.subnet(supernet, &subnet)?;
            let log_perplexity = exam.log_perplexity(&healed)?;
            Ok(Outcome {
                log_perplexity,
                subnet,
            })
        })
        .with_context(|| {
            let folder = folder.display();
            format!("healing in {folder}, which may be removed to begin anew")
        })?;
        // Not before the score is on the disk.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        Ok(outcome)
    }

    fn heal_one(
        &self,
        (contender, config): (&Contender, &SubnetConfig),
        folder: &Path,
        is_begun: bool,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        let weights = (!is_begun)
            .then(|| self.weights_of(contender, config, progress))
            .transpose()?;
        let healing = Healing {
            prepared: self.prepared,
            engine: Arc::new(Cpu::new(&self.prepared.supernet)),
            config,
            weights,
            settings: self.heal_settings.clone(),
            window_tokens: WINDOW_TOKENS,
            validation_tokens: VALIDATION_TOKENS,
            run: self.heal_run(folder, is_begun),
        };
        let label = format!("healing {}", contender.name());
        healing.run(&mut |event| self.show_healing(&label, &event, progress))?;
        Ok(())
    }

    fn race(
        &self,
        (contender, networks): (&Contender, &[SubnetConfig]),
        folder: &Path,
        is_begun: bool,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        for (at, network) in networks.iter().enumerate() {
            if !Race::beginning(folder, at).exists() {
                let weights = self.weights_of(contender, network, progress)?;
                Race::line_up(folder, at, &weights, self.prepared)?;
            }
        }
        let race = Race {
            prepared: self.prepared,
            networks,
            engine: Arc::new(Cpu::new(&self.prepared.supernet)),
            settings: self.heal_settings.clone(),
            window_tokens: WINDOW_TOKENS,
            validation_tokens: VALIDATION_TOKENS,
            run: self.heal_run(folder, is_begun),
        };
        race.run(&mut |network, event| {
            let of = network.map_or(String::new(), |at| {
                format!(" ({} layers)", networks[at].depth())
            });
            let label = format!("healing {}{of}", contender.name());
            self.show_healing(&label, &event, progress);
        })?;
        Ok(())
    }

    fn heal_run<'f>(&self, folder: &'f Path, resume: bool) -> TrainingRun<'f> {
        TrainingRun {
            length: TrainingLength::Steps(self.heal_steps),
            save_every: SAVE_EVERY,
            validate_every: self.heal_steps,
            folder,
            resume,
            pause_at: None,
            is_interrupted: &|| false,
        }
    }

    fn show_healing(&self, label: &str, event: &TrainingEvent<'_>, progress: Progress<'_>) {
        if let TrainingEvent::Trained { report, .. } = event {
            progress(label, report.step, self.heal_steps);
        }
    }

    /// The weights that healing begins with.
    fn weights_of(
        &self,
        contender: &Contender,
        network: &SubnetConfig,
        progress: Progress<'_>,
    ) -> anyhow::Result<Parameters> {
        let own = self.supernet_of(contender.made_by())?;
        let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
        // Rounded weights have no gradient: they are rounded when they are used.
        let mut cut = supernet.cut(&network.clone().with_precision(Precision::F32))?;
        if contender.is_corrected {
            cut = self.prepared.correct(cut, progress)?;
        }
        Ok(Parameters::of(&cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healing_goes_on_with_its_own_settings_alone() {
        let desk = tempfile::tempdir().unwrap();
        let folder = desk.path().join("healed-us-tpot-0.8.unfinished");
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::Nothing);
        // Nothing was saved yet.
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::Nothing);
        fs::create_dir(folder.join(RACE)).unwrap();
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::State);
        fs::remove_dir(folder.join(RACE)).unwrap();
        fs::write(folder.join(STATE), "as of step 20").unwrap();
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::State);
        fs::create_dir(folder.join(RACE)).unwrap();
        fs::rename(folder.join(STATE), folder.join(WEIGHTS)).unwrap();
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::Done);
        assert_eq!(begun(&folder, "50 steps").unwrap(), Begun::Nothing);
        assert!(!folder.join(WEIGHTS).exists());
    }
}
