//! The search as every job runs it.

use std::ops::ControlFlow;
use std::path::Path;

use lathe_search::{Costs, Evaluation, Study, StudyHeader, run};

use crate::additive::additive_search;
use crate::{BlockScores, Progress, SubnetProblem};

/// One search, kept in a study and gone on with where it stopped.
pub(crate) struct KeptSearch<'a> {
    /// The study's file.
    pub study: &'a Path,
    /// Evaluations in all.
    pub evaluations: usize,
    /// Where the front is wanted, in shares of the full model's latency.
    pub wanted: Costs,
    /// Seed of the search.
    pub seed: u64,
}

impl KeptSearch<'_> {
    /// All evaluations, those of an earlier run included.
    ///
    /// # Errors
    /// When the study is of another problem or cannot be written.
    pub fn run(
        &self,
        problem: &mut SubnetProblem<'_>,
        scores: &BlockScores,
        label: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Evaluation>> {
        let mut searcher = additive_search(problem, scores, &self.wanted, self.seed)?;
        let header = StudyHeader::of(problem, &*searcher, self.seed);
        let mut study = Study::open_or_create(self.study, &header, true)?;
        let budget = self.evaluations;
        progress(label, 0, budget);
        run(problem, &mut *searcher, &mut study, budget, |p| {
            progress(label, p.index + 1, budget);
            ControlFlow::Continue(())
        })?;
        Ok(study.evaluations()?)
    }
}
