//! A search for problems that are nearly additive: the front of an additive model is known exactly
//! and at once, so true evaluations go to its genomes, and what they tell corrects the model.
//!
//! Every proposal is the best genome at some cost. In turn it is the best by the model's best
//! guess, and the best by a draw from its posterior (Thompson sampling; Russo et al. 2018,
//! 1707.02038), which tries what the model is unsure of. Where many choices are uncertain, a draw
//! thinks too well of some of them, so only some of the variables follow it; the others stay as
//! they are in the best genome found so far at that cost.

use std::ops::RangeInclusive;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::front::{AdditivePoint, Choice, additive_front};
use super::model::{Expected, Posterior, Scales};
use crate::proposals::Proposals;
use crate::variation::scatter;
use crate::{Evaluation, Genome, SearchError, Searcher, Space, Trial, dominates};

/// Costs that are tried for a genome that was not proposed before.
const MAX_COSTS: usize = 16;
/// The fraction of the golden ratio: its multiples modulo 1 cover an interval evenly.
const GOLDEN: f64 = 0.618_033_988_749_894_8;
/// Evaluations that the model is fitted on: its work grows with their cube.
const MOST_TOLD: usize = 512;
/// Evaluations from which on the model's scales are sought only once in [`SETTLED_TURNS`].
const SETTLED_FROM: usize = 128;
const SETTLED_TURNS: usize = 16;
/// At most one in this many variables follows a draw.
const FREE_SHARE: usize = 3;

/// Where the front is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Costs {
    /// Everywhere between two costs.
    Between(RangeInclusive<f64>),
    /// The lowest loss at each of these costs.
    At(Vec<f64>),
}

/// Settings of [`AdditiveSearch`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdditiveOptions {
    /// For each variable, what its choices cost and what they are expected to lose. The choice of
    /// no loss at all is the reference that others are compared with.
    pub variables: Vec<Vec<Choice>>,
    /// Where the front is wanted, in the units of `variables`.
    pub costs: Costs,
    /// Genomes that are evaluated first.
    pub first: Vec<Genome>,
}

/// The method. The last objective is nearly additive, or a weighted sum of the last few; the others are costs,
/// which `variables` sum up.
pub struct AdditiveSearch {
    proposals: Proposals,
    options: AdditiveOptions,
    /// Of the last objectives, in their sum.
    weights: Vec<f64>,
    expected: Expected,
    /// The front that is expected before any evaluation.
    prior: Vec<AdditivePoint>,
    rng: ChaCha8Rng,
    told: Vec<(Genome, f64)>,
    /// Costs tried so far.
    costs: usize,
    /// Models fitted so far.
    turns: usize,
    /// Scales of the last.
    scales: Option<Scales>,
}

impl AdditiveSearch {
    /// A search of the space of `options.variables`.
    ///
    /// # Errors
    /// When a variable has no choices, a number is not finite, the range of costs is empty, or a
    /// first genome is not of the space.
    pub fn new(options: AdditiveOptions, seed: u64) -> Result<Self, SearchError> {
        let space = Space::new(options.variables.iter().map(Vec::len).collect())?;
        let wrong = |option, value: String, reason| SearchError::Option {
            option,
            value,
            reason,
        };
        let numbers = options.variables.iter().flatten().flatten();
        if let Some(bad) = numbers.copied().find(|number| !number.is_finite()) {
            return Err(wrong(
                "variables",
                bad.to_string(),
                "expected finite numbers",
            ));
        }
        if !options.costs.are_sound() {
            let costs = format!("{:?}", options.costs);
            return Err(wrong(
                "costs",
                costs,
                "expected finite numbers, the lower first",
            ));
        }
        let losses = options.variables.iter();
        let losses = losses.map(|choices| choices.iter().map(|choice| choice[1]).collect());
        let expected = Expected::new(losses);
        let prior = additive_front(&with_losses(&options.variables, expected.losses()))?;
        Ok(Self {
            proposals: Proposals::new(&space, &options.first)?,
            expected,
            prior,
            rng: ChaCha8Rng::seed_from_u64(seed),
            options,
            weights: vec![1.0],
            told: Vec::new(),
            costs: 0,
            turns: 0,
            scales: None,
        })
    }

