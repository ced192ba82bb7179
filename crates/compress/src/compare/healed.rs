//! Healing the winners and the best baselines alike.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use lathe_arch::Precision;
use lathe_supernet::{Cpu, Parameters};
use serde::{Deserialize, Serialize};

use super::exam::Exam;
use super::{Compared, Comparison, Contender, slug};
use crate::artefact::{WEIGHTS, cached, write_text};
use crate::prepared::WINDOW_TOKENS;
use crate::training::{STATE, TrainingEvent, TrainingLength, TrainingRun};
use crate::{Healing, Progress};

/// Tokens of the validations at the beginning and at the end, of which no choice depends.
const VALIDATION_TOKENS: usize = 1024;
/// Steps between two states on the disk.
const SAVE_EVERY: usize = 50;

/// What healing made of a network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HealedScore {
    /// Steps, each on two windows of text.
    pub steps: usize,
    /// Perplexity on the text of the others.
    pub perplexity: f64,
    /// Its logarithm over the full model's.
    pub log_perplexity_increase: f64,
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
    if is_same && folder.join(STATE).exists() {
        return Ok(Begun::State);
    }
    if is_same && folder.join(WEIGHTS).exists() {
        return Ok(Begun::Done);
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
                    let score = self.healed(contender, exam, progress)?;
                    compared.contenders[index].healed = Some(HealedScore {
                        steps: self.heal_steps,
                        perplexity: score.exp(),
                        log_perplexity_increase: score - base,
                    });
                }
            }
        }
        Ok(())
    }

    /// Log-perplexity of one network after it was healed.
    fn healed(
        &self,
        contender: &Contender,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<f64> {
        let of = (contender.objective.name(), contender.level);
        let name = format!("healed-{}-{}-{}", slug(contender.made_by()), of.0, of.1);
        let key = format!(
            "{} steps, {:?}, text {:016x}, {} {} {:?}",
            self.heal_steps,
            self.heal_settings,
            self.prepared.training_digest(),
            self.score_key(exam),
            contender.is_corrected,
            contender.subnet
        );
        let path = self.folder.join(format!("{name}.json"));
        let folder = self.folder.join(format!("{name}.unfinished"));
        let score = cached(&path, &key, || {
            let begun = begun(&folder, &key)?;
            let label = format!("healing {}", contender.name());
            if begun != Begun::Done {
                let weights = (begun == Begun::Nothing)
                    .then(|| self.weights_of(contender, progress))
                    .transpose()?;
                let healing = Healing {
                    prepared: self.prepared,
                    engine: Arc::new(Cpu::new(&self.prepared.supernet)),
                    config: &contender.subnet,
                    weights,
                    settings: self.heal_settings.clone(),
                    window_tokens: WINDOW_TOKENS,
                    validation_tokens: VALIDATION_TOKENS,
                    run: TrainingRun {
                        length: TrainingLength::Steps(self.heal_steps),
                        save_every: SAVE_EVERY,
                        validate_every: self.heal_steps,
                        folder: &folder,
                        resume: begun == Begun::State,
                        pause_at: None,
                        is_interrupted: &|| false,
                    },
                };
                healing.run(&mut |event| {
                    if let TrainingEvent::Trained { report, .. } = event {
                        progress(&label, report.step, self.heal_steps);
                    }
                })?;
            }
            let supernet = &self.prepared.supernet;
            let weights = folder.join(WEIGHTS);
            let weights = Parameters::load(&weights, supernet, &contender.subnet)?;
            let healed = weights.subnet(supernet, &contender.subnet)?;
            exam.log_perplexity(&healed)
        })
        .with_context(|| {
            let folder = folder.display();
            format!("healing in {folder}, which may be removed to begin anew")
        })?;
        // Not before the score is on the disk.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        Ok(score)
    }

    /// The weights that healing begins with.
    fn weights_of(
        &self,
        contender: &Contender,
        progress: Progress<'_>,
    ) -> anyhow::Result<Parameters> {
        let own = self.supernet_of(contender.made_by())?;
        let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
        // Rounded weights have no gradient: they are rounded when they are used.
        let mut cut = supernet.cut(&contender.subnet.clone().with_precision(Precision::F32))?;
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
        fs::write(folder.join(STATE), "as of step 20").unwrap();
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::State);
        fs::rename(folder.join(STATE), folder.join(WEIGHTS)).unwrap();
        assert_eq!(begun(&folder, "40 steps").unwrap(), Begun::Done);
        assert_eq!(begun(&folder, "50 steps").unwrap(), Begun::Nothing);
        assert!(!folder.join(WEIGHTS).exists());
    }
}
