//! Multiple choice by log-likelihood, with the conventions of EleutherAI's lm-evaluation-harness:
//! a choice scores `sum_t log p(token_t | context, tokens before t)`, `acc` picks the highest
//! score, `acc_norm` the highest score per character, `acc_mutual_info` the one that the context
//! raises most.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::checkpoint::Tokenizer;
use crate::cut::Subnet;
use crate::engine::{Cpu, forward};
use crate::evaluate::check_tokens;
use crate::network::{Engine, Fork, Network};

/// Tokens run together, padding included.
const BATCH_TOKENS: usize = 2048;
/// Seed of the order in which questions are taken.
const ORDER_SEED: u64 = 1;

/// A question with choices, one of them right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What stands before a choice.
    pub context: String,
    /// The choices.
    pub choices: Vec<String>,
    /// What stands between the context and a choice.
    #[serde(default = "space")]
    pub delimiter: String,
    /// Index of the right choice.
    pub answer: usize,
    /// What the question is about, where scores are wanted by topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

impl Question {
    /// The first `count` of `questions` in an order that is the same for every count, so that a
    /// larger sample contains the smaller.
    pub fn sample(questions: &[Self], count: usize) -> Vec<Self> {
        let mut order: Vec<usize> = (0..questions.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(ORDER_SEED));
        let first = order.into_iter().take(count);
        first.map(|index| questions[index].clone()).collect()
    }

    /// The same with nothing before its choices.
    fn without_context(&self) -> Self {
        Self {
            context: String::new(),
            ..self.clone()
        }
    }
}

fn space() -> String {
    " ".to_owned()
}

/// Questions as tokens.
pub struct QuestionSet {
    questions: Vec<Encoded>,
    /// The same without their contexts, or none.
    choices_alone: Vec<Encoded>,
}

struct Encoded {
    /// Tokens that the inputs of all `choices` begin with.
    stem: usize,
    choices: Vec<EncodedChoice>,
    answer: usize,
    topic: Option<String>,
}

struct EncodedChoice {
    /// Context and choice but for the last token: what is fed.
    inputs: Vec<u32>,
    /// The choice's tokens: what is scored, at the last positions of `inputs`.
    targets: Vec<u32>,
    /// Characters of the choice.
    characters: usize,
    /// Bytes of the choice.
    bytes: usize,
}

/// A share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Questions answered.
    pub questions: usize,
    /// Share of questions whose likeliest choice is right.
    pub acc: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
    /// Share of questions whose likeliest choice per character is right.
    pub acc_norm: f64,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
    /// Share of questions whose right choice is the one that the context makes likeliest by comparison
    /// with no context, `log p(choice | context) - log p(choice)` (2104.08315), and its standard error;
    /// where choices were scored without contexts.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub mutual_info: Option<MutualInfoAccuracy>,
}

/// A share of right answers by what the context adds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MutualInfoAccuracy {
    /// The share.
    pub acc_mutual_info: f64,
    /// Its standard error.
    pub acc_mutual_info_stderr: f64,
}

/// How a sub-network answers questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceQuality {
    /// Over all questions.
    pub all: Accuracy,
    /// Mean over questions of `-log2 p(right choice | context)` for each of its bytes. How likely the right
    /// choices are tells two networks apart with far fewer questions than how many are taken (2508.13144).
    pub bits_per_byte: f64,
    /// Its standard error.
    pub bits_per_byte_stderr: f64,
    /// By topic, where questions have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topics: BTreeMap<String, Accuracy>,
    /// Log-likelihood of every choice of every question.
    pub log_likelihoods: Vec<Vec<f64>>,
    /// The same without contexts, where it was wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_likelihoods_alone: Vec<Vec<f64>>,
}

impl QuestionSet {
    /// `questions` as tokens, for a model with a context of `max_tokens`. Contexts that are too
    /// long lose their beginning.
    ///
    /// # Errors
    /// When a text cannot be tokenized, or a question has no choices or no right one.
    pub fn new(
        questions: &[Question],
        tokenizer: &Tokenizer,
        max_tokens: usize,
    ) -> Result<Self, SupernetError> {
        let encoded = questions.iter().enumerate().map(|(index, question)| {
            if question.answer >= question.choices.len() {
                return Err(SupernetError::Question {
                    number: index + 1,
                    choices: question.choices.len(),
                    answer: question.answer,
                });
            }
            encode(question, tokenizer, max_tokens)
        });
        Ok(Self {
            questions: encoded.collect::<Result<_, _>>()?,
            choices_alone: Vec::new(),
        })
    }