    /// Minimises the sum of as many objectives as there are `weights`, the last ones, in place of the last
    /// alone.
    ///
    /// # Errors
    /// When there are none, or one is below zero or not finite.
    pub fn weighing(mut self, weights: Vec<f64>) -> Result<Self, SearchError> {
        let is_sound = |weight: &f64| *weight >= 0.0 && weight.is_finite();
        if weights.is_empty() || !weights.iter().all(is_sound) {
            return Err(SearchError::Option {
                option: "weights",
                value: format!("{weights:?}"),
                reason: "expected finite numbers from 0 on",
            });
        }
        self.weights = weights;
        Ok(self)
    }

    /// The best genome at the next cost: by the model's mean, or every other time by a draw.
    fn propose(&mut self) -> Option<Genome> {
        let (cost, is_draw) = self.options.costs.nth(self.costs);
        self.costs += 1;
        let expected = at(&self.prior, cost)?;
        let total = self.expected.total(&expected.genome);
        let settled = self
            .scales
            .filter(|_| !self.turns.is_multiple_of(SETTLED_TURNS));
        let settled = settled.filter(|_| self.told.len() >= SETTLED_FROM);
        let Some(model) = Posterior::fit(&self.expected, &self.told, settled) else {
            return Some(expected.genome.clone());
        };
        self.turns += 1;
        self.scales = Some(model.scales);
        if !is_draw {
            let losses = model.mean(total);
            let front = additive_front(&with_losses(&self.options.variables, &losses)).ok()?;
            return Some(at(&front, cost)?.genome.clone());
        }
        let losses = model.draw(total, &mut self.rng);
        let base = self.best_told(cost);
        let base = base.unwrap_or(&expected.genome).clone();
        let mut order: Vec<usize> = (0..base.len()).collect();
        order.shuffle(&mut self.rng);
        let most = base.len().div_ceil(FREE_SHARE);
        order.truncate(self.rng.random_range(most.min(2)..=most));
        let mut variables = with_losses(&self.options.variables, &losses);
        for (variable, choices) in variables.iter_mut().enumerate() {
            if !order.contains(&variable) {
                *choices = vec![choices[base[variable]]];
            }
        }
        let front = additive_front(&variables).ok()?;
        let mut genome = at(&front, cost)?.genome.clone();
        for (variable, choice) in base.into_iter().enumerate() {
            if !order.contains(&variable) {
                genome[variable] = choice;
            }
        }
        Some(genome)
    }

    /// The genome of lowest loss so far that costs at most `cost`.
    fn best_told(&self, cost: f64) -> Option<&Genome> {
        let told = self.told.iter();
        let fitting = told.filter(|(genome, _)| self.cost_of(genome) <= cost);
        let best = fitting.min_by(|a, b| a.1.total_cmp(&b.1));
        best.map(|(genome, _)| genome)
    }

    fn cost_of(&self, genome: &Genome) -> f64 {
        let choices = genome.iter().zip(&self.options.variables);
        choices.map(|(choice, all)| all[*choice][0]).sum()
    }

    /// Lets go of the oldest evaluation that is not on the front, where there are too many.
    fn forget(&mut self) {
        if self.told.len() <= MOST_TOLD {
            return;
        }
        let told = self.told.iter();
        let points: Vec<[f64; 2]> = told.map(|(g, loss)| [self.cost_of(g), *loss]).collect();
        let is_dominated = |point: &[f64; 2]| points.iter().any(|other| dominates(other, point));
        let oldest = points.iter().position(is_dominated);
        self.told.remove(oldest.unwrap_or(0));
    }
}

