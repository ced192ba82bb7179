//! The full model in fewer bits: what precision alone gives.

use lathe_arch::Precision;

use super::exam::Exam;
use super::{Comparison, Contender, Method};
use crate::Progress;
use crate::artefact::cached;

impl Comparison<'_> {
    /// The full model with every block in one of the searched precisions, at the levels that it is
    /// fast enough for.
    pub(super) fn whole_models(
        &self,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        let searched = self.precisions.iter().copied();
        for precision in searched.filter(|precision| *precision != Precision::F32) {
            let method = Method::WholeModel(precision);
            let subnet = self.full().with_precision(precision);
            let path = self.folder.join(format!("{}.json", method.slug()));
            let score = cached(&path, &self.score_key(exam), || {
                progress(method.name(), 0, 1);
                exam.log_perplexity(&self.prepared.supernet.cut(&subnet)?)
            })?;
            for &objective in &self.objectives {
                for &level in &self.levels {
                    let limit = self.limit(objective, level)?;
                    let latency_us = limit.latency_us(&subnet);
                    if latency_us.is_some_and(|latency_us| latency_us <= limit.least_us) {
                        let (by, scores) = ((method, false), [exam.base, score]);
                        contenders.push(self.contender(
                            &limit,
                            level,
                            by,
                            subnet.clone(),
                            scores,
                        )?);
                    }
                }
            }
        }
        Ok(contenders)
    }
}
