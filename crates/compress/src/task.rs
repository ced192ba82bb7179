//! Questions to score sub-networks with: MMLU as it is fetched, or a file of JSON lines.

use std::path::Path;

use lathe_fetch::{Cache, MmluQuestion};
use lathe_supernet::Question;

/// How MMLU's questions are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmluForm {
    /// The choices are listed and named; their letters are scored (lm-evaluation-harness's
    /// `mmlu`, without examples).
    Letter,
    /// The choices themselves are scored (`mmlu_continuation`).
    Cloze,
}

/// MMLU's test questions (2009.03300), fetched where they are missing.
///
/// # Errors
/// When fetching fails or the file is not what it should be.
pub fn mmlu(cache: &Cache, form: MmluForm) -> anyhow::Result<Vec<Question>> {
    let path = lathe_fetch::mmlu(cache)?;
    let questions = lathe_fetch::read_mmlu(&path)?;
    Ok(questions.iter().map(|q| mmlu_question(q, form)).collect())
}

fn mmlu_question(question: &MmluQuestion, form: MmluForm) -> Question {
    let topic = question.topic.replace('_', " ");
    let text = question.question.trim();
    let [a, b, c, d] = &question.answers;
    let (context, choices) = match form {
        MmluForm::Letter => (
            format!(
                "The following are multiple choice questions (with answers) about {topic}.\n\n\
                 {text}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"
            ),
            ["A", "B", "C", "D"].map(str::to_owned).to_vec(),
        ),
        MmluForm::Cloze => (
            format!(
                "The following are questions (with answers) about {topic}.\n\n\
                 Question: {text}\nAnswer:"
            ),
            question.answers.to_vec(),
        ),
    };
    Question {
        context,
        choices,
        delimiter: " ".to_owned(),
        answer: question.correct,
        topic: Some(question.topic.clone()),
    }
}

/// The questions of a file of JSON lines: `context`, `choices`, `answer` (index of the right
/// choice, from 0), and where wanted `topic` and `delimiter` (between context and choice; a space
/// when absent).
///
/// # Errors
/// When the file cannot be read or a line is not a question with a right choice; the line is named.
pub fn questions(path: &Path) -> anyhow::Result<Vec<Question>> {
    let questions = lathe_fetch::read_lines(path, Some::<Question>)?;
    for (index, question) in questions.iter().enumerate() {
        let (answer, choices) = (question.answer, question.choices.len());
        anyhow::ensure!(
            answer < choices,
            "{}: line {}: answer: {answer} is none of the {choices} choices, which count from 0",
            path.display(),
            index + 1
        );
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmlu_is_put_as_the_harness_puts_it() {
        let question = MmluQuestion {
            question: " What is 1+1? ".to_owned(),
            answers: ["0", "1", "2", "3"].map(str::to_owned),
            correct: 2,
            topic: "abstract_algebra".to_owned(),
        };
        let letter = mmlu_question(&question, MmluForm::Letter);
        assert_eq!(
            letter.context,
            "The following are multiple choice questions (with answers) about abstract algebra.\
             \n\nWhat is 1+1?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer:"
        );
        assert_eq!(letter.choices, ["A", "B", "C", "D"]);
        let cloze = mmlu_question(&question, MmluForm::Cloze);
        assert!(cloze.context.ends_with("Question: What is 1+1?\nAnswer:"));
        assert_eq!((cloze.choices[2].as_str(), cloze.answer), ("2", 2));
    }

    #[test]
    fn a_line_that_is_no_question_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = r#"{"context": "2+2 is", "choices": ["four", "five"], "answer": 0}"#;
        std::fs::write(file.path(), format!("{good}\n{good}\n")).unwrap();
        let read = questions(file.path()).unwrap();
        assert_eq!((read.len(), read[1].delimiter.as_str()), (2, " "));
        std::fs::write(file.path(), format!("{good}\n{{\"context\": \"\"}}\n")).unwrap();
        let message = format!("{:#}", questions(file.path()).unwrap_err());
        assert!(
            message.contains("line 2") && message.contains("choices"),
            "{message}"
        );
        let none = r#"{"context": "", "choices": ["a"], "answer": 1}"#;
        std::fs::write(file.path(), format!("{good}\n{none}\n")).unwrap();
        let message = format!("{:#}", questions(file.path()).unwrap_err());
        assert!(
            message.contains("line 2") && message.contains("answer"),
            "{message}"
        );
    }
}
