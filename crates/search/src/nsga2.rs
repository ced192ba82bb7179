//! NSGA-II (Deb, Pratap, Agarwal & Meyarivan 2002, doi:10.1109/4235.996017) on ordinal
//! variables: simulated binary crossover and polynomial mutation, rounded, no genome twice.
//!
//! The first population is given genomes and variations of them: in a large space of which only
//! a thin part is of any use, uniform draws would waste the budget.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::offspring::{CROSSOVER_PROBABILITY, Offspring};
use crate::proposals::Proposals;
use crate::{
    Evaluation, Genome, SearchError, Searcher, Space, Trial, crowding_distance, dominates,
    non_dominated_sort,
};

/// Settings of [`NsgaII`].
#[derive(Debug, Clone, PartialEq)]
pub struct NsgaOptions {
    /// Members of the population.
    pub population: usize,
    /// Probability that a child has two parents.
    pub crossover_probability: f64,
    /// Probability that a gene mutates; one over the number of genes when absent.
    pub mutation_probability: Option<f64>,
    /// Genomes of the first population. What is missing is filled with variations of these, or
    /// with uniform draws when there are none.
    pub first: Vec<Genome>,
}

impl Default for NsgaOptions {
    fn default() -> Self {
        Self {
            population: 24,
            crossover_probability: CROSSOVER_PROBABILITY,
            mutation_probability: None,
            first: Vec::new(),
        }
    }
}

/// The method.
pub struct NsgaII {
    proposals: Proposals,
    options: NsgaOptions,
    rng: ChaCha8Rng,
    offspring: Offspring,
    parents: Parents,
    /// Evaluated in this generation.
    children: Vec<Evaluation>,
}

/// A generation's survivors.
#[derive(Default)]
struct Parents {
    /// The best first.
    members: Vec<Member>,
    /// Members that have yet to meet in a tournament.
    order: Vec<usize>,
}

/// A survivor with what tournaments compare.
struct Member {
    evaluation: Evaluation,
    crowding: f64,
}

impl NsgaII {
    /// A search of `space`.
    ///
    /// # Errors
    /// When an option is out of range or a first genome is not of the space.
    pub fn new(space: &Space, options: NsgaOptions, seed: u64) -> Result<Self, SearchError> {
        let wrong = |option, value: String, reason| SearchError::Option {
            option,
            value,
            reason,
        };
        if options.population < 2 {
            let value = options.population.to_string();
            return Err(wrong("population", value, "expected at least 2"));
        }
        let mutation = options.mutation_probability.unwrap_or(0.0);
        for (option, value) in [
            ("crossover_probability", options.crossover_probability),
            ("mutation_probability", mutation),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(wrong(option, value.to_string(), "expected 0 to 1"));
            }
        }
        let offspring = Offspring::new(options.first.clone());
        Ok(Self {
            proposals: Proposals::new(space, &options.first)?,
            offspring: offspring
                .with_probabilities(options.crossover_probability, options.mutation_probability),
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            parents: Parents::default(),
            children: Vec::new(),
        })
    }
}

impl Parents {
    /// The better of two members, by dominance and then the lonelier: where neither dominates, rank
    /// would keep the ends of the front from growing (as pymoo has it). All members meet another
    /// before one meets two. `None` before there are members.
    fn tournament(&mut self, rng: &mut ChaCha8Rng) -> Option<Genome> {
        if self.members.is_empty() {
            return None;
        }
        if self.order.len() < 2 {
            self.order = (0..self.members.len()).collect();
            self.order.shuffle(rng);
        }
        let pair = self.order.split_off(self.order.len() - 2);
        let [a, b] = [0, 1].map(|at| &self.members[pair[at]]);
        let [of_a, of_b] = [a, b].map(|member| &member.evaluation.objectives[..]);
        let a_wins = match (dominates(of_a, of_b), dominates(of_b, of_a)) {
            (true, _) => true,
            (_, true) => false,
            _ => a.crowding >= b.crowding,
        };
        let winner = if a_wins { a } else { b };
        Some(winner.evaluation.genome.clone())
    }

