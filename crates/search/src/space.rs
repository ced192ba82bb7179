use std::f64::consts::PI;

use rand::{Rng, RngExt};

use crate::SearchError;

/// Logarithm of how much likelier one end of a variable is than the other, in the median leaning draw.
const MEDIAN_LEANING: f64 = 4.0;

/// One choice per variable.
pub type Genome = Vec<usize>;

/// Ordinal variables: variable `i` takes the values `0..cardinalities[i]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    cardinalities: Vec<usize>,
}

impl Space {
    /// A space with the given number of choices of each variable.
    ///
    /// # Errors
    /// When there are no variables or one has no choices.
    pub fn new(cardinalities: Vec<usize>) -> Result<Self, SearchError> {
        if cardinalities.is_empty() {
            return Err(SearchError::EmptySpace { variable: 0 });
        }
        match cardinalities.iter().position(|count| *count == 0) {
            Some(variable) => Err(SearchError::EmptySpace { variable }),
            None => Ok(Self { cardinalities }),
        }
    }

    /// Choices of each variable.
    pub fn cardinalities(&self) -> &[usize] {
        &self.cardinalities
    }

    /// Number of genomes; infinite when beyond f64.
    pub fn size(&self) -> f64 {
        self.cardinalities
            .iter()
            .map(|count| *count as f64)
            .product()
    }

    /// Checks that a genome belongs to the space.
    ///
    /// # Errors
    /// [`SearchError::Genome`] when it does not.
    pub fn check(&self, genome: &[usize]) -> Result<(), SearchError> {
        let fits = genome.len() == self.cardinalities.len()
            && genome
                .iter()
                .zip(&self.cardinalities)
                .all(|(gene, count)| gene < count);
        if fits {
            return Ok(());
        }
        Err(SearchError::Genome {
            genome: genome.to_vec(),
            cardinalities: self.cardinalities.clone(),
        })
    }

    /// A genome drawn uniformly.
    pub fn draw(&self, rng: &mut impl Rng) -> Genome {
        let counts = self.cardinalities.iter();
        counts.map(|count| rng.random_range(0..*count)).collect()
    }

    /// A genome whose variables all lean to one side: of `n` choices, the weight of number `c` is
    /// `exp(t c / (n - 1))`, where `t` is drawn from a Cauchy distribution. Where costs rise evenly with
    /// the choices, these are uniform draws of a given mean cost, and draws of all costs are likely.
    pub fn draw_leaning(&self, rng: &mut impl Rng) -> Genome {
        let leaning = MEDIAN_LEANING * (PI * (rng.random::<f64>() - 0.5)).tan();
        let gene = |&count: &usize| {
            let last = count - 1;
            let weight = |choice: usize| {
                // Of the choice that it leans to, the weight is 1.
                let from = if leaning > 0.0 { last - choice } else { choice };
                (-leaning.abs() * from as f64 / last.max(1) as f64).exp()
            };
            let total: f64 = (0..count).map(weight).sum();
            let mut left = total * rng.random::<f64>();
            let is_reached = |choice: &usize| {
                left -= weight(*choice);
                left < 0.0
            };
            (0..count).find(is_reached).unwrap_or(last)
        };
        self.cardinalities.iter().map(gene).collect()
    }
}
