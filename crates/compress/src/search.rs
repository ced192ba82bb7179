//! The search as every job runs it: NSGA-II from what the additive model recommends.

use std::path::Path;

use lathe_search::{Evaluation, Genome, NsgaII, NsgaOptions, Problem, Study, StudyHeader, run};

use crate::{Progress, SubnetProblem, first_genomes};

/// One search, kept in a study and gone on with where it stopped.
pub(crate) struct SeededSearch<'a> {
    /// The study's file.
    pub study: &'a Path,
    /// Members of the population.
    pub population: usize,
    /// Evaluations in all.
    pub evaluations: usize,
    /// Seed of the search.
    pub seed: u64,
}

impl SeededSearch<'_> {
    /// All evaluations, those of an earlier run included.
    ///
    /// # Errors
    /// When the study is of another problem or cannot be written.
    pub fn run(
        &self,
        problem: &mut SubnetProblem<'_>,
        recommended: &[Genome],
        label: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Evaluation>> {
        let options = NsgaOptions {
            population: self.population,
            first: first_genomes(problem.search_space(), recommended),
            ..NsgaOptions::default()
        };
        let mut searcher = NsgaII::new(problem.space(), options, self.seed)?;
        let header = StudyHeader::of(problem, &searcher, self.seed);
        let mut study = Study::open_or_create(self.study, &header, true)?;
        let budget = self.evaluations;
        progress(label, 0, budget);
        Ok(run(problem, &mut searcher, &mut study, budget, |p| {
            progress(label, p.index + 1, budget);
        })?)
    }
}
