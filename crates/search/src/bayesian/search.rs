//! The method: of neighbours and crossings of the front's members, the genome that is expected to add
//! most to the hypervolume, in objectives as their models see them.
//!
//! Evaluations may be noisy: the front that is to be improved is that of the models' means at the
//! genomes evaluated so far. Noisy expected hypervolume improvement (Daulton, Balandat & Bakshy 2021,
//! 2105.08195) takes the expectation over that front too. Here its means are taken for certain, which
//! costs one Cholesky factor instead of one a draw, and leaves out that a front which is unsure may
//! be worse than its means. Genomes that were asked and not yet told count as told, with the means
//! that are expected of them (Ginsbourger, Le Riche & Carraro 2010,
//! doi:10.1007/978-3-642-10701-6_6).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::belief::{Belief, Objectives, Training};
use super::candidates::best_candidate;
use super::model::Model;
use crate::local::neighbour;
use crate::proposals::Proposals;
use crate::{Cost, Evaluation, Genome, SearchError, Searcher, Space, Trial, non_dominated_sort};

/// Evaluations that the models are fitted to, at most.
const MOST_TRAINING: usize = 300;
/// Of these, the share that the best take; the others are spread over all.
const BEST_SHARE: f64 = 0.75;
/// Scales are fitted again after so many more evaluations, as a share of those before.
const REFIT_SHARE: f64 = 0.1;

/// Settings of [`BayesianSearch`].
#[derive(Debug, Clone, PartialEq)]
pub struct BayesianOptions {
    /// The front is wanted where it is better than this in both objectives; than the worst seen so far
    /// when absent.
    pub reference: Option<[f64; 2]>,
    /// Evaluations before there is a model.
    pub initial: usize,
    /// Genomes that are evaluated first. Where they are fewer than `initial`, neighbours of the best of
    /// them follow, or when there are none draws that lean to the first or the last choices.
    pub first: Vec<Genome>,
}

impl Default for BayesianOptions {
    fn default() -> Self {
        Self {
            reference: None,
            initial: 10,
            first: Vec::new(),
        }
    }
}

/// The method. It looks at the first two objectives.
pub struct BayesianSearch {
    proposals: Proposals,
    options: BayesianOptions,
    cost: Option<Cost>,
    rng: ChaCha8Rng,
    told: Vec<Evaluation>,
    /// Asked and not yet told.
    pending: Vec<Genome>,
    /// Of the objectives that are not known, and how many evaluations they were fitted after.
    models: Option<(Vec<Model>, usize)>,
}

impl BayesianSearch {
    /// A search of `space`. With `cost`, which gives the first objective, only the second is modelled;
    /// without, both are.
    ///
    /// # Errors
    /// When the reference is not finite, there is no evaluation before the model, or a first genome is
    /// not of the space.
    pub fn new(
        space: &Space,
        cost: Option<Cost>,
        options: BayesianOptions,
        seed: u64,
    ) -> Result<Self, SearchError> {
        let wrong = |option, value, reason| SearchError::Option {
            option,
            value,
            reason,
        };
        if options.initial < 2 {
            let value = options.initial.to_string();
            return Err(wrong("initial", value, "expected at least 2"));
        }
        if let Some(reference) = options.reference
            && !reference.iter().all(|limit| limit.is_finite())
        {
            let value = format!("{reference:?}");
            return Err(wrong("reference", value, "expected finite numbers"));
        }
        Ok(Self {
            proposals: Proposals::new(space, &options.first)?,
            options,
            cost,
            rng: ChaCha8Rng::seed_from_u64(seed),
            told: Vec::new(),
            pending: Vec::new(),
            models: None,
        })
    }

    /// The best candidate; `None` while there is no model.
    fn propose(&mut self) -> Option<Genome> {
        if self.told.len() < self.options.initial {
            return None;
        }
        let training = self.training();
        self.refit(&training);
        let objectives = Objectives {
            space: self.proposals.space(),
            cost: self.cost.as_ref(),
            models: &self.models.as_ref()?.0,
        };
        let reference = self.options.reference;
        let belief = Belief::new(objectives, training, &self.pending, reference)?;
        best_candidate(&self.proposals, &belief, &mut self.rng)
    }

    fn training(&self) -> Training {
        let chosen: Vec<&Evaluation> = training(&self.told)
            .into_iter()
            .map(|at| &self.told[at])
            .collect();
        let first_modelled = usize::from(self.cost.is_some());
        let values = (first_modelled..2).map(|m| chosen.iter().map(|e| e.objectives[m]).collect());
        Training {
            values: values.collect(),
            genomes: chosen.iter().map(|e| e.genome.clone()).collect(),
        }
    }

