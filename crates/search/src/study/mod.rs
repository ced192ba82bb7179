//! The study store: one SQLite file that holds what is optimised, how, and every evaluation.
//!
//! Evaluations stay in the file, so that a long search takes no more memory than a short one.

mod claim;
mod header;
mod record;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::{Evaluation, Fidelity, Problem, SearchError, Searcher};
use claim::Claimant;
pub use header::StudyHeader;
use record::COLUMNS;
pub use record::Record;

/// Version of the file's layout.
const SCHEMA_VERSION: u32 = 2;
/// What stands for the method of a study made of others.
const MERGED: &str = "merged";
/// How long to wait while another process writes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every evaluation of one search, each on the disk before the next begins.
pub struct Study {
    path: PathBuf,
    connection: Connection,
    header: StudyHeader,
    claimant: Claimant,
    has_claims: bool,
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
        let mut connection = connect(path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(wrong)?;
        create_tables(&transaction).map_err(wrong)?;
        match &read_header(path, &transaction)? {
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
            None => write_header(&transaction, header).map_err(wrong)?,
        }
        transaction.commit().map_err(wrong)?;
        let study = Self::from_parts(path, connection, header.clone())?;
        let evaluations = study.evaluation_count()?;
        if !resume && evaluations > 0 {
            return Err(SearchError::Exists {
                path: path.to_owned(),
                evaluations,
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
        let connection = connect(path)?;
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

    /// Reads every row once: what is damaged is told now.
    fn from_parts(
        path: &Path,
        connection: Connection,
        header: StudyHeader,
    ) -> Result<Self, SearchError> {
        let study = Self {
            path: path.to_owned(),
            connection,
            header,
            claimant: Claimant::new(),
            has_claims: false,
        };
        study.visit(|_| ())?;
        Ok(study)
    }

    /// A new study at `path` with the evaluations of `studies`, each trial once, in their order. No
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
        let header = merged_header(studies).ok_or_else(|| wrong("there is nothing to merge"))?;
        for study in studies {
            study.check_problem(&header)?;
        }
        // In a file beside it, which takes the name when it is whole.
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let io = |error: std::io::Error| wrong(&error.to_string());
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(io)?;
        let merged = Self::open_or_create(file.path(), &header, false)?;
        let failed = |error: rusqlite::Error| damaged(path, &error);
        merged.connection.execute_batch("BEGIN").map_err(failed)?;
        let (mut seen, mut number) = (HashSet::new(), 0);
        for study in studies {
            for record in study.records()? {
                let Evaluation {
                    genome, fidelity, ..
                } = &record.evaluation;
                if seen.insert((genome.clone(), *fidelity)) {
                    merged.insert(&Record { number, ..record })?;
                    number += 1;
                }
            }
        }
        merged.connection.execute_batch("COMMIT").map_err(failed)?;
        drop(merged);
        file.persist_noclobber(path)
            .map_err(|error| io(error.error))?;
        Self::open(path)
    }

    /// That the study is of the problem of a merged one.
    fn check_problem(&self, merged: &StudyHeader) -> Result<(), SearchError> {
        let own = StudyHeader {
            problem: self.header.problem.clone(),
            cardinalities: self.header.cardinalities.clone(),
            objectives: self.header.objectives.clone(),
            low_fidelities: self.header.low_fidelities.clone(),
            ..merged.clone()
        };
        match own.difference(merged) {
            None => Ok(()),
            Some((field, stored, given)) => Err(SearchError::OtherStudy {
                path: self.path.clone(),
                field,
                stored,
                given,
            }),
        }
    }

    /// What the study is about.
    pub fn header(&self) -> &StudyHeader {
        &self.header
    }

    /// Number of evaluations, of all fidelities.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn evaluation_count(&self) -> Result<usize, SearchError> {
        let query = "SELECT COUNT(*) FROM evaluation";
        let count = self
            .connection
            .query_row(query, [], |row| row.get::<_, i64>(0));
        let count = count.map_err(|error| damaged(&self.path, &error))?;
        Ok(count as usize)
    }

    /// The full evaluations in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn evaluations(&self) -> Result<Vec<Evaluation>, SearchError> {
        let mut evaluations = Vec::new();
        self.visit(|record| {
            if record.evaluation.fidelity == Fidelity::Full {
                evaluations.push(record.evaluation);
            }
        })?;
        Ok(evaluations)
    }

    /// Everything the study holds, in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, SearchError> {
        let mut records = Vec::new();
        self.visit(|record| records.push(record))?;
        Ok(records)
    }