impl Costs {
    fn are_sound(&self) -> bool {
        match self {
            Self::Between(range) => {
                range.start().is_finite() && range.end().is_finite() && !range.is_empty()
            }
            Self::At(costs) => !costs.is_empty() && costs.iter().all(|cost| cost.is_finite()),
        }
    }

    /// The cost to try in the `n`th turn, and whether it is tried with a draw.
    fn nth(&self, n: usize) -> (f64, bool) {
        match self {
            Self::Between(range) => {
                let share = ((n + 1) as f64 * GOLDEN).fract();
                let cost = range.start() + share * (range.end() - range.start());
                (cost, n % 2 == 1)
            }
            Self::At(costs) => (costs[n % costs.len()], (n / costs.len()) % 2 == 1),
        }
    }
}

/// The best point that costs at most `cost`, else the cheapest.
fn at(front: &[AdditivePoint], cost: f64) -> Option<&AdditivePoint> {
    let fitting = front.partition_point(|point| point.cost <= cost);
    front.get(fitting.saturating_sub(1))
}

fn with_losses(variables: &[Vec<Choice>], losses: &[Vec<f64>]) -> Vec<Vec<Choice>> {
    let pairs = variables.iter().zip(losses);
    let choices = |(choices, losses): (&Vec<Choice>, &Vec<f64>)| -> Vec<Choice> {
        let pairs = choices.iter().zip(losses);
        pairs.map(|([cost, _], loss)| [*cost, *loss]).collect()
    };
    pairs.map(choices).collect()
}

