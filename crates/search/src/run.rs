use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::{Evaluation, Fidelity, Problem, SearchError, Searcher, Study, Trial};

/// Between looks at what other processes have evaluated.
const POLL: Duration = Duration::from_millis(50);
/// Shares of evaluations are sums: so little is missing to a whole one by rounding.
const ROUNDING: f64 = 1e-6;

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Index of the trial, from 0.
    pub index: usize,
    /// Its outcome.
    pub evaluation: &'a Evaluation,
    /// What the trials so far have cost, in full evaluations.
    pub spent: f64,
    /// True when it was read from the study instead of being made here and now.
    pub is_replayed: bool,
}

/// Evaluates until `budget` full evaluations, or as much in cheaper ones, are spent, `on_evaluation`
/// breaks off, or the space is exhausted. What the study holds already is replayed into the searcher
/// first, so a resumed run goes on as if it had never stopped.
///
/// The searcher is asked for as many trials at once as the study's header calls for. They may be
/// evaluated by several processes that run the same search on the same file: each takes trials that
/// no other is at, and waits for the others at the end of a batch, so the sequence is that of one
/// process.
///
/// # Errors
/// When an evaluation fails or is not finite, the study cannot be written, or its sequence is not
/// the searcher's. What was evaluated is kept.
pub fn run<P: Problem>(
    problem: &mut P,
    searcher: &mut dyn Searcher,
    study: &mut Study,
    budget: usize,
    mut on_evaluation: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<(), SearchError> {
    let (mut index, mut spent) = (0, 0.0);
    loop {
        let batch = ask(
            problem,
            searcher,
            study.header().batch,
            budget as f64 - spent,
        )?;
        if batch.is_empty() {
            return Ok(());
        }
        for outcome in evaluate(problem, study, index, &batch)? {
            let Outcome {
                evaluation,
                is_replayed,
            } = outcome;
            spent += cost(problem, evaluation.fidelity)?;
            searcher.tell(&evaluation);
            let progress = Progress {
                index,
                evaluation: &evaluation,
                spent,
                is_replayed,
            };
            index += 1;
            if on_evaluation(progress).is_break() {
                return Ok(());
            }
        }
    }
}

/// At most `most` trials, the last one begun while some of the `left` evaluations are unspent.
fn ask<P: Problem>(
    problem: &P,
    searcher: &mut dyn Searcher,
    most: usize,
    mut left: f64,
) -> Result<Vec<Trial>, SearchError> {
    let mut trials = Vec::new();
    while trials.len() < most.max(1) && left > ROUNDING {
        let Some(trial) = searcher.ask() else { break };
        left -= cost(problem, trial.fidelity)?;
        trials.push(trial);
    }
    Ok(trials)
}

fn cost<P: Problem>(problem: &P, fidelity: Fidelity) -> Result<f64, SearchError> {
    let known = problem.low_fidelities();
    match fidelity {
        Fidelity::Full => Ok(1.0),
        Fidelity::Low(index) => known.get(index).copied().ok_or(SearchError::Fidelity {
            index,
            known: known.len(),
        }),
    }
}

struct Outcome {
    evaluation: Evaluation,
    is_replayed: bool,
}

/// The outcomes of trials, of which the first has the number `first`: stored ones, and for the rest
/// those made here and by other processes.
fn evaluate<P: Problem>(
    problem: &mut P,
    study: &mut Study,
    first: usize,
    trials: &[Trial],
) -> Result<Vec<Outcome>, SearchError> {
    let mut outcomes: Vec<Option<Outcome>> = trials.iter().map(|_| None).collect();
    loop {
        let mut missing = Vec::new();
        for (at, trial) in trials.iter().enumerate() {
            if outcomes[at].is_none() {
                outcomes[at] = stored(study, first + at, trial)?;
            }
            if outcomes[at].is_none() {
                missing.push(first + at);
            }
        }
        if missing.is_empty() {
            return Ok(outcomes.into_iter().flatten().collect());
        }
        // With one trial at a time there is nothing to share.
        let mine = match trials.len() {
            1 => missing,
            _ => study.claim(&missing, problem.parallelism().max(1))?,
        };
        if mine.is_empty() {
            std::thread::sleep(POLL);
            continue;
        }
        for (number, evaluation) in make(problem, study, first, trials, &mine)? {
            outcomes[number - first] = Some(Outcome {
                evaluation,
                is_replayed: false,
            });
        }
    }
}

fn stored(study: &Study, number: usize, trial: &Trial) -> Result<Option<Outcome>, SearchError> {
    let Some(record) = study.record(number)? else {
        return Ok(None);
    };
    let evaluation = record.evaluation;
    if evaluation.genome != trial.genome || evaluation.fidelity != trial.fidelity {
        return Err(SearchError::Sequence { index: number });
    }
    Ok(Some(Outcome {
        evaluation,
        is_replayed: true,
    }))
}

/// Evaluates the trials `numbers` and keeps what comes out, even when one of them fails. What another
/// process has kept in the meantime is left out.
fn make<P: Problem>(
    problem: &mut P,
    study: &mut Study,
    first: usize,
    trials: &[Trial],
    numbers: &[usize],
) -> Result<Vec<(usize, Evaluation)>, SearchError> {
    let batch: Vec<Trial> = numbers
        .iter()
        .map(|number| trials[number - first].clone())
        .collect();
    let clock = Instant::now();
    let results = problem.evaluate_batch(&batch);
    let wall = clock.elapsed() / numbers.len() as u32;
    let mut made = Vec::new();
    let mut failure = None;
    for ((&number, trial), result) in numbers.iter().zip(batch).zip(results) {
        let evaluation = result
            .map_err(|error| SearchError::Evaluation {
                index: number,
                source: Box::new(error),
            })
            .and_then(|objectives| checked(problem, trial.with_objectives(objectives)));
        match evaluation {
            Ok(evaluation) => {
                if study.keep(number, &evaluation, wall)? {
                    made.push((number, evaluation));
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    study.release()?;
    failure.map_or(Ok(made), Err)
}

fn checked<P: Problem>(problem: &P, evaluation: Evaluation) -> Result<Evaluation, SearchError> {
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
        None => Ok(evaluation),
    }
}