    /// The same, and every choice without its context besides, for [`MutualInfoAccuracy`].
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_choices_alone(
        questions: &[Question],
        tokenizer: &Tokenizer,
        max_tokens: usize,
    ) -> Result<Self, SupernetError> {
        let alone: Vec<Question> = questions.iter().map(Question::without_context).collect();
        Ok(Self {
            choices_alone: Self::new(&alone, tokenizer, max_tokens)?.questions,
            ..Self::new(questions, tokenizer, max_tokens)?
        })
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Has `subnet` answer all questions. `on_progress` is told tokens done and tokens in all.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary.
    pub fn score(
        &self,
        subnet: &Subnet<'_>,
        on_progress: impl FnMut(usize, usize),
    ) -> Result<ChoiceQuality, SupernetError> {
        self.score_on(&Cpu::new(subnet.supernet()), subnet, on_progress)
    }

    /// The same, on another engine.
    ///
    /// # Errors
    /// As for [`Self::score`]; also when the engine fails.
    pub fn score_on(
        &self,
        engine: &dyn Engine,
        subnet: &Subnet<'_>,
        on_progress: impl FnMut(usize, usize),
    ) -> Result<ChoiceQuality, SupernetError> {
        let ready = engine.network(subnet)?;
        let all = self.questions.iter().chain(&self.choices_alone);
        let parts: Vec<Part<'_>> = all.clone().flat_map(Encoded::parts).collect();
        let mut scores = log_likelihoods((subnet, &*ready), &parts, on_progress)?.into_iter();
        let of = |question: &Encoded| scores.by_ref().take(question.choices.len()).collect();
        let mut log_likelihoods: Vec<Vec<f64>> = all.map(of).collect();
        let log_likelihoods_alone = log_likelihoods.split_off(self.questions.len());
        let answers = self.questions.iter().zip(&log_likelihoods).enumerate();
        let all: Vec<Right> = answers
            .map(|(at, (question, scores))| {
                question.right(scores, log_likelihoods_alone.get(at).map(Vec::as_slice))
            })
            .collect();
        let mut topics: BTreeMap<String, Vec<Right>> = BTreeMap::new();
        for (question, right) in self.questions.iter().zip(&all) {
            if let Some(topic) = &question.topic {
                topics.entry(topic.clone()).or_default().push(*right);
            }
        }
        let pairs = self.questions.iter().zip(&log_likelihoods);
        let bits: Vec<f64> = pairs.map(|(q, scores)| q.bits_per_byte(scores)).collect();
        let (bits_per_byte, bits_per_byte_stderr) = mean_and_error(&bits);
        Ok(ChoiceQuality {
            all: Accuracy::of(&all),
            bits_per_byte,
            bits_per_byte_stderr,
            topics: topics
                .into_iter()
                .map(|(topic, right)| (topic, Accuracy::of(&right)))
                .collect(),
            log_likelihoods,
            log_likelihoods_alone,
        })
    }
}

/// Choices of one question that are run together.
struct Part<'q> {
    /// Tokens that their inputs begin with.
    stem: usize,
    choices: &'q [EncodedChoice],
}

impl Part<'_> {
    fn fork(&self) -> Fork {
        let branches = self.choices.iter().map(|c| c.inputs.len() - self.stem);
        Fork {
            stem: self.stem,
            branches: branches.collect(),
        }
    }
}

