//! A search for problems that are nearly additive: the front of an additive model is known exactly
//! and at once, so true evaluations go to its genomes, and what they tell corrects the model.
//!
//! Every proposal is the best genome at some cost, costs following a sequence that covers their
//! range evenly: in turn by the model's best guess and by a draw from its posterior (Thompson
//! sampling; Russo et al. 2018, 1707.02038), which tries what the model is unsure of.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::front::{AdditivePoint, Choice, additive_front};
use super::model::{Expected, Posterior};
use crate::{Evaluation, Genome, SearchError, Searcher, Space};

/// Costs that are tried for a genome that was not proposed before.
const MAX_COSTS: usize = 16;
/// Random changes that are tried after that.
const MAX_CHANGES: usize = 10_000;
/// The fraction of the golden ratio: its multiples modulo 1 cover an interval evenly.
const GOLDEN: f64 = 0.618_033_988_749_894_8;

/// Settings of [`AdditiveSearch`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdditiveOptions {
    /// For each variable, what its choices cost and what they are expected to lose. The choice of
    /// no loss at all is the reference that others are compared with.
    pub variables: Vec<Vec<Choice>>,
    /// Costs, in the units of `variables`, between which the front is wanted.
    pub costs: RangeInclusive<f64>,
    /// Genomes that are evaluated first.
    pub first: Vec<Genome>,
}

