//! The study store: one SQLite file that holds what is optimised, how, and every evaluation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::{Evaluation, Problem, SearchError, Searcher};

/// Version of the file's layout.
const SCHEMA_VERSION: u32 = 1;
/// What stands for the method of a study made of others.
const MERGED: &str = "merged";
/// Characters of a field that are shown where two studies differ.
const EXCERPT: usize = 120;

/// What tells one study from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyHeader {
    /// The problem's own fingerprint.
    pub problem: String,
    /// Choices of each variable.
    pub cardinalities: Vec<usize>,
    /// Names of the objectives.
    pub objectives: Vec<String>,
    /// Name of the method.
    pub method: String,
    /// The method's options in words.
    pub options: String,
    /// Seed of the method.
    pub seed: u64,
}

impl StudyHeader {
    /// The header of `searcher` on `problem` with `seed`.
    pub fn of<P: Problem>(problem: &P, searcher: &dyn Searcher, seed: u64) -> Self {
        let objectives = problem.objective_names().iter();
        Self {
            problem: problem.fingerprint(),
            cardinalities: problem.space().cardinalities().to_vec(),
            objectives: objectives.map(|name| (*name).to_owned()).collect(),
            method: searcher.name().to_owned(),
            options: searcher.options(),
            seed,
        }
    }

    /// Name of the first field that differs, and both values from where they do.
    fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let fields = |header: &Self| {
            [
                ("problem", header.problem.clone()),
                ("space", format!("{:?}", header.cardinalities)),
                ("objectives", format!("{:?}", header.objectives)),
                ("method", header.method.clone()),
                ("options", header.options.clone()),
                ("seed", header.seed.to_string()),
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

/// Every evaluation of one search, each on the disk before the next begins.
pub struct Study {
    path: PathBuf,
    connection: Connection,
    header: StudyHeader,
    evaluations: Vec<Evaluation>,
    /// What each of them took.
    wall_times: Vec<Duration>,
}

impl Study {
    /// Opens the study of `header` at `path`, or begins it.
    ///
    /// # Errors
    /// When the file is not a study or is damaged, belongs to another search, or holds
    /// evaluations and `resume` is false.
    pub fn open_or_create(
        path: &Path,
        header: &StudyHeader,
        resume: bool,
    ) -> Result<Self, SearchError> {
        let wrong = |error: rusqlite::Error| damaged(path, &error);
        let connection = Connection::open(path).map_err(wrong)?;
        create_tables(&connection).map_err(wrong)?;
        let stored = read_header(path, &connection)?;
        match &stored {
            Some(stored) => {
                if let Some((field, stored, given)) = stored.difference(header) {
                    return Err(SearchError::OtherStudy {
                        path: path.to_owned(),
                        field,
                        stored,
                        given,
                    });
                }
            }
            None => write_header(&connection, header).map_err(wrong)?,
        }
        let study = Self::from_parts(path, connection, header.clone())?;
        if !resume && !study.evaluations.is_empty() {
            return Err(SearchError::Exists {
                path: path.to_owned(),
                evaluations: study.evaluations.len(),
            });
        }
        Ok(study)
    }

    /// Opens a study to read what it holds.
    ///
    /// # Errors
    /// When there is no such file, or it is not a study or is damaged.
    pub fn open(path: &Path) -> Result<Self, SearchError> {
        let missing = |message: &str| SearchError::Study {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        if !path.is_file() {
            return Err(missing("no such file"));
        }
        let connection = Connection::open(path).map_err(|error| damaged(path, &error))?;
        let header = read_header(path, &connection)?;
        let header = header.ok_or_else(|| missing("it is not a study"))?;
        Self::from_parts(path, connection, header)
    }

    /// A study that is kept in memory only.
    ///
    /// # Errors
    /// When SQLite cannot be set up.
    pub fn in_memory<P: Problem>(
        problem: &P,
        searcher: &dyn Searcher,
        seed: u64,
    ) -> Result<Self, SearchError> {
        let header = StudyHeader::of(problem, searcher, seed);
        Self::open_or_create(Path::new(":memory:"), &header, false)
    }

    fn from_parts(
        path: &Path,
        connection: Connection,
        header: StudyHeader,
    ) -> Result<Self, SearchError> {
        let (evaluations, wall_times) = read_evaluations(path, &connection, &header)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            header,
            evaluations,
            wall_times,
        })
    }

    /// A new study at `path` with the evaluations of `studies`, each genome once, in their order. No
    /// search goes on with it.
    ///
    /// # Errors
    /// When there is no study, they are of different problems, or the file exists or cannot be
    /// written.
    pub fn merge(studies: &[Self], path: &Path) -> Result<Self, SearchError> {
        let wrong = |message: &str| SearchError::Study {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        if path.exists() {
            return Err(wrong("it exists: name a new file"));
        }
        let first = studies
            .first()
            .ok_or_else(|| wrong("there is nothing to merge"))?;
        let methods = studies.iter().map(|study| {
            let StudyHeader { method, seed, .. } = &study.header;
            format!("{method} {seed}")
        });
        let header = StudyHeader {
            method: MERGED.to_owned(),
            options: methods.collect::<Vec<_>>().join(", "),
            seed: 0,
            ..first.header.clone()
        };
        for study in studies {
            let own = StudyHeader {
                method: header.method.clone(),
                options: header.options.clone(),
                seed: header.seed,
                ..study.header.clone()
            };
            if let Some((field, stored, given)) = own.difference(&header) {
                return Err(SearchError::OtherStudy {
                    path: study.path.clone(),
                    field,
                    stored,
                    given,
                });
            }
        }
        // In a file beside it, which takes the name when it is whole.
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let io = |error: std::io::Error| wrong(&error.to_string());
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(io)?;
        let mut merged = Self::open_or_create(file.path(), &header, false)?;
        let failed = |error: rusqlite::Error| damaged(path, &error);
        merged.connection.execute_batch("BEGIN").map_err(failed)?;
        let mut seen = BTreeSet::new();
        for study in studies {
            for (evaluation, wall) in study.evaluations.iter().zip(&study.wall_times) {
                if seen.insert(&evaluation.genome) {
                    merged.append(evaluation, *wall)?;
                }
            }
        }
        merged.connection.execute_batch("COMMIT").map_err(failed)?;
        drop(merged);
        file.persist_noclobber(path)
            .map_err(|error| io(error.error))?;
        Self::open(path)
    }

    /// What the study is about.
    pub fn header(&self) -> &StudyHeader {
        &self.header
    }

    /// The evaluations so far, in order.
    pub fn evaluations(&self) -> &[Evaluation] {
        &self.evaluations
    }

    /// What each of the evaluations took.
    pub fn wall_times(&self) -> &[Duration] {
        &self.wall_times
    }

    /// Adds an evaluation; when this returns, it is on the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, evaluation: &Evaluation, wall: Duration) -> Result<(), SearchError> {
        let text = |value: serde_json::Result<String>| {
            value.map_err(|error| SearchError::Study {
                path: self.path.clone(),
                message: error.to_string(),
            })
        };
        let genome = text(serde_json::to_string(&evaluation.genome))?;
        let objectives = text(serde_json::to_string(&evaluation.objectives))?;
        let row = params![
            self.evaluations.len() as i64,
            genome,
            objectives,
            wall.as_secs_f64()
        ];
        let insert =
            "INSERT INTO evaluation (number, genome, objectives, wall_s) VALUES (?, ?, ?, ?)";
        let inserted = self.connection.execute(insert, row);
        inserted.map_err(|error| damaged(&self.path, &error))?;
        self.evaluations.push(evaluation.clone());
        self.wall_times.push(wall);
        Ok(())
    }
}

fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS study (schema_version INTEGER NOT NULL, header TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS evaluation (
             number INTEGER PRIMARY KEY,
             genome TEXT NOT NULL,
             objectives TEXT NOT NULL,
             wall_s REAL NOT NULL
         );",
    )
}

fn write_header(connection: &Connection, header: &StudyHeader) -> rusqlite::Result<()> {
    let text = serde_json::to_string(header)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let insert = "INSERT INTO study (schema_version, header) VALUES (?, ?)";
    connection.execute(insert, params![SCHEMA_VERSION, text])?;
    Ok(())
}

fn read_header(path: &Path, connection: &Connection) -> Result<Option<StudyHeader>, SearchError> {
    let query = "SELECT schema_version, header FROM study";
    let row = connection.query_row(query, [], |row| {
        Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?))
    });
    let Some((version, text)) = row.optional().map_err(|error| damaged(path, &error))? else {
        return Ok(None);
    };
    let wrong = |message: String| SearchError::Study {
        path: path.to_owned(),
        message,
    };
    if version != SCHEMA_VERSION {
        return Err(wrong(format!(
            "layout version {version}, this program reads {SCHEMA_VERSION}"
        )));
    }
    let header = serde_json::from_str(&text);
    header
        .map(Some)
        .map_err(|error| wrong(format!("its header cannot be read: {error}")))
}

