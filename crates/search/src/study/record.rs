//! An evaluation as a row of the file.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::StudyHeader;
use crate::{Evaluation, Fidelity, Space};

/// An evaluation and what the study knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place in the sequence, from 0.
    pub number: usize,
    /// The evaluation.
    pub evaluation: Evaluation,
    /// What it took.
    pub wall: Duration,
    /// Seed of the search that proposed it.
    pub seed: u64,
}

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS evaluation (
    number INTEGER PRIMARY KEY,
    genome TEXT NOT NULL,
    fidelity TEXT NOT NULL,
    objectives TEXT NOT NULL,
    wall_s REAL NOT NULL,
    seed INTEGER NOT NULL
)";

/// The columns as they are read.
pub(super) const COLUMNS: &str = "number, genome, fidelity, objectives, wall_s, seed";

impl Record {
    /// Adds the row; false where the number is taken.
    pub(super) fn insert(&self, connection: &Connection) -> Result<bool, Fault> {
        let insert =
            format!("INSERT OR IGNORE INTO evaluation ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)");
        let text =
            |value: serde_json::Result<String>| value.map_err(|e| Fault::Text(e.to_string()));
        let row = params![
            self.number as i64,
            text(serde_json::to_string(&self.evaluation.genome))?,
            text(serde_json::to_string(&self.evaluation.fidelity))?,
            text(serde_json::to_string(&self.evaluation.objectives))?,
            self.wall.as_secs_f64(),
            self.seed as i64,
        ];
        let mut statement = connection.prepare_cached(&insert)?;
        Ok(statement.execute(row)? == 1)
    }

    /// Reads a row of [`COLUMNS`] of the study of `header`.
    pub(super) fn read(row: &Row<'_>, header: &StudyHeader) -> Result<Self, Fault> {
        let number: i64 = row.get(0)?;
        let wrong = |what: &str| Fault::Text(format!("evaluation {number}: {what}"));
        let text = |column: usize| row.get::<_, String>(column);
        let evaluation = Evaluation {
            genome: serde_json::from_str(&text(1)?)
                .map_err(|error| wrong(&format!("genome: {error}")))?,
            fidelity: serde_json::from_str(&text(2)?)
                .map_err(|error| wrong(&format!("fidelity: {error}")))?,
            objectives: serde_json::from_str(&text(3)?)
                .map_err(|error| wrong(&format!("objectives: {error}")))?,
        };
        let space = Space::new(header.cardinalities.clone());
        if space.is_ok_and(|space| space.check(&evaluation.genome).is_err()) {
            return Err(wrong("its genome does not belong here"));
        }
        if evaluation.objectives.len() != header.objectives.len() {
            return Err(wrong("it has a wrong number of objectives"));
        }
        if let Fidelity::Low(index) = evaluation.fidelity
            && index >= header.low_fidelities.len()
        {
            return Err(wrong("it has a fidelity that the study does not know"));
        }
        let wall = Duration::try_from_secs_f64(row.get(4)?);
        Ok(Self {
            number: usize::try_from(number).map_err(|_| wrong("its number is negative"))?,
            evaluation,
            wall: wall.map_err(|error| wrong(&format!("wall time: {error}")))?,
            seed: row.get::<_, i64>(5)? as u64,
        })
    }
}

/// Why a row cannot be read or written.
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    Text(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}