impl Encoded {
    /// The choices, as many at a time as a batch has room for.
    fn parts(&self) -> Vec<Part<'_>> {
        let part = |choices| Part {
            stem: self.stem,
            choices,
        };
        let mut parts = Vec::new();
        let (mut start, mut tokens) = (0, self.stem);
        for (at, choice) in self.choices.iter().enumerate() {
            let branch = choice.inputs.len() - self.stem;
            if at > start && tokens + branch > BATCH_TOKENS {
                parts.push(part(&self.choices[start..at]));
                (start, tokens) = (at, self.stem);
            }
            tokens += branch;
        }
        parts.push(part(&self.choices[start..]));
        parts
    }

    /// Of the right choice.
    fn bits_per_byte(&self, scores: &[f64]) -> f64 {
        let bytes = self.choices[self.answer].bytes.max(1);
        -scores[self.answer] / (LN_2 * bytes as f64)
    }

    /// Whether the right choice is taken by the scores of all, and those that they have `alone`.
    fn right(&self, scores: &[f64], alone: Option<&[f64]>) -> Right {
        let takes = |scores: Vec<f64>| largest(&scores) == Some(self.answer);
        let per_character = scores.iter().zip(&self.choices);
        let per_character = per_character.map(|(s, choice)| s / choice.characters.max(1) as f64);
        let added = |alone: &[f64]| {
            scores
                .iter()
                .zip(alone)
                .map(|(s, alone)| s - alone)
                .collect()
        };
        Right {
            by_score: takes(scores.to_vec()),
            per_character: takes(per_character.collect()),
            by_mutual_info: alone.map(|alone| takes(added(alone))),
        }
    }
}

/// Whether a question's right choice was taken.
#[derive(Clone, Copy)]
struct Right {
    by_score: bool,
    per_character: bool,
    by_mutual_info: Option<bool>,
}

impl Accuracy {
    fn of(right: &[Right]) -> Self {
        let count = right.len();
        let share = |is_right: fn(&Right) -> bool| {
            let right = right.iter().filter(|right| is_right(right)).count();
            right as f64 / count.max(1) as f64
        };
        // The sample's standard deviation over the root of its size, as the harness has it.
        let error = |p: f64| (p * (1.0 - p) / (count.max(2) - 1) as f64).sqrt();
        let (acc, acc_norm) = (share(|r| r.by_score), share(|r| r.per_character));
        let is_informed = right.iter().any(|right| right.by_mutual_info.is_some());
        let mutual_info = is_informed.then(|| {
            let acc_mutual_info = share(|r| r.by_mutual_info == Some(true));
            MutualInfoAccuracy {
                acc_mutual_info,
                acc_mutual_info_stderr: error(acc_mutual_info),
            }
        });
        Self {
            questions: count,
            acc,
            acc_stderr: error(acc),
            acc_norm,
            acc_norm_stderr: error(acc_norm),
            mutual_info,
        }
    }
}

/// The mean, and the sample's standard deviation over the root of its size.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count.max(1) as f64;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    let variance = squares.sum::<f64>() / (count.max(2) - 1) as f64;
    (mean, (variance / count.max(1) as f64).sqrt())
}

/// Index of the largest score; the first of equals.
fn largest(scores: &[f64]) -> Option<usize> {
    (0..scores.len()).reduce(|best, i| if scores[i] > scores[best] { i } else { best })
}

fn encode(
    question: &Question,
    tokenizer: &Tokenizer,
    max_tokens: usize,
) -> Result<Encoded, SupernetError> {
    // Blanks at the end of the context belong to the choice: tokens begin with them.
    let context = question.context.trim_end();
    let blanks = &question.context[context.len()..];
    let start = tokenizer.text_start();
    let mut context_tokens: Vec<u32> = start.into_iter().collect();
    context_tokens.extend(tokenizer.encode(context)?);
    if context_tokens.is_empty() {
        context_tokens.extend(tokenizer.bos_token_id().or(tokenizer.eos_token_id()));
    }
    let choice = |choice: &String| {
        let mut tokens =
            tokenizer.encode(&format!("{context}{blanks}{}{choice}", question.delimiter))?;
        if context.is_empty() {
            tokens.splice(0..0, context_tokens.clone());
        } else {
            tokens.splice(0..0, start);
        }
        let targets = tokens.split_off(context_tokens.len().min(tokens.len()));
        let mut inputs = tokens;
        inputs.extend(&targets[..targets.len().saturating_sub(1)]);
        let start = inputs.len().saturating_sub(max_tokens);
        let inputs = inputs.split_off(start);
        let kept = targets.len().min(inputs.len());
        Ok::<_, SupernetError>(EncodedChoice {
            targets: targets[targets.len() - kept..].to_vec(),
            inputs,
            characters: choice.chars().count(),
            bytes: choice.len(),
        })
    };
    let choices: Vec<EncodedChoice> = question
        .choices
        .iter()
        .map(choice)
        .collect::<Result<_, _>>()?;
    Ok(Encoded {
        stem: shared_len(choices.iter().map(|choice| choice.inputs.as_slice())),
        choices,
        answer: question.answer,
        topic: question.topic.clone(),
    })
}