fn read_evaluations(
    path: &Path,
    connection: &Connection,
    header: &StudyHeader,
) -> Result<(Vec<Evaluation>, Vec<Duration>), SearchError> {
    let failed = |error: rusqlite::Error| damaged(path, &error);
    let query = "SELECT number, genome, objectives, wall_s FROM evaluation ORDER BY number";
    let mut statement = connection.prepare(query).map_err(failed)?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, f64>(3)?,
        ))
    });
    let (mut evaluations, mut wall_times) = (Vec::new(), Vec::new());
    for row in rows.map_err(failed)? {
        let (number, genome, objectives, wall_s) = row.map_err(failed)?;
        let wrong = |what: String| SearchError::Study {
            path: path.to_owned(),
            message: format!("evaluation {number}: {what}"),
        };
        let evaluation = Evaluation {
            genome: serde_json::from_str(&genome).map_err(|e| wrong(format!("genome: {e}")))?,
            objectives: serde_json::from_str(&objectives)
                .map_err(|e| wrong(format!("objectives: {e}")))?,
        };
        let counts = &header.cardinalities;
        let fits = evaluation.genome.len() == counts.len()
            && evaluation
                .genome
                .iter()
                .zip(counts)
                .all(|(gene, count)| gene < count);
        if number != evaluations.len() as i64 || !fits {
            return Err(wrong(
                "its number or genome does not belong here".to_owned(),
            ));
        }
        if evaluation.objectives.len() != header.objectives.len() {
            return Err(wrong("it has a wrong number of objectives".to_owned()));
        }
        let wall = Duration::try_from_secs_f64(wall_s);
        wall_times.push(wall.map_err(|e| wrong(format!("wall time: {e}")))?);
        evaluations.push(evaluation);
    }
    Ok((evaluations, wall_times))
}

fn damaged(path: &Path, error: &rusqlite::Error) -> SearchError {
    SearchError::Study {
        path: path.to_owned(),
        message: error.to_string(),
    }
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