    /// The best of parents and children.
    fn survivors(self, children: Vec<Evaluation>, population: usize) -> Self {
        let parents = self.members.into_iter().map(|member| member.evaluation);
        let all: Vec<Evaluation> = parents.chain(children).collect();
        let objectives: Vec<&[f64]> = all.iter().map(|e| e.objectives.as_slice()).collect();
        let mut members = Vec::new();
        for front in non_dominated_sort(&objectives) {
            let points: Vec<&[f64]> = front.iter().map(|i| objectives[*i]).collect();
            let crowding = crowding_distance(&points);
            let mut of_front: Vec<Member> = front
                .iter()
                .zip(crowding)
                .map(|(&index, crowding)| Member {
                    evaluation: all[index].clone(),
                    crowding,
                })
                .collect();
            of_front.sort_by(|a, b| b.crowding.total_cmp(&a.crowding));
            members.extend(of_front);
        }
        members.truncate(population);
        Self {
            members,
            order: Vec::new(),
        }
    }
}

impl Searcher for NsgaII {
    fn name(&self) -> &'static str {
        "nsga2"
    }

    fn options(&self) -> String {
        format!("{:?}", self.options)
    }

    fn ask(&mut self) -> Option<Trial> {
        if let Some(trial) = self.proposals.next_first() {
            return Some(trial);
        }
        if self.children.len() >= self.options.population {
            let children = std::mem::take(&mut self.children);
            let parents = std::mem::take(&mut self.parents);
            self.parents = parents.survivors(children, self.options.population);
        }
        let (parents, offspring) = (&mut self.parents, &mut self.offspring);
        self.proposals.fresh(&mut self.rng, |space, rng| {
            offspring.next(space, rng, |rng| parents.tournament(rng))
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.children.push(evaluation.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_bounds_of_every_gene_are_proposed() {
        let space = Space::new(vec![3, 9, 2, 5]).unwrap();
        let options = NsgaOptions {
            population: 8,
            first: vec![vec![1, 4, 0, 2]],
            ..NsgaOptions::default()
        };
        let mut searcher = NsgaII::new(&space, options, 1).unwrap();
        let mut reached = vec![BTreeSet::new(); 4];
        for index in 0..200 {
            let Some(trial) = searcher.ask() else { break };
            for (gene, reached) in trial.genome.iter().zip(&mut reached) {
                reached.insert(*gene);
            }
            let objectives = vec![f64::from(index % 7), f64::from(index % 5)];
            searcher.tell(&trial.with_objectives(objectives));
        }
        for (reached, count) in reached.iter().zip(space.cardinalities()) {
            assert!(reached.contains(&0) && reached.contains(&(count - 1)));
        }
    }

    #[test]
    fn a_small_space_is_exhausted_without_repeats() {
        let space = Space::new(vec![3, 2, 1]).unwrap();
        let mut searcher = NsgaII::new(&space, NsgaOptions::default(), 5).unwrap();
        let mut seen = BTreeSet::new();
        while let Some(trial) = searcher.ask() {
            assert!(seen.insert(trial.genome.clone()));
            let objectives = trial.genome.iter().map(|g| *g as f64).collect();
            searcher.tell(&trial.with_objectives(objectives));
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn wrong_options_are_named() {
        let space = Space::new(vec![3]).unwrap();
        let with =
            |options: NsgaOptions| NsgaII::new(&space, options, 1).err().unwrap().to_string();
        let default = NsgaOptions::default;
        assert!(
            with(NsgaOptions {
                population: 1,
                ..default()
            })
            .contains("population")
        );
        assert!(
            with(NsgaOptions {
                crossover_probability: 1.5,
                ..default()
            })
            .contains("crossover")
        );
        assert!(
            with(NsgaOptions {
                first: vec![vec![3]],
                ..default()
            })
            .contains("[3]")
        );
    }
}
