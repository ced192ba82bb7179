use std::path::PathBuf;

/// What can go wrong in a search.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A variable has no choices, or there are no variables.
    #[error("variable {variable} of the space has no choices")]
    EmptySpace {
        /// Index of the variable.
        variable: usize,
    },
    /// A genome does not belong to the space.
    #[error("genome {genome:?} is not of the space with {cardinalities:?} choices")]
    Genome {
        /// The genome.
        genome: Vec<usize>,
        /// Choices of each variable.
        cardinalities: Vec<usize>,
    },
    /// An option of a method is out of range.
    #[error("option `{option}` is {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What a right value looks like.
        reason: &'static str,
    },
    /// An evaluation gave something that cannot be compared.
    #[error("objective `{objective}` of genome {genome:?} is {value}, expected a finite number")]
    Objective {
        /// The objective.
        objective: String,
        /// The genome.
        genome: Vec<usize>,
        /// The value.
        value: f64,
    },
    /// An evaluation gave another number of objectives than it should.
    #[error("genome {genome:?} has {found} objectives, expected {expected}")]
    ObjectiveCount {
        /// The genome.
        genome: Vec<usize>,
        /// Objectives given.
        found: usize,
        /// Objectives expected.
        expected: usize,
    },
    /// A method asked for a fidelity that the problem does not have.
    #[error("an evaluation of low fidelity {index} was asked for, but there are {known}")]
    Fidelity {
        /// Index of the fidelity.
        index: usize,
        /// Low fidelities of the problem.
        known: usize,
    },
    /// The problem could not evaluate a genome.
    #[error("evaluation {index} failed: {source}")]
    Evaluation {
        /// Index of the evaluation.
        index: usize,
        /// What the problem says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The study file cannot be used.
    #[error("{path}: {message}")]
    Study {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the row where there is one.
        message: String,
    },
    /// The study file belongs to another search.
    #[error(
        "{path} was begun with {field} {stored}, now it is {given}: give another file, or the same settings"
    )]
    OtherStudy {
        /// The file.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// Value in the file.
        stored: String,
        /// Value now.
        given: String,
    },
    /// The study file exists and resumption was not asked for.
    #[error(
        "{path} already holds {evaluations} evaluations: go on with --resume, or give another file"
    )]
    Exists {
        /// The file.
        path: PathBuf,
        /// Evaluations in it.
        evaluations: usize,
    },
    /// The stored sequence is not what the method proposes.
    #[error(
        "the stored sequence differs at evaluation {index}: the study was made by another version of the method"
    )]
    Sequence {
        /// Index of the evaluation.
        index: usize,
    },
}