    /// The record of a number, where there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn record(&self, number: usize) -> Result<Option<Record>, SearchError> {
        let failed = |error: rusqlite::Error| damaged(&self.path, &error);
        let query = format!("SELECT {COLUMNS} FROM evaluation WHERE number = ?");
        let mut statement = self.connection.prepare_cached(&query).map_err(failed)?;
        let mut rows = statement.query(params![number as i64]).map_err(failed)?;
        let row = rows.next().map_err(failed)?;
        let record = row.map(|row| Record::read(row, &self.header)).transpose();
        record.map_err(|fault| damaged(&self.path, &fault))
    }

    fn visit(&self, mut visit: impl FnMut(Record)) -> Result<(), SearchError> {
        let failed = |error: rusqlite::Error| damaged(&self.path, &error);
        let query = format!("SELECT {COLUMNS} FROM evaluation ORDER BY number");
        let mut statement = self.connection.prepare_cached(&query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let record = Record::read(row, &self.header);
            visit(record.map_err(|fault| damaged(&self.path, &fault))?);
        }
        Ok(())
    }

    /// Keeps the outcome of trial `number`; when this returns true, it is on the disk. False where
    /// another process was first: its outcome counts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(
        &mut self,
        number: usize,
        evaluation: &Evaluation,
        wall: Duration,
    ) -> Result<bool, SearchError> {
        self.insert(&Record {
            number,
            evaluation: evaluation.clone(),
            wall,
            seed: self.header.seed,
        })
    }

    fn insert(&self, record: &Record) -> Result<bool, SearchError> {
        let inserted = record.insert(&self.connection);
        inserted.map_err(|fault| damaged(&self.path, &fault))
    }

    /// Claims the first `most` of the trials `numbers` that no other process is at, and that are not
    /// evaluated.
    pub(crate) fn claim(
        &mut self,
        numbers: &[usize],
        most: usize,
    ) -> Result<Vec<usize>, SearchError> {
        self.has_claims = true;
        let claimed = claim::claim(&mut self.connection, self.claimant, numbers, most);
        claimed.map_err(|error| damaged(&self.path, &error))
    }

    /// Gives up what was claimed.
    pub(crate) fn release(&mut self) -> Result<(), SearchError> {
        if self.has_claims {
            let released = claim::release(&self.connection, self.claimant);
            released.map_err(|error| damaged(&self.path, &error))?;
            self.has_claims = false;
        }
        Ok(())
    }
}

impl Drop for Study {
    /// Another process may take over what was claimed; if this fails, it finds out by itself.
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn merged_header(studies: &[Study]) -> Option<StudyHeader> {
    let methods = studies.iter().map(|study| {
        let StudyHeader { method, seed, .. } = &study.header;
        format!("{method} {seed}")
    });
    Some(StudyHeader {
        method: MERGED.to_owned(),
        options: methods.collect::<Vec<_>>().join(", "),
        seed: 0,
        batch: 1,
        ..studies.first()?.header.clone()
    })
}

fn connect(path: &Path) -> Result<Connection, SearchError> {
    let connection = Connection::open(path).map_err(|error| damaged(path, &error))?;
    let set = connection
        .busy_timeout(PATIENCE)
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"));
    set.map_err(|error| damaged(path, &error))?;
    Ok(connection)
}

fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    let study =
        "CREATE TABLE IF NOT EXISTS study (schema_version INTEGER NOT NULL, header TEXT NOT NULL)";
    connection.execute_batch(&[study, record::TABLE, claim::TABLE].join(";"))
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
            "layout version {version}, this program reads {SCHEMA_VERSION}: begin a new study"
        )));
    }
    let header = serde_json::from_str(&text);
    header
        .map(Some)
        .map_err(|error| wrong(format!("its header cannot be read: {error}")))
}

fn damaged(path: &Path, fault: &dyn std::fmt::Display) -> SearchError {
    SearchError::Study {
        path: path.to_owned(),
        message: fault.to_string(),
    }
}
