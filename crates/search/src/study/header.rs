//! What a study is about.

use serde::{Deserialize, Serialize};

use crate::{Problem, Searcher};

/// Characters of a field that are shown where two studies differ.
const EXCERPT: usize = 120;

/// What tells one study from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyHeader {
    /// The problem's own fingerprint.
    pub problem: String,
    /// Choices of each variable.
    pub cardinalities: Vec<usize>,
    /// Names of the objectives.
    pub objectives: Vec<String>,
    /// What evaluations of low fidelity cost, as shares of a full one.
    pub low_fidelities: Vec<f64>,
    /// Name of the method.
    pub method: String,
    /// The method's options in words.
    pub options: String,
    /// Seed of the method.
    pub seed: u64,
    /// Trials that the method is asked for before it is told of them: so many may be evaluated at
    /// once, by one process or by several.
    pub batch: usize,
}

impl StudyHeader {
    /// The header of `searcher` on `problem` with `seed`, one trial at a time.
    pub fn of<P: Problem>(problem: &P, searcher: &dyn Searcher, seed: u64) -> Self {
        let objectives = problem.objective_names();
        Self {
            problem: problem.fingerprint(),
            cardinalities: problem.space().cardinalities().to_vec(),
            objectives: objectives.into_iter().map(str::to_owned).collect(),
            low_fidelities: problem.low_fidelities().to_vec(),
            method: searcher.name().to_owned(),
            options: searcher.options(),
            seed,
            batch: 1,
        }
    }

    /// The same search, asked for `batch` trials before it is told of them.
    pub fn with_batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Name of the first field that differs, and both values from where they do.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let fields = |header: &Self| {
            [
                ("problem", header.problem.clone()),
                ("space", format!("{:?}", header.cardinalities)),
                ("objectives", format!("{:?}", header.objectives)),
                ("low fidelities", format!("{:?}", header.low_fidelities)),
                ("method", header.method.clone()),
                ("options", header.options.clone()),
                ("seed", header.seed.to_string()),
                ("batch", header.batch.to_string()),
            ]
        };
        let mut pairs = fields(self).into_iter().zip(fields(other));
        pairs
            .find(|(a, b)| a != b)
            .map(|((field, stored), (_, given))| {
                let [stored, given] = from_difference([&stored, &given]);
                (field, stored, given)
            })
    }
}

/// What two long texts say where they begin to differ; short ones whole.
fn from_difference(texts: [&str; 2]) -> [String; 2] {
    let [a, b] = texts.map(|text| text.chars().collect::<Vec<char>>());
    if a.len().max(b.len()) <= EXCERPT {
        return texts.map(str::to_owned);
    }
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let start = common.saturating_sub(EXCERPT / 4);
    [a, b].map(|text| {
        let end = text.len().min(start + EXCERPT);
        let excerpt: String = text[start..end].iter().collect();
        let [before, after] = [start > 0, end < text.len()].map(|cut| if cut { "..." } else { "" });
        format!("{before}{excerpt}{after}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_fields_are_shown_where_they_differ() {
        assert_eq!(from_difference(["1", "2"]), ["1", "2"]);
        let long = |middle: &str| format!("{}{middle}{}", "é".repeat(1000), "z".repeat(1000));
        for excerpt in from_difference([&long("one"), &long("another")]) {
            assert_eq!(excerpt.chars().count(), EXCERPT + 6, "{excerpt}");
            assert!(excerpt.contains("éone") || excerpt.contains("éanother"));
        }
        let [whole, cut] = from_difference(["", &long("x")]);
        assert!(whole.is_empty() && cut.ends_with("..."));
    }
}
