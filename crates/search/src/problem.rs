use serde::{Deserialize, Serialize};

use crate::{Genome, Space};

/// What is optimised. All objectives are minimised.
pub trait Problem {
    /// What an evaluation may fail with.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The variables.
    fn space(&self) -> &Space;

    /// Names of the objectives.
    fn objective_names(&self) -> Vec<&str>;

    /// What tells this problem from others that have the same space: two problems with equal
    /// fingerprints give equal objectives.
    fn fingerprint(&self) -> String {
        String::new()
    }

    /// What evaluations of each [`Fidelity::Low`] cost, as shares of a full one, the cheapest first.
    fn low_fidelities(&self) -> &[f64] {
        &[]
    }

    /// The objectives of a genome at a fidelity, in the order of their names.
    ///
    /// # Errors
    /// Whatever keeps it from being evaluated; the run stops, and what was evaluated is kept.
    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, Self::Error>;

    /// Trials that [`Self::evaluate_batch`] makes at once.
    fn parallelism(&self) -> usize {
        1
    }

    /// The objectives of several trials, in their order: at once where the problem can, one after the
    /// other where it does not say how.
    fn evaluate_batch(&mut self, trials: &[Trial]) -> Vec<Result<Vec<f64>, Self::Error>> {
        trials.iter().map(|trial| self.evaluate(trial)).collect()
    }
}

/// How exactly a genome is evaluated.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Fidelity {
    /// One of the problem's cheaper evaluations, by its index: 0 is the cheapest.
    Low(usize),
    /// The objectives themselves.
    #[default]
    Full,
}

/// What is to be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trial {
    /// The genome.
    pub genome: Genome,
    /// How exactly.
    pub fidelity: Fidelity,
}

impl Trial {
    /// A full evaluation of a genome.
    pub fn full(genome: Genome) -> Self {
        let fidelity = Fidelity::Full;
        Self { genome, fidelity }
    }

    /// This trial with its outcome.
    pub fn with_objectives(self, objectives: Vec<f64>) -> Evaluation {
        Evaluation {
            genome: self.genome,
            fidelity: self.fidelity,
            objectives,
        }
    }
}

/// A genome and its objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The genome.
    pub genome: Genome,
    /// How exactly it was evaluated.
    #[serde(default)]
    pub fidelity: Fidelity,
    /// Its objectives, all minimised.
    pub objectives: Vec<f64>,
}

/// A method: proposes genomes and learns from their objectives.
///
/// The same seed and the same answers in the same order give the same proposals, which is what makes
/// a study resumable.
pub trait Searcher {
    /// Name of the method.
    fn name(&self) -> &'static str;

    /// Its options in words; part of what a study is told apart by.
    fn options(&self) -> String;

    /// What to evaluate next, never what was proposed before; `None` when the space is exhausted.
    /// It may be asked several times before it is told, to evaluate at once what it proposes.
    fn ask(&mut self) -> Option<Trial>;

    /// The objectives of what was asked.
    fn tell(&mut self, evaluation: &Evaluation);
}
