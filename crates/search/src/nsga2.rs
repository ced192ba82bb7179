//! NSGA-II (Deb, Pratap, Agarwal & Meyarivan 2002, doi:10.1109/4235.996017) on ordinal
//! variables: uniform crossover, mutation by a step or a fresh draw, no genome twice.
//!
//! The first population is given genomes and variations of them: in a large space of which only
//! a thin part is of any use, uniform draws would waste the budget.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    Evaluation, Genome, SearchError, Searcher, Space, crowding_distance, non_dominated_sort,
};

/// Tries to find a genome that was not proposed before.
const MAX_REPEATS: usize = 10_000;

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
            crossover_probability: 0.9,
            mutation_probability: None,
            first: Vec::new(),
        }
    }
}

/// The method.
pub struct NsgaII {
    space: Space,
    options: NsgaOptions,
    rng: ChaCha8Rng,
    seen: BTreeSet<Genome>,
    /// Survivors, best first.
    parents: Vec<Member>,
    /// Evaluated in this generation.
    children: Vec<Evaluation>,
    /// Given genomes not yet proposed, the next one last.
    first: Vec<Genome>,
}

/// A survivor with what tournaments compare.
struct Member {
    evaluation: Evaluation,
    rank: usize,
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
        for genome in &options.first {
            space.check(genome)?;
        }
        Ok(Self {
            space: space.clone(),
            first: options.first.iter().rev().cloned().collect(),
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seen: BTreeSet::new(),
            parents: Vec::new(),
            children: Vec::new(),
        })
    }

    fn variation(&mut self) -> Genome {
        let (a, b) = match (self.parents.is_empty(), self.options.first.is_empty()) {
            (false, _) => (self.tournament(), self.tournament()),
            (true, false) => (self.any_first(), self.any_first()),
            (true, true) => return self.space.draw(&mut self.rng),
        };
        let child = if self.rng.random_bool(self.options.crossover_probability) {
            let genes = a.iter().zip(&b);
            genes
                .map(|(a, b)| if self.rng.random_bool(0.5) { *a } else { *b })
                .collect()
        } else {
            a
        };
        self.mutate(child)
    }

    fn any_first(&mut self) -> Genome {
        let index = self.rng.random_range(0..self.options.first.len());
        self.options.first[index].clone()
    }

    /// The better of two members drawn at random: lower rank, then lonelier.
    fn tournament(&mut self) -> Genome {
        let mut draw = || self.rng.random_range(0..self.parents.len());
        let (a, b) = (&self.parents[draw()], &self.parents[draw()]);
        let a_wins = a
            .rank
            .cmp(&b.rank)
            .then(b.crowding.total_cmp(&a.crowding))
            .is_le();
        let winner = if a_wins { a } else { b };
        winner.evaluation.genome.clone()
    }

    /// Changes genes, half of them by one step, half to any other value; at least one.
    fn mutate(&mut self, mut genome: Genome) -> Genome {
        let counts = self.space.cardinalities();
        let default = 1.0 / counts.len() as f64;
        let probability = self.options.mutation_probability.unwrap_or(default);
        let forced = self.rng.random_range(0..counts.len());
        for (index, gene) in genome.iter_mut().enumerate() {
            let count = counts[index];
            if count == 1 || (index != forced && !self.rng.random_bool(probability)) {
                continue;
            }
            *gene = if self.rng.random_bool(0.5) {
                step(*gene, count, self.rng.random_bool(0.5))
            } else {
                // Any of the other values, all equally likely.
                (*gene + self.rng.random_range(1..count)) % count
            };
        }
        genome
    }

    /// Keeps the best of parents and children.
    fn survive(&mut self) {
        let parents = self.parents.drain(..).map(|member| member.evaluation);
        let all: Vec<Evaluation> = parents.chain(self.children.drain(..)).collect();
        let objectives: Vec<&[f64]> = all.iter().map(|e| e.objectives.as_slice()).collect();
        let mut survivors = Vec::new();
        for (rank, front) in non_dominated_sort(&objectives).iter().enumerate() {
            let points: Vec<&[f64]> = front.iter().map(|i| objectives[*i]).collect();
            let crowding = crowding_distance(&points);
            let mut members: Vec<Member> = front
                .iter()
                .zip(crowding)
                .map(|(&index, crowding)| Member {
                    evaluation: all[index].clone(),
                    rank,
                    crowding,
                })
                .collect();
            members.sort_by(|a, b| b.crowding.total_cmp(&a.crowding));
            survivors.extend(members);
        }
        survivors.truncate(self.options.population);
        self.parents = survivors;
    }
}

/// One step up or down, inwards at the ends.
fn step(gene: usize, count: usize, up: bool) -> usize {
    match (gene, up) {
        (0, _) => 1,
        (gene, true) if gene + 1 == count => gene - 1,
        (gene, true) => gene + 1,
        (gene, false) => gene - 1,
    }
}

impl Searcher for NsgaII {
    fn name(&self) -> &'static str {
        "nsga2"
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
        if self.children.len() >= self.options.population {
            self.survive();
        }
        for _ in 0..MAX_REPEATS {
            let genome = self.variation();
            if self.seen.insert(genome.clone()) {
                return Some(genome);
            }
        }
        None
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.children.push(evaluation.clone());
    }
}

#[cfg(test)]
mod tests {
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
            let Some(genome) = searcher.ask() else { break };
            for (gene, reached) in genome.iter().zip(&mut reached) {
                reached.insert(*gene);
            }
            let objectives = vec![f64::from(index % 7), f64::from(index % 5)];
            searcher.tell(&Evaluation { genome, objectives });
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
        while let Some(genome) = searcher.ask() {
            assert!(seen.insert(genome.clone()));
            let objectives = genome.iter().map(|g| *g as f64).collect();
            searcher.tell(&Evaluation { genome, objectives });
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
