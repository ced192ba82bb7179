//! Correcting drift in the baselines that come nearest to the searches.

use super::exam::{Exam, Marks};
use super::{Comparison, Contender};
use crate::artefact::cached;
use crate::{LatencyObjective, Progress};

/// Refitted baselines that are corrected at each level, the best first: it takes minutes each. One
/// that was third before has been first after it, so fewer would not do.
const CORRECTED: usize = 3;

impl Comparison<'_> {
    /// Corrects the best refitted baselines of every level for drift, as the searches' networks are.
    pub(super) fn correct_best_baselines(
        &self,
        contenders: &mut [Contender],
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        if !self.prepared.has_text_for_drift() {
            return Ok(());
        }
        for &objective in &self.objectives {
            for &level in &self.levels {
                for index in best_refitted(contenders, objective, level) {
                    let contender = &mut contenders[index];
                    let slug = contender.method.slug();
                    let path = format!("corrected-{slug}-{}-{level}.json", objective.name());
                    let key = format!("{} {:?}", self.score_key(exam), contender.subnet);
                    let key = self.asked(&key);
                    let marks = cached(&self.folder.join(path), &key, || {
                        self.corrected(contender, exam, progress)
                    })?;
                    contender.is_corrected = true;
                    contender.perplexity = marks.log_perplexity.exp();
                    contender.log_perplexity_increase = marks.log_perplexity - exam.base;
                    contender.accuracy = marks.accuracy;
                }
            }
        }
        Ok(())
    }

    /// How a refitted baseline does that is corrected for drift.
    fn corrected(
        &self,
        contender: &Contender,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<Marks> {
        let own = self.supernet_of(contender.made_by())?;
        let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
        let cut = supernet.cut(&contender.subnet)?;
        exam.marks(&self.prepared.correct(cut, progress)?)
    }
}

/// Where the best refitted baselines of a level stand.
fn best_refitted(contenders: &[Contender], objective: LatencyObjective, level: f64) -> Vec<usize> {
    let is_one = |c: &Contender| {
        c.objective == objective && c.level == level && c.is_refitted && c.method.is_baseline()
    };
    let all = contenders.iter().enumerate();
    let mut found: Vec<(usize, f64)> = all
        .filter(|(_, c)| is_one(c))
        .map(|(index, c)| (index, c.perplexity))
        .collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found.truncate(CORRECTED);
    found.into_iter().map(|(index, _)| index).collect()
}