    /// Fits the models anew when there is enough news.
    fn refit(&mut self, training: &Training) {
        let count = self.told.len();
        let due = |after: usize| count as f64 >= (1.0 + REFIT_SHARE) * after as f64;
        if self.models.as_ref().is_some_and(|(_, after)| !due(*after)) {
            return;
        }
        let (space, genomes) = (self.proposals.space(), &training.genomes);
        let values = training.values.iter();
        let fitted = values.map(|values| Model::fit(space, genomes, values));
        let fitted: Option<Vec<Model>> = fitted.collect();
        self.models = fitted.map(|models| (models, count));
    }

    /// A neighbour of the front, or before there is one a given genome's, or a draw.
    fn vary(&mut self) -> Option<Trial> {
        let objectives = self.told.iter().map(|e| &e.objectives[..]);
        let fronts = non_dominated_sort(&objectives.collect::<Vec<_>>());
        let front = fronts.first().map_or(&[][..], Vec::as_slice);
        let given = &self.options.first;
        self.proposals.fresh(&mut self.rng, |space, rng| {
            let from = match (given.is_empty(), front.is_empty()) {
                (true, _) => return space.draw_leaning(rng),
                (_, true) => &given[rng.random_range(0..given.len())],
                (_, false) => &self.told[front[rng.random_range(0..front.len())]].genome,
            };
            neighbour(space, from.clone(), rng)
        })
    }
}

/// Indices of the evaluations that models are fitted to: all, or the best front by front and an even
/// spread of the others.
fn training(told: &[Evaluation]) -> Vec<usize> {
    if told.len() <= MOST_TRAINING {
        return (0..told.len()).collect();
    }
    let objectives: Vec<&[f64]> = told.iter().map(|e| &e.objectives[..]).collect();
    let ranked = non_dominated_sort(&objectives).concat();
    let (best, others) = ranked.split_at((BEST_SHARE * MOST_TRAINING as f64) as usize);
    let spread = MOST_TRAINING - best.len();
    let others = (0..spread).map(|i| others[i * others.len() / spread]);
    let mut training: Vec<usize> = best.iter().copied().chain(others).collect();
    training.sort_unstable();
    training
}