impl Searcher for AdditiveSearch {
    fn name(&self) -> &'static str {
        "additive"
    }

    fn options(&self) -> String {
        let options = format!("{:?}", self.options);
        match self.weights[..] {
            [1.0] => options,
            ref weights => format!("{options}, weighing {weights:?}"),
        }
    }

    fn ask(&mut self) -> Option<Trial> {
        if let Some(trial) = self.proposals.next_first() {
            return Some(trial);
        }
        let mut genome = self.proposals.space().draw(&mut self.rng);
        for _ in 0..MAX_COSTS {
            genome = self.propose()?;
            if self.proposals.is_new(&genome) {
                return Some(Trial::full(genome));
            }
        }
        // With one to three of its genes changed.
        self.proposals.fresh(&mut self.rng, |space, rng| {
            let mut changed = genome.clone();
            let genes = rng.random_range(1..=3);
            scatter(space, &mut changed, genes, rng);
            changed
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        let costs = evaluation.objectives.len().checked_sub(self.weights.len());
        let Some(costs) = costs.filter(|costs| *costs > 0) else {
            return;
        };
        let parts = evaluation.objectives[costs..].iter().zip(&self.weights);
        let loss: f64 = parts.map(|(part, weight)| weight * part).sum();
        if loss.is_finite() {
            self.told.push((evaluation.genome.clone(), loss));
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{NsgaII, NsgaOptions, hypervolume};

    /// Sixty blocks whose losses are expected wrongly, add up more than they should, and hurt more
    /// beside each other.
    struct Blocks {
        expected: Vec<Vec<Choice>>,
        truth: Vec<Vec<f64>>,
    }

    impl Blocks {
        fn new(seed: u64) -> Self {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut expected = Vec::new();
            let mut truth = Vec::new();
            for variable in 0..60 {
                let (count, weight) = if variable % 2 == 0 {
                    (4, 1.0)
                } else {
                    (9, 3.0)
                };
                // Some blocks are vital, as the first and the last of a network.
                let vital = if variable % 20 < 2 { 10.0 } else { 1.0 };
                let (scale, wrong): (f64, f64) = (
                    vital * rng.random_range(0.05..0.4),
                    rng.random_range(-0.7..0.7),
                );
                let share = |choice: usize| 1.0 - choice as f64 / (count - 1) as f64;
                let loss = |choice: usize| scale * share(choice).powi(2);
                let choices = (0..count).map(|c| [-weight * share(c), loss(c)]);
                expected.push(choices.collect());
                truth.push((0..count).map(|c| wrong.exp() * loss(c)).collect());
            }
            Self { expected, truth }
        }

        fn evaluate(&self, trial: Trial) -> Evaluation {
            let genome = &trial.genome;
            let cost = genome
                .iter()
                .zip(&self.expected)
                .map(|(gene, c)| c[*gene][0])
                .sum();
            let losses: Vec<f64> = genome
                .iter()
                .zip(&self.truth)
                .map(|(gene, losses)| losses[*gene])
                .collect();
            let sum: f64 = losses.iter().sum();
            let beside: f64 = losses.windows(3).map(|w| (w[0] * w[2]).sqrt()).sum();
            trial.with_objectives(vec![cost, 0.7 * sum + 0.3 * beside + 0.1 * sum * sum])
        }

        fn hypervolume(&self, searcher: &mut dyn Searcher, evaluations: usize) -> f64 {
            let mut points: Vec<Vec<f64>> = Vec::new();
            for _ in 0..evaluations {
                let evaluation = self.evaluate(searcher.ask().unwrap());
                points.push(evaluation.objectives.clone());
                searcher.tell(&evaluation);
            }
            let points: Vec<[f64; 2]> = points.iter().map(|p| [p[0], p[1]]).collect();
            hypervolume(&points, &[0.0, 4.0])
        }
    }

    #[test]
    fn it_finds_a_larger_front_than_nsga2_from_the_same_start() {
        let mut wins = 0;
        for seed in 0..3 {
            let blocks = Blocks::new(seed);
            let prior = additive_front(&blocks.expected).unwrap();
            let levels = (1..=14).map(|level| -4.0 * f64::from(level));
            let first = levels.map(|cost| at(&prior, cost).unwrap().genome.clone());
            let first: Vec<Genome> = first.collect();
            let options = AdditiveOptions {
                variables: blocks.expected.clone(),
                costs: Costs::Between(-60.0..=-2.0),
                first: first.clone(),
            };
            let mut ours = AdditiveSearch::new(options, seed).unwrap();
            let space = Space::new(blocks.expected.iter().map(Vec::len).collect()).unwrap();
            let options = NsgaOptions {
                first: first.clone(),
                ..NsgaOptions::default()
            };
            let mut nsga2 = NsgaII::new(&space, options, seed).unwrap();
            let start = blocks.hypervolume(
                &mut AdditiveSearch::new(
                    AdditiveOptions {
                        variables: blocks.expected.clone(),
                        costs: Costs::Between(-60.0..=-2.0),
                        first,
                    },
                    seed,
                )
                .unwrap(),
                14,
            );
            let (ours, theirs) = (
                blocks.hypervolume(&mut ours, 96),
                blocks.hypervolume(&mut nsga2, 96),
            );
            println!("start {start:.2} additive {ours:.2} nsga2 {theirs:.2}");
            wins += u32::from(ours - start > 1.5 * (theirs - start));
        }
        assert_eq!(wins, 3);
    }

    #[test]
    fn it_finds_lower_losses_at_the_costs_that_are_wanted() {
        let levels = [-15.0, -30.0, -45.0];
        let mut gain = 0.0;
        for seed in 0..3 {
            let blocks = Blocks::new(seed);
            let losses = |costs| -> f64 {
                let options = AdditiveOptions {
                    variables: blocks.expected.clone(),
                    costs,
                    first: Vec::new(),
                };
                let mut searcher = AdditiveSearch::new(options, seed).unwrap();
                let mut lowest = [f64::INFINITY; 3];
                for _ in 0..72 {
                    let evaluation = blocks.evaluate(searcher.ask().unwrap());
                    searcher.tell(&evaluation);
                    for (lowest, level) in lowest.iter_mut().zip(levels) {
                        if evaluation.objectives[0] <= level {
                            *lowest = lowest.min(evaluation.objectives[1]);
                        }
                    }
                }
                lowest.iter().sum()
            };
            let everywhere = losses(Costs::Between(-45.0..=0.0));
            let there = losses(Costs::At(levels.to_vec()));
            println!("everywhere {everywhere:.3} there {there:.3}");
            gain += everywhere / there;
        }
        assert!(gain / 3.0 > 1.05);
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        let options = AdditiveOptions {
            variables: vec![
                vec![[0.0, 2.0], [1.0, 1.0], [3.0, 0.0]],
                vec![[0.0, 1.0], [2.0, 0.0]],
            ],
            costs: Costs::Between(0.0..=5.0),
            first: Vec::new(),
        };
        let mut searcher = AdditiveSearch::new(options, 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(trial) = searcher.ask() {
            assert!(seen.insert(trial.genome.clone()));
            let objectives = vec![0.0, 1.0 + trial.genome.iter().sum::<usize>() as f64];
            searcher.tell(&trial.with_objectives(objectives));
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn wrong_options_are_named() {
        let good = AdditiveOptions {
            variables: vec![vec![[0.0, 1.0], [1.0, 0.0]]],
            costs: Costs::Between(0.0..=1.0),
            first: Vec::new(),
        };
        let with = |options| AdditiveSearch::new(options, 1).err().unwrap().to_string();
        let mut bad = good.clone();
        bad.variables[0][1][0] = f64::NAN;
        assert!(with(bad).contains("variables"));
        let mut bad = good.clone();
        bad.costs = Costs::Between(1.0..=0.0);
        assert!(with(bad).contains("costs"));
        for weights in [vec![], vec![1.0, -0.1], vec![f64::NAN]] {
            let searcher = AdditiveSearch::new(good.clone(), 1).unwrap();
            let error = searcher.weighing(weights).err().unwrap().to_string();
            assert!(error.contains("weights"), "{error}");
        }
        let mut bad = good;
        bad.first = vec![vec![2]];
        assert!(with(bad).contains("[2]"));
    }

    #[test]
    fn the_last_objectives_are_weighed() {
        let options = AdditiveOptions {
            variables: (0..6)
                .map(|v| {
                    (0..4)
                        .map(|c| [c as f64, (3 - c) as f64 * (1 + v) as f64])
                        .collect()
                })
                .collect(),
            costs: Costs::Between(0.0..=18.0),
            first: Vec::new(),
        };
        // What is asked for when genomes have these objectives besides their cost.
        let asked = |weights: Option<Vec<f64>>, lost: fn(f64) -> Vec<f64>| {
            let mut searcher = AdditiveSearch::new(options.clone(), 3).unwrap();
            if let Some(weights) = weights {
                searcher = searcher.weighing(weights).unwrap();
            }
            let mut asked = Vec::new();
            while asked.len() < 20 {
                let trial = searcher.ask().unwrap();
                asked.push(trial.genome.clone());
                let kept: usize = trial.genome.iter().sum();
                let loss = (18.0 - kept as f64).powi(2);
                let objectives = [kept as f64].into_iter().chain(lost(loss));
                searcher.tell(&trial.with_objectives(objectives.collect()));
            }
            (asked, searcher.options())
        };
        let (alone, options_alone) = asked(None, |loss| vec![loss]);
        let (weighed, options_weighed) = asked(Some(vec![0.5, 2.0]), |loss| vec![loss, loss / 4.0]);
        assert_eq!(alone, weighed);
        assert_ne!(options_alone, options_weighed);
        assert_eq!(asked(Some(vec![1.0]), |loss| vec![loss]).1, options_alone);
        let (last, _) = asked(Some(vec![0.0, 1.0]), |loss| vec![loss, 100.0 - loss]);
        assert_ne!(alone, last);
    }
}
