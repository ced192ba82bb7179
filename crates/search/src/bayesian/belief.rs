//! What is believed of both objectives, and where that says the front can be improved.

use super::ehvi::{Gaussian, Staircase};
use super::model::Model;
use super::process::Process;
use crate::{Cost, Genome, Space, non_dominated_sort};

/// Evaluations that models are fitted to.
pub(super) struct Training {
    pub genomes: Vec<Genome>,
    /// One list for each objective that is modelled.
    pub values: Vec<Vec<f64>>,
}

/// How the objectives come about: the first by `cost` where there is one, the others by models.
#[derive(Clone, Copy)]
pub(super) struct Objectives<'a> {
    pub space: &'a Space,
    pub cost: Option<&'a Cost>,
    pub models: &'a [Model],
}

/// What is known of both objectives. Those that are modelled are as their processes see them.
pub(super) struct Belief<'a> {
    cost: Option<&'a Cost>,
    processes: Vec<Process>,
    edge: Staircase,
    front: Vec<Genome>,
}

impl<'a> Belief<'a> {
    /// After evaluations, and with `pending` as expected. `None` where a process cannot be factored.
    pub fn new(
        objectives: Objectives<'a>,
        training: Training,
        pending: &[Genome],
        reference: Option<[f64; 2]>,
    ) -> Option<Self> {
        let Objectives {
            space,
            cost,
            models,
        } = objectives;
        let all = [&training.genomes[..], pending].concat();
        let (mut processes, mut means) = (Vec::new(), Vec::new());
        for (model, values) in models.iter().zip(&training.values) {
            let mut seen: Vec<f64> = values.iter().map(|value| model.see(*value)).collect();
            let mut process = model.process(space, &training.genomes, &seen)?;
            if !pending.is_empty() {
                let expected = process.predict(pending);
                seen.extend(expected.iter().map(|expected| expected.mean));
                process = model.process(space, &all, &seen)?;
            }
            means.push(process.smoothed(&seen));
            processes.push(process);
        }
        let known = cost.map(|cost| all.iter().map(|genome| cost(genome)).collect());
        let points = paired(known.into_iter().chain(means));
        let worst = |m: usize| {
            points
                .iter()
                .map(|p| p[m])
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let reference = match reference {
            Some(limits) => objectives.seen(limits),
            None => [worst(0), worst(1)],
        };
        let slices: Vec<&[f64]> = points.iter().map(|point| &point[..]).collect();
        let front = non_dominated_sort(&slices).into_iter().next()?;
        Some(Self {
            cost,
            processes,
            edge: Staircase::new(points.iter().copied(), reference),
            front: front.into_iter().map(|at| all[at].clone()).collect(),
        })
    }

    /// Genomes that no other is believed to dominate.
    pub fn front(&self) -> &[Genome] {
        &self.front
    }

    /// Expected hypervolume improvements of `genomes`.
    pub fn improvements(&self, genomes: &[Genome]) -> Vec<f64> {
        let exact = |cost: &Cost| {
            let each = genomes.iter().map(|genome| Gaussian {
                mean: cost(genome),
                deviation: 0.0,
            });
            each.collect()
        };
        let known = self.cost.map(exact);
        let modelled = self
            .processes
            .iter()
            .map(|process| process.predict(genomes));
        let pairs = paired(known.into_iter().chain(modelled)).into_iter();
        pairs
            .map(|pair| self.edge.expected_improvement(pair))
            .collect()
    }
}

impl Objectives<'_> {
    /// Objectives as the processes see them, and a known one as it is.
    fn seen(&self, [first, second]: [f64; 2]) -> [f64; 2] {
        match self.models {
            [a, b] => [a.see(first), b.see(second)],
            [only] => [first, only.see(second)],
            _ => [first, second],
        }
    }
}

/// Two columns as rows.
fn paired<T: Copy>(columns: impl Iterator<Item = Vec<T>>) -> Vec<[T; 2]> {
    let columns: Vec<Vec<T>> = columns.collect();
    match &columns[..] {
        [first, second] => first.iter().zip(second).map(|(a, b)| [*a, *b]).collect(),
        _ => Vec::new(),
    }
}