impl Searcher for BayesianSearch {
    fn name(&self) -> &'static str {
        "ehvi"
    }

    fn options(&self) -> String {
        let known = if self.cost.is_some() {
            ", the first objective known"
        } else {
            ""
        };
        format!("{:?}{known}", self.options)
    }

    fn ask(&mut self) -> Option<Trial> {
        let trial = match self.proposals.next_first() {
            Some(first) => first,
            None => match self.propose().filter(|best| self.proposals.is_new(best)) {
                Some(genome) => Trial::full(genome),
                None => self.vary()?,
            },
        };
        self.pending.push(trial.genome.clone());
        Some(trial)
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.pending.retain(|genome| *genome != evaluation.genome);
        if let [first, second, ..] = evaluation.objectives[..]
            && first.is_finite()
            && second.is_finite()
        {
            self.told.push(Evaluation {
                objectives: vec![first, second],
                ..evaluation.clone()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{NsgaII, NsgaOptions, RandomSearch, hypervolume};

    /// ZDT1 (Zitzler, Deb & Thiele 2000, doi:10.1162/106365600568202) in 12 variables of 17 values.
    fn zdt1(genome: &[usize]) -> [f64; 2] {
        let x: Vec<f64> = genome.iter().map(|gene| *gene as f64 / 16.0).collect();
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / 11.0;
        [x[0], g * (1.0 - (x[0] / g).sqrt())]
    }

    /// Sizes of twenty blocks of which some matter more: price against loss, more than the sum.
    fn blocks(genome: &[usize]) -> [f64; 2] {
        let each = genome.iter().enumerate().map(|(i, size)| {
            let kept = *size as f64 / 4.0;
            [
                kept * (1 + i % 3) as f64,
                (1 + 7 * i % 11) as f64 * (1.0 - kept).powi(2),
            ]
        });
        let [price, loss] = each.fold([0.0; 2], |sum, each| [sum[0] + each[0], sum[1] + each[1]]);
        [price, loss + 0.02 * loss * loss]
    }

    struct Case {
        objectives: fn(&[usize]) -> [f64; 2],
        space: Space,
        reference: [f64; 2],
    }

    fn cases() -> [Case; 2] {
        [
            Case {
                objectives: zdt1,
                space: Space::new(vec![17; 12]).unwrap(),
                reference: [1.1, 6.0],
            },
            Case {
                objectives: blocks,
                space: Space::new(vec![5; 20]).unwrap(),
                reference: [40.0, 200.0],
            },
        ]
    }

    impl Case {
        fn ehvi(&self, knows_cost: bool, seed: u64) -> BayesianSearch {
            let objectives = self.objectives;
            let cost: Cost = Box::new(move |genome| objectives(genome)[0]);
            let options = BayesianOptions::default();
            BayesianSearch::new(&self.space, knows_cost.then_some(cost), options, seed).unwrap()
        }

        fn evaluate(&self, genome: Genome) -> Evaluation {
            let objectives = (self.objectives)(&genome).to_vec();
            Trial::full(genome).with_objectives(objectives)
        }

        /// After 100 evaluations, asked and told in batches.
        fn hypervolume(&self, searcher: &mut dyn Searcher, batch: usize) -> f64 {
            let mut points = Vec::new();
            while points.len() < 100 {
                let asked: Vec<Genome> =
                    (0..batch).map(|_| searcher.ask().unwrap().genome).collect();
                for genome in asked.into_iter().rev() {
                    let evaluation = self.evaluate(genome);
                    points.push(evaluation.objectives.clone());
                    searcher.tell(&evaluation);
                }
            }
            hypervolume(&points, &self.reference)
        }
    }

    #[test]
    fn it_finds_larger_fronts_than_random_search_and_nsga2() {
        for case in cases() {
            for seed in 0..3 {
                let mut random = RandomSearch::new(&case.space, &[], seed).unwrap();
                let mut nsga2 = NsgaII::new(&case.space, NsgaOptions::default(), seed).unwrap();
                let random = case.hypervolume(&mut random, 1);
                let nsga2 = case.hypervolume(&mut nsga2, 1);
                for (knows_cost, batch) in [(false, 1), (true, 1), (true, 4)] {
                    let ours = case.hypervolume(&mut case.ehvi(knows_cost, seed), batch);
                    println!(
                        "seed {seed} {knows_cost} {batch}: {ours:.3}, {nsga2:.3}, {random:.3}"
                    );
                    assert!(ours > nsga2 && ours > random);
                }
            }
        }
    }

    #[test]
    fn the_same_seed_proposes_the_same() {
        let [case, _] = cases();
        let [mut a, mut b] = [7, 7].map(|seed| case.ehvi(true, seed));
        for _ in 0..30 {
            let genome = a.ask().unwrap().genome;
            assert_eq!(Some(&genome), b.ask().map(|trial| trial.genome).as_ref());
            let evaluation = case.evaluate(genome);
            a.tell(&evaluation);
            b.tell(&evaluation);
        }
    }

    #[test]
    fn both_bounds_of_every_gene_are_proposed() {
        let space = Space::new(vec![3, 9, 2, 5]).unwrap();
        let options = BayesianOptions {
            first: vec![vec![1, 4, 0, 2]],
            ..BayesianOptions::default()
        };
        let mut searcher = BayesianSearch::new(&space, None, options, 1).unwrap();
        let mut reached = vec![BTreeSet::new(); 4];
        for index in 0..120 {
            let genome = searcher.ask().unwrap().genome;
            for (gene, reached) in genome.iter().zip(&mut reached) {
                reached.insert(*gene);
            }
            let objectives = vec![f64::from(index % 7), f64::from(index % 5)];
            searcher.tell(&Trial::full(genome).with_objectives(objectives));
        }
        for (reached, count) in reached.iter().zip(space.cardinalities()) {
            assert!(reached.contains(&0) && reached.contains(&(count - 1)));
        }
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        let space = Space::new(vec![3, 2, 1, 4]).unwrap();
        let mut searcher =
            BayesianSearch::new(&space, None, BayesianOptions::default(), 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(Trial { genome, .. }) = searcher.ask() {
            assert!(seen.insert(genome.clone()));
            // Of three objectives, the first of which is the same everywhere.
            let objectives = vec![1.0, genome.iter().sum::<usize>() as f64, 0.0];
            searcher.tell(&Trial::full(genome).with_objectives(objectives));
        }
        assert_eq!(seen.len(), 24);
    }

    #[test]
    fn models_are_fitted_to_the_best_and_some_of_the_others() {
        let told = (0..1000).map(|i| {
            let objectives = vec![(i % 100) as f64, (i / 100 + 100 - i % 100) as f64];
            Trial::full(vec![i]).with_objectives(objectives)
        });
        let told: Vec<Evaluation> = told.collect();
        let training = training(&told);
        assert_eq!(training.len(), MOST_TRAINING);
        assert!((0..200).all(|at| training.contains(&at)));
        assert!(training.iter().any(|at| *at > 900));
    }

    #[test]
    fn wrong_options_are_named() {
        let space = Space::new(vec![3]).unwrap();
        let with = |options| {
            BayesianSearch::new(&space, None, options, 1)
                .err()
                .unwrap()
                .to_string()
        };
        let default = BayesianOptions::default;
        let initial = 1;
        assert!(
            with(BayesianOptions {
                initial,
                ..default()
            })
            .contains("initial")
        );
        let reference = Some([1.0, f64::NAN]);
        assert!(
            with(BayesianOptions {
                reference,
                ..default()
            })
            .contains("reference")
        );
        let first = vec![vec![3]];
        assert!(with(BayesianOptions { first, ..default() }).contains("[3]"));
    }
}
