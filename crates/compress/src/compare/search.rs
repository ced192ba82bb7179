//! The search's part.

use lathe_arch::SearchSpace;
use lathe_search::{Costs, Evaluation};
use lathe_supernet::{Recovery, Split};

use super::exam::Exam;
use super::{Comparison, Contender, Method};
use crate::artefact::cached;
use crate::depths::{Deep, shallower};
use crate::finals::Finals;
use crate::search::KeptSearch;
use crate::{BlockScores, LatencyObjective, Loss, Progress, SubnetProblem};

impl Comparison<'_> {
    /// The best of one search at every level of one objective.
    pub(super) fn search(
        &self,
        method: Method,
        objective: LatencyObjective,
        (exam, key): (&Exam, &str),
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Contender>> {
        let task = self.search_task.as_ref();
        let loss = |tokens| {
            let windows = self.prepared.windows(Split::Search, tokens)?;
            Loss::new(self.prepared, &windows, task)
        };
        let (blocks, loss) = (loss(self.block_tokens)?, loss(self.search_tokens)?);
        let space = &self.space(method)?;
        let (table, workload) = (self.table, self.workload);
        // Losses of single blocks have nothing to do with latency: both objectives share them.
        let tpot = LatencyObjective::Tpot;
        let scored = SubnetProblem::new(&blocks, space, table, workload, tpot)?;
        let told = if task.is_some() { "-told" } else { "" };
        let path = format!("blocks-{}{told}.db", method.slug());
        let path = self.folder.join(path);
        let is_to_heal = self.heal_steps > 0;
        let measure = match is_to_heal {
            true => BlockScores::measure_for_healing,
            false => BlockScores::measure,
        };
        let scores = measure(&scored, &blocks, &path, progress)?;
        let problem = SubnetProblem::new(&loss, space, table, workload, objective)?;
        let mut problem = problem.begun_with(self.prepared.trained());
        let label = format!("searching {} for {}", method.name(), objective.name());
        // It begins elsewhere: another study.
        let to_heal = if is_to_heal { "-to-heal" } else { "" };
        let study = format!(
            "search-{}-{}{to_heal}{told}.db",
            method.slug(),
            objective.name()
        );
        let search = KeptSearch {
            study: &self.folder.join(study),
            wanted: Costs::At(self.levels.clone()),
            evaluations: self.evaluations,
            seed: self.seed,
        };
        let evaluations = search.run(&mut problem, &scores, &label, progress)?;
        let finals = Finals::new(self.prepared, self.search_tokens, task)?;
        let is_refitted = self.prepared.recovery() == Recovery::LeastSquares;
        let mut contenders = Vec::new();
        for &level in &self.levels {
            let limit = self.limit(objective, level)?;
            let fast = |e: &&Evaluation| e.objectives[0] <= limit.least_us;
            let found: Vec<&Evaluation> = evaluations.iter().filter(fast).collect();
            anyhow::ensure!(
                !found.is_empty(),
                "the search found nothing at {level} of the full model's latency: give it more --evaluations"
            );
            let path = format!("{}-{}-{level}.json", method.slug(), objective.name());
            contenders.push(cached(&self.folder.join(path), &self.asked(key), || {
                let cut = finals.best(&found, space, progress)?;
                let (by, score) = ((method, is_refitted), exam.log_perplexity(&cut)?);
                let (subnet, scores) = (cut.config().clone(), [exam.base, score]);
                let deep = found.iter().map(|evaluation| {
                    let network = space.decode(&evaluation.genome)?;
                    anyhow::Ok(Deep {
                        depth: network.depth(),
                        loss: problem.loss().total(&evaluation.objectives),
                        network,
                    })
                });
                let deep = deep.collect::<anyhow::Result<Vec<_>>>()?;
                let found = Contender {
                    shallower: shallower(deep),
                    ..self.contender(&limit, level, by, subnet, scores)?
                };
                if !self.prepared.corrects_drift() {
                    return Ok(found);
                }
                Ok(Contender {
                    is_corrected: true,
                    accuracy: exam.accuracy(&cut)?,
                    ..found
                })
            })?);
        }
        Ok(contenders)
    }

    /// What a search chooses among: sizes in f32, or sizes and the table's precisions.
    fn space(&self, method: Method) -> anyhow::Result<SearchSpace> {
        let mut choices = self.prepared.choices().clone();
        choices.precision = self.precisions_of(method);
        let (model, name) = (self.prepared.model(), &self.prepared.name);
        Ok(SearchSpace::new(model, name, &choices)?)
    }
}
