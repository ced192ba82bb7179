use serde::{Deserialize, Serialize};

use crate::{Genome, Space};

/// What is optimised. All objectives are minimised.
pub trait Problem {
    /// What an evaluation may fail with.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The variables.
    fn space(&self) -> &Space;

    /// Names of the objectives.
    fn objective_names(&self) -> &[&'static str];

    /// What tells this problem from others that have the same space: two problems with equal
    /// fingerprints give equal objectives.
    fn fingerprint(&self) -> String {
        String::new()
    }

    /// The objectives of a genome, in the order of their names.
    ///
    /// # Errors
    /// Whatever keeps it from being evaluated; the run stops, and what was evaluated is kept.
    fn evaluate(&mut self, genome: &Genome) -> Result<Vec<f64>, Self::Error>;
}

/// A genome and its objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The genome.
    pub genome: Genome,
    /// Its objectives, all minimised.
    pub objectives: Vec<f64>,
}

/// A method: proposes genomes and learns from their objectives.
///
/// The same seed and the same answers give the same proposals, which is what makes a study
/// resumable.
pub trait Searcher {
    /// Name of the method.
    fn name(&self) -> &'static str;

    /// Its options in words; part of what a study is told apart by.
    fn options(&self) -> String;

    /// The next genome to evaluate, never one that was proposed before; `None` when the space is
    /// exhausted.
    fn ask(&mut self) -> Option<Genome>;

    /// The objectives of the genome asked last.
    fn tell(&mut self, evaluation: &Evaluation);
}
