use std::time::Instant;

use crate::{Evaluation, Problem, SearchError, Searcher, Study};

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Index of the evaluation, from 0.
    pub index: usize,
    /// The evaluation.
    pub evaluation: &'a Evaluation,
    /// True when it was read from the study instead of being made now.
    pub is_replayed: bool,
}

/// Evaluates until the study holds `budget` evaluations or the space is exhausted, and returns
/// them all. What the study holds already is replayed into the searcher first, so a resumed run
/// goes on as if it had never stopped.
///
/// # Errors
/// When an evaluation fails or is not finite, the study cannot be written, or its sequence is not
/// the searcher's. What was evaluated is kept.
pub fn run<P: Problem>(
    problem: &mut P,
    searcher: &mut dyn Searcher,
    study: &mut Study,
    budget: usize,
    mut on_evaluation: impl FnMut(Progress<'_>),
) -> Result<Vec<Evaluation>, SearchError> {
    for index in 0..budget {
        let Some(genome) = searcher.ask() else { break };
        let stored = study.evaluations().get(index).cloned();
        let is_replayed = stored.is_some();
        let evaluation = match stored {
            Some(stored) if stored.genome == genome => stored,
            Some(_) => return Err(SearchError::Sequence { index }),
            None => {
                let clock = Instant::now();
                let objectives = problem.evaluate(&genome);
                let objectives = objectives.map_err(|error| SearchError::Evaluation {
                    index,
                    source: Box::new(error),
                })?;
                let evaluation = Evaluation { genome, objectives };
                check(problem, &evaluation)?;
                study.append(&evaluation, clock.elapsed())?;
                evaluation
            }
        };
        searcher.tell(&evaluation);
        on_evaluation(Progress {
            index,
            evaluation: &evaluation,
            is_replayed,
        });
    }
    let made = study.evaluations().len().min(budget);
    Ok(study.evaluations()[..made].to_vec())
}

fn check<P: Problem>(problem: &P, evaluation: &Evaluation) -> Result<(), SearchError> {
    let names = problem.objective_names();
    let objectives = &evaluation.objectives;
    if objectives.len() != names.len() {
        return Err(SearchError::ObjectiveCount {
            genome: evaluation.genome.clone(),
            found: objectives.len(),
            expected: names.len(),
        });
    }
    match objectives.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(SearchError::Objective {
            objective: names[index].to_owned(),
            genome: evaluation.genome.clone(),
            value: objectives[index],
        }),
        None => Ok(()),
    }
}
