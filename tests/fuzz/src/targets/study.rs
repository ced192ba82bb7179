//! Studies: SQLite files. An input is JSON that says what stands in one, or the bytes of a file.

use std::fs;
use std::path::Path;

use lathe_search::Study;
use rusqlite::Connection;
use serde_json::Value;

use super::{file, written};

/// A study.
pub fn study(input: &[u8]) {
    let path = file("study.db");
    for name in [
        "study.db",
        "study.db-wal",
        "study.db-shm",
        "study.db-journal",
    ] {
        let _absent = fs::remove_file(file(name));
    }
    match serde_json::from_slice(input) {
        Ok(contents) => {
            // What SQLite refuses does not get into a file.
            let _refused = fill(&path, &contents);
        }
        Err(_) => drop(written("study.db", input)),
    }
    if let Ok(study) = Study::open(&path) {
        let header = study.header();
        let objectives = header.objectives.len();
        if let Ok(records) = study.records() {
            let fits =
                |record: &lathe_search::Record| record.evaluation.objectives.len() == objectives;
            assert!(records.iter().all(fits));
            assert!(
                study
                    .evaluations()
                    .is_ok_and(|all| all.len() == records.len())
            );
        }
    }
}

/// `{"version": 2, "header": {...}, "rows": [[number, genome, fidelity, objectives, wall_s, seed]]}`
fn fill(path: &Path, contents: &Value) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
         CREATE TABLE study (schema_version INTEGER NOT NULL, header TEXT NOT NULL);
         CREATE TABLE evaluation (number INTEGER PRIMARY KEY, genome TEXT NOT NULL,
         fidelity TEXT NOT NULL, objectives TEXT NOT NULL, wall_s REAL NOT NULL, seed INTEGER NOT NULL);",
    )?;
    let header = (scalar(&contents["version"]), contents["header"].to_string());
    connection.execute("INSERT INTO study VALUES (?, ?)", header)?;
    for row in contents["rows"].as_array().into_iter().flatten() {
        let text = |index: usize| row[index].to_string();
        connection.execute(
            "INSERT OR IGNORE INTO evaluation VALUES (?, ?, ?, ?, ?, ?)",
            (
                scalar(&row[0]),
                text(1),
                text(2),
                text(3),
                scalar(&row[4]),
                scalar(&row[5]),
            ),
        )?;
    }
    Ok(())
}

fn scalar(value: &Value) -> rusqlite::types::Value {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().into(),
        },
        Value::Null => rusqlite::types::Value::Null,
        other => other.to_string().into(),
    }
}
