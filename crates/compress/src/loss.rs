//! What a sub-network loses, which a search minimises besides latency: its divergence from the full model
//! on a text and, where a search is told questions, how many more bits the right answers take.
//!
//! A search keeps what its text asks for, and all else is what it can cut away. Which choices a pruned network
//! takes of a hundred questions hardly tells what it knows; how likely the right ones are does (2508.13144).

use lathe_supernet::{
    Evaluator, Question, QuestionSet, Subnet, Supernet, SupernetError, TokenWindows,
};

use crate::kept::digest;
use crate::{Objective, Prepared};

/// Parts are capped here, in nats and in bits: beyond it one network is as useless as any other, and infinity
/// or NaN would stop a search.
const MOST_LOST: f64 = 20.0;

/// What a bit per byte of the right answers is worth by default, in nats of divergence per token: with 1 a
/// search keeps answers no better and loses more on text.
pub const ANSWER_WEIGHT: f64 = 0.4;

/// Questions that a search is told to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchTask {
    /// All there are, the first to be asked first.
    pub questions: Vec<Question>,
    /// Questions that are asked for each token of text.
    pub per_token: f64,
    /// Nats of divergence per token that a bit per byte of the right answers is worth.
    pub weight: f64,
}

impl SearchTask {
    /// Without the questions that networks are to be tested with.
    #[must_use]
    pub fn without(mut self, tested: &[Question]) -> Self {
        self.questions.retain(|question| !tested.contains(question));
        self
    }

    /// Those that are asked beside `tokens` tokens of text: one at least, where there are any.
    fn beside(&self, tokens: usize) -> &[Question] {
        let count = (self.per_token * tokens as f64).round().max(1.0) as usize;
        &self.questions[..count.min(self.questions.len())]
    }
}

/// What sub-networks of one super-network lose.
pub struct Loss<'a> {
    text: Evaluator<'a>,
    answers: Option<Answers>,
    weights: Vec<f64>,
}

/// Questions as tokens, and how the full model does.
struct Answers {
    questions: QuestionSet,
    digest: u64,
    of_full_model: f64,
}

impl<'a> Loss<'a> {
    /// On `windows` of text, and beside it on questions of `task`.
    ///
    /// # Errors
    /// When a token or a question is none of the model's.
    pub fn new(
        prepared: &'a Prepared,
        windows: &TokenWindows,
        task: Option<&SearchTask>,
    ) -> anyhow::Result<Self> {
        let tokens = windows.token_count();
        let task = task.filter(|task| !task.questions.is_empty());
        let answers = task.map(|task| Answers::new(prepared, task.beside(tokens)));
        Ok(Self {
            text: Evaluator::new(&prepared.supernet, windows)?,
            answers: answers.transpose()?,
            weights: [1.0]
                .into_iter()
                .chain(task.map(|task| task.weight))
                .collect(),
        })
    }

    /// The super-network.
    pub fn supernet(&self) -> &'a Supernet {
        self.text.supernet()
    }

    /// Tokens of text that are read.
    pub fn token_count(&self) -> usize {
        self.text.token_count()
    }

    /// What is lost: divergence, and where questions are asked, bits of the answers.
    pub fn parts(&self) -> &'static [Objective] {
        match self.answers {
            Some(_) => &[Objective::Kl, Objective::Answers],
            None => &[Objective::Kl],
        }
    }

    /// What the parts weigh in their sum.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What tells it from another.
    pub(crate) fn fingerprint(&self) -> String {
        let tokens = self.token_count();
        let answers = self.answers.as_ref().map(|answers| {
            let count = answers.questions.len();
            format!(", {count} questions {:016x}", answers.digest)
        });
        format!("{tokens} tokens{}", answers.unwrap_or_default())
    }

    /// The parts that one sub-network loses.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn of(&self, subnet: &Subnet<'_>) -> Result<Vec<f64>, SupernetError> {
        let divergence = self.text.perplexity_and_kl(subnet)?.kl_divergence;
        let answers = self.answers.as_ref().map(|answers| answers.of(subnet));
        let divergence = divergence.unwrap_or(MOST_LOST);
        let parts = [divergence].into_iter().chain(answers.transpose()?);
        Ok(parts.map(capped).collect())
    }

    /// The sum of the parts, which the last of an evaluation's `objectives` are.
    pub fn total(&self, objectives: &[f64]) -> f64 {
        let parts = objectives.iter().rev().zip(self.weights.iter().rev());
        parts.map(|(part, weight)| weight * part).sum()
    }
}

impl Answers {
    fn new(prepared: &Prepared, questions: &[Question]) -> anyhow::Result<Self> {
        let context = prepared.model().max_position_embeddings;
        let right: Vec<Question> = questions.iter().map(right_choice_alone).collect();
        let mut answers = Self {
            questions: QuestionSet::new(&right, &prepared.tokenizer, context)?,
            digest: digest(&format!("{questions:?}")),
            of_full_model: 0.0,
        };
        answers.of_full_model = answers.bits_per_byte(&prepared.supernet.teacher())?;
        Ok(answers)
    }

    /// How many bits per byte more the right answers take than of the full model; below zero where they
    /// are likelier.
    fn of(&self, subnet: &Subnet<'_>) -> Result<f64, SupernetError> {
        Ok(self.bits_per_byte(subnet)? - self.of_full_model)
    }

    fn bits_per_byte(&self, network: &Subnet<'_>) -> Result<f64, SupernetError> {
        Ok(self.questions.score(network, |_, _| {})?.bits_per_byte)
    }
}

/// The right choice is all that has to be run.
fn right_choice_alone(question: &Question) -> Question {
    let right = question.choices.get(question.answer);
    Question {
        choices: right.into_iter().cloned().collect(),
        answer: 0,
        ..question.clone()
    }
}

/// NaN counts as the most.
fn capped(part: f64) -> f64 {
    part.min(MOST_LOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_network_loses_as_much_as_can_be() {
        assert_eq!([-0.1, 0.5].map(capped), [-0.1, 0.5]);
        for broken in [f64::NAN, f64::INFINITY] {
            assert_eq!(capped(broken), MOST_LOST);
        }
    }

    #[test]
    fn more_text_asks_more_questions_and_none_that_are_tested_with() {
        let question = |number: usize| Question {
            context: number.to_string(),
            choices: vec!["a".to_owned(), "b".to_owned()],
            delimiter: " ".to_owned(),
            answer: 0,
            topic: None,
        };
        let all: Vec<Question> = (0..20).map(question).collect();
        let task = SearchTask {
            questions: all.clone(),
            per_token: 8.0 / 1024.0,
            weight: 1.0,
        };
        let counts = [1, 512, 1024, 1 << 20].map(|tokens| task.beside(tokens).len());
        assert_eq!(counts, [1, 4, 8, 20]);
        let rest = task.without(&all[..15]);
        assert_eq!(rest.beside(1024), &all[15..]);
    }
}