/// How many tokens all of `sequences` begin with.
fn shared_len<'t>(mut sequences: impl Iterator<Item = &'t [u32]>) -> usize {
    let Some(first) = sequences.next() else {
        return 0;
    };
    sequences.fold(first.len(), |shared, other| {
        let pairs = first[..shared].iter().zip(other);
        pairs.take_while(|(a, b)| a == b).count()
    })
}

/// The log-likelihood of each choice of each part. What the choices of a part begin with is run once.
fn log_likelihoods(
    network: (&Subnet<'_>, &dyn Network),
    parts: &[Part<'_>],
    mut on_progress: impl FnMut(usize, usize),
) -> Result<Vec<f64>, SupernetError> {
    for choice in parts.iter().flat_map(|part| part.choices) {
        let supernet = network.0.supernet();
        check_tokens(supernet, &choice.inputs, choice.inputs.len())?;
        check_tokens(supernet, &choice.targets, 0)?;
    }
    let forks: Vec<Fork> = parts.iter().map(Part::fork).collect();
    // Longest first: parts of a batch are of like lengths, for engines that fill sequences up.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(forks[*at].longest()));
    let total: usize = forks.iter().map(Fork::tokens).sum();
    let mut scores = vec![Vec::new(); parts.len()];
    let (mut rest, mut done) = (order.as_slice(), 0);
    while !rest.is_empty() {
        let ends = rest.iter().scan(0, |tokens, at| {
            *tokens += forks[*at].tokens();
            Some(*tokens)
        });
        let count = ends.take_while(|end| *end <= BATCH_TOKENS).count().max(1);
        let (batch, others) = rest.split_at(count);
        rest = others;
        let of_batch: Vec<Fork> = batch.iter().map(|at| forks[*at].clone()).collect();
        let asked: Vec<&Part<'_>> = batch.iter().map(|at| &parts[*at]).collect();
        for (at, of_part) in batch.iter().zip(score_batch(network, &asked, &of_batch)?) {
            scores[*at] = of_part;
        }
        done += of_batch.iter().map(Fork::tokens).sum::<usize>();
        on_progress(done, total);
    }
    Ok(scores.concat())
}

/// The log-likelihood of each choice of each of `batch`, which `forks` are the shapes of.
fn score_batch(
    (subnet, network): (&Subnet<'_>, &dyn Network),
    batch: &[&Part<'_>],
    forks: &[Fork],
) -> Result<Vec<Vec<f64>>, SupernetError> {
    let hidden = subnet.supernet().model().hidden_size;
    let (mut tokens, mut scored, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for part in batch {
        let stem = part.stem;
        let start = tokens.len();
        if let Some(first) = part.choices.first() {
            tokens.extend_from_slice(&first.inputs[..stem]);
        }
        for choice in part.choices {
            let own = tokens.len();
            tokens.extend_from_slice(&choice.inputs[stem..]);
            // A choice's first token is told by the stem, its others by its branch.
            let places = choice.inputs.len() - choice.targets.len()..choice.inputs.len();
            scored.extend(places.map(|place| match place < stem {
                true => start + place,
                false => own + place - stem,
            }));
            targets.extend_from_slice(&choice.targets);
        }
    }
    let normed = network.run_forks(forward::embed(subnet, &tokens), forks)?;
    let rows = scored
        .iter()
        .flat_map(|row| &normed[row * hidden..][..hidden]);
    let rows: Vec<f32> = rows.copied().collect();
    let mut losses = network.losses(&rows, &targets)?.into_iter();
    let mut score = |choice: &EncodedChoice| {
        let own = losses.by_ref().take(choice.targets.len());
        -own.map(f64::from).sum::<f64>()
    };
    let of = |part: &&Part<'_>| part.choices.iter().map(&mut score).collect();
    Ok(batch.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_errors_are_those_of_the_sample() {
        let right = [(true, true), (true, false), (false, false), (true, false)];
        let accuracy = Accuracy::of(&right.map(|(by_score, per_character)| Right {
            by_score,
            per_character,
            by_mutual_info: None,
        }));
        assert_eq!((accuracy.acc, accuracy.acc_norm), (0.75, 0.25));
        assert_eq!(accuracy.mutual_info, None);
        // The sample's standard deviation is 0.5, over the root of 4.
        assert!((accuracy.acc_stderr - 0.25).abs() < 1e-12);
    }

    #[test]
    fn the_right_choice_has_so_many_bits_per_byte() {
        let choice = |bytes| EncodedChoice {
            inputs: vec![1],
            targets: vec![2],
            characters: 1,
            bytes,
        };
        let question = |answer| Encoded {
            stem: 1,
            choices: vec![choice(2), choice(4), choice(0)],
            answer,
            topic: None,
        };
        let scores = [-3.0, -8.0 * LN_2, -LN_2];
        assert!((question(1).bits_per_byte(&scores) - 2.0).abs() < 1e-12);
        assert!((question(2).bits_per_byte(&scores) - 1.0).abs() < 1e-12);
        assert_eq!(mean_and_error(&[1.0, 3.0]), (2.0, 1.0));
    }

    #[test]
    fn a_choice_is_taken_by_its_score_by_its_length_or_by_what_the_context_adds() {
        let choice = |characters| EncodedChoice {
            inputs: vec![1],
            targets: vec![2],
            characters,
            bytes: characters,
        };
        let question = |answer| Encoded {
            stem: 1,
            choices: vec![choice(4), choice(20), choice(5)],
            answer,
            topic: None,
        };
        // Likeliest is the first, per character the second, and the context adds most to the third.
        let (scores, alone) = ([-8.0, -20.0, -9.0], [-8.0, -19.0, -12.0]);
        for (answer, right) in [
            (0, [true, false, false]),
            (1, [false, true, false]),
            (2, [false, false, true]),
        ] {
            let found = question(answer).right(&scores, Some(&alone));
            let found = [
                found.by_score,
                found.per_character,
                found.by_mutual_info == Some(true),
            ];
            assert_eq!(found, right);
        }
        let right = [0, 2].map(|answer| question(answer).right(&scores, Some(&alone)));
        let informed = Accuracy::of(&right).mutual_info.unwrap();
        assert_eq!(informed.acc_mutual_info, 0.5);
        assert!((informed.acc_mutual_info_stderr - 0.5).abs() < 1e-12);
        assert_eq!(question(0).right(&scores, None).by_mutual_info, None);
    }

    #[test]
    fn a_larger_sample_contains_the_smaller() {
        let question = |i: usize| Question {
            context: i.to_string(),
            choices: vec![],
            delimiter: space(),
            answer: 0,
            topic: None,
        };
        let all: Vec<Question> = (0..50).map(question).collect();
        let (few, many) = (Question::sample(&all, 5), Question::sample(&all, 20));
        assert_eq!(few, many[..5]);
        assert_ne!(few, all[..5]);
        assert_eq!(Question::sample(&all, 99).len(), 50);
    }

    #[test]
    fn what_choices_begin_with_is_counted_once() {
        let shared = |sequences: &[&[u32]]| shared_len(sequences.iter().copied());
        assert_eq!(shared(&[&[1, 2, 3], &[1, 2], &[1, 2, 4]]), 2);
        assert_eq!(shared(&[&[5, 2], &[1, 2]]), 0);
        assert_eq!(shared(&[&[5, 2]]), 2);
        assert_eq!(shared(&[]), 0);
    }

    #[test]
    fn choices_are_run_as_many_at_a_time_as_there_is_room_for() {
        let choice = |tokens: usize| EncodedChoice {
            inputs: vec![1; tokens],
            targets: vec![2],
            characters: 1,
            bytes: 1,
        };
        let parts = |stem: usize, lengths: &[usize]| -> Vec<usize> {
            let question = Encoded {
                stem,
                choices: lengths.iter().map(|length| choice(*length)).collect(),
                answer: 0,
                topic: None,
            };
            let parts = question.parts();
            assert!(
                parts
                    .iter()
                    .all(|p| p.choices.len() == 1 || p.fork().tokens() <= BATCH_TOKENS)
            );
            parts.iter().map(|part| part.choices.len()).collect()
        };
        assert_eq!(parts(80, &[90; 4]), [4]);
        assert_eq!(parts(2000, &[2024; 5]), [2, 2, 1]);
        assert_eq!(parts(0, &[3000, 3000, 10, 10]), [1, 1, 2]);
        assert_eq!(parts(5, &[5; 3]), [3]);
    }

    #[test]
    fn the_first_of_equal_scores_is_taken() {
        assert_eq!(largest(&[-2.0, -1.0, -1.0]), Some(1));
        assert_eq!(largest(&[]), None);
    }
}
