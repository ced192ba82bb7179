//! What all contenders are asked: text that none has seen, and questions.

use lathe_supernet::{Accuracy, QuestionSet, Split, Subnet, TokenWindows, perplexity};
use serde::{Deserialize, Serialize};

use super::{Comparison, Quiz};

/// Text and questions, and how the full model does on the text.
pub(super) struct Exam {
    /// Text that neither calibration nor search has seen.
    pub test: TokenWindows,
    /// Log-perplexity of the full model on it.
    pub base: f64,
    questions: Option<QuestionSet>,
}

/// How a network did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Marks {
    /// Logarithm of its perplexity.
    pub log_perplexity: f64,
    /// Right answers, where there were questions.
    pub accuracy: Option<Accuracy>,
}

impl Exam {
    /// What `comparison` asks.
    ///
    /// # Errors
    /// When there is too little text, or a question cannot be asked.
    pub fn new(comparison: &Comparison<'_>) -> anyhow::Result<Self> {
        let prepared = comparison.prepared;
        let test = prepared.windows(Split::Test, comparison.test_tokens)?;
        let context = prepared.model().max_position_embeddings;
        let quiz = comparison.quiz.as_ref();
        let encode = |quiz: &Quiz| match quiz.mutual_info {
            true => QuestionSet::with_choices_alone(&quiz.questions, &prepared.tokenizer, context),
            false => QuestionSet::new(&quiz.questions, &prepared.tokenizer, context),
        };
        let questions = quiz.map(encode).transpose()?;
        let mut exam = Self {
            test,
            base: 0.0,
            questions,
        };
        exam.base = exam.log_perplexity(&prepared.supernet.teacher())?;
        Ok(exam)
    }

    /// Logarithm of a network's perplexity.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn log_perplexity(&self, network: &Subnet<'_>) -> anyhow::Result<f64> {
        Ok(perplexity(network, &self.test)?.negative_log_likelihood)
    }

    /// A network's right answers, where there are questions.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn accuracy(&self, network: &Subnet<'_>) -> anyhow::Result<Option<Accuracy>> {
        let score = |set: &QuestionSet| Ok(set.score(network, |_, _| {})?.all);
        self.questions.as_ref().map(score).transpose()
    }

    /// Both, of a network that is corrected for drift: it is at hand once, and that takes minutes.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn marks(&self, network: &Subnet<'_>) -> anyhow::Result<Marks> {
        Ok(Marks {
            log_perplexity: self.log_perplexity(network)?,
            accuracy: self.accuracy(network)?,
        })
    }
}