/// The method. Of the two objectives the first is the cost, and the logarithm of the second, which
/// is positive, is nearly additive.
pub struct AdditiveSearch {
    space: Space,
    options: AdditiveOptions,
    expected: Expected,
    /// The front that is expected before any evaluation.
    prior: Vec<AdditivePoint>,
    rng: ChaCha8Rng,
    seen: BTreeSet<Genome>,
    /// Given genomes not yet proposed, the next one last.
    first: Vec<Genome>,
    told: Vec<(Genome, f64)>,
    /// Costs tried so far.
    costs: usize,
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
        let (least, most) = (*options.costs.start(), *options.costs.end());
        if !(least.is_finite() && most.is_finite() && least <= most) {
            let range = format!("{least} to {most}");
            return Err(wrong("costs", range, "expected a range of finite numbers"));
        }
        for genome in &options.first {
            space.check(genome)?;
        }
        let losses = options.variables.iter();
        let losses = losses.map(|choices| choices.iter().map(|choice| choice[1]).collect());
        let expected = Expected::new(losses);
        let prior = additive_front(&with_losses(&options.variables, expected.losses()))?;
        Ok(Self {
            space,
            expected,
            prior,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seen: BTreeSet::new(),
            first: options.first.iter().rev().cloned().collect(),
            options,
            told: Vec::new(),
            costs: 0,
        })
    }

    /// The next cost of the sequence.
    fn next_cost(&mut self) -> f64 {
        self.costs += 1;
        let share = (self.costs as f64 * GOLDEN).fract();
        let (least, most) = (*self.options.costs.start(), *self.options.costs.end());
        least + share * (most - least)
    }

    /// The best genome at `cost` by the model: by its mean, or every other time by a draw.
    fn best_at(&mut self, cost: f64) -> Option<Genome> {
        let expected = at(&self.prior, cost)?;
        let losses = match Posterior::fit(&self.expected, &self.told) {
            Some(model) if self.costs.is_multiple_of(2) => {
                model.draw(self.expected.total(&expected.genome), &mut self.rng)
            }
            Some(model) => model.mean(self.expected.total(&expected.genome)),
            None => return Some(expected.genome.clone()),
        };
        let front = additive_front(&with_losses(&self.options.variables, &losses)).ok()?;
        Some(at(&front, cost)?.genome.clone())
    }

    /// `genome` with one to three of its genes changed.
    fn changed(&mut self, genome: &Genome) -> Genome {
        let mut genome = genome.clone();
        for _ in 0..self.rng.random_range(1..=3) {
            let variable = self.rng.random_range(0..genome.len());
            let count = self.space.cardinalities()[variable];
            genome[variable] = self.rng.random_range(0..count);
        }
        genome
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
        format!("{:?}", self.options)
    }

    fn ask(&mut self) -> Option<Genome> {
        while let Some(genome) = self.first.pop() {
            if self.seen.insert(genome.clone()) {
                return Some(genome);
            }
        }
        let mut genome = self.space.draw(&mut self.rng);
        for _ in 0..MAX_COSTS {
            let cost = self.next_cost();
            genome = self.best_at(cost)?;
            if self.seen.insert(genome.clone()) {
                return Some(genome);
            }
        }
        for _ in 0..MAX_CHANGES {
            let changed = self.changed(&genome);
            if self.seen.insert(changed.clone()) {
                return Some(changed);
            }
        }
        None
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        if let [_, loss] = evaluation.objectives[..]
            && loss > 0.0
            && loss.is_finite()
        {
            self.told.push((evaluation.genome.clone(), loss.ln()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NsgaII, NsgaOptions, hypervolume_2d};

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
                let (scale, wrong): (f64, f64) =
                    (rng.random_range(0.05..0.4), rng.random_range(-0.7..0.7));
                let share = |choice: usize| 1.0 - choice as f64 / (count - 1) as f64;
                let loss = |choice: usize| scale * share(choice).powi(2);
                let choices = (0..count).map(|c| [-weight * share(c), loss(c)]);
                expected.push(choices.collect());
                truth.push((0..count).map(|c| wrong.exp() * loss(c)).collect());
            }
            Self { expected, truth }
        }

        fn evaluate(&self, genome: Genome) -> Evaluation {
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
            Evaluation {
                genome,
                objectives: vec![cost, (0.7 * sum + 0.3 * beside + 0.1 * sum * sum).exp()],
            }
        }

        fn hypervolume(&self, searcher: &mut dyn Searcher, evaluations: usize) -> f64 {
            let mut points: Vec<Vec<f64>> = Vec::new();
            for _ in 0..evaluations {
                let evaluation = self.evaluate(searcher.ask().unwrap());
                points.push(vec![
                    evaluation.objectives[0],
                    evaluation.objectives[1].ln(),
                ]);
                searcher.tell(&evaluation);
            }
            let points: Vec<[f64; 2]> = points.iter().map(|p| [p[0], p[1]]).collect();
            hypervolume_2d(&points, [0.0, 4.0])
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
                costs: -60.0..=-2.0,
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
                        costs: -60.0..=-2.0,
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
    fn a_small_space_is_exhausted_without_repeats() {
        let options = AdditiveOptions {
            variables: vec![
                vec![[0.0, 2.0], [1.0, 1.0], [3.0, 0.0]],
                vec![[0.0, 1.0], [2.0, 0.0]],
            ],
            costs: 0.0..=5.0,
            first: Vec::new(),
        };
        let mut searcher = AdditiveSearch::new(options, 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(genome) = searcher.ask() {
            assert!(seen.insert(genome.clone()));
            let objectives = vec![0.0, 1.0 + genome.iter().sum::<usize>() as f64];
            searcher.tell(&Evaluation { genome, objectives });
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn wrong_options_are_named() {
        let good = AdditiveOptions {
            variables: vec![vec![[0.0, 1.0], [1.0, 0.0]]],
            costs: 0.0..=1.0,
            first: Vec::new(),
        };
        let with = |options| AdditiveSearch::new(options, 1).err().unwrap().to_string();
        let mut bad = good.clone();
        bad.variables[0][1][0] = f64::NAN;
        assert!(with(bad).contains("variables"));
        let mut bad = good.clone();
        bad.costs = 1.0..=0.0;
        assert!(with(bad).contains("costs"));
        let mut bad = good;
        bad.first = vec![vec![2]];
        assert!(with(bad).contains("[2]"));
    }
}
