use rand::{Rng, RngExt};

use crate::SearchError;

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
}
