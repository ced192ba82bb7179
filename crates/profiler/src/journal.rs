//! An append-only record of visits: JSON lines, the first of which says what is measured.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::ProfilerError;

/// A journal open for appending.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal at `path` and returns what it holds. A new one begins with `header`; an
    /// existing one must have the same header, and needs `resume`.
    ///
    /// A last line that was cut off by a crash is dropped.
    pub fn open<H, R>(
        path: &Path,
        header: &H,
        resume: bool,
    ) -> Result<(Self, Vec<R>), ProfilerError>
    where
        H: Serialize,
        R: DeserializeOwned,
    {
        let io = |source| ProfilerError::Io {
            path: path.to_owned(),
            source,
        };
        let header = to_line(path, header)?;
        let lines = match File::open(path) {
            Ok(file) => whole_lines(BufReader::new(file)).map_err(io)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let mut records = Vec::new();
        if let Some((first, rest)) = lines.split_first() {
            if !resume {
                return Err(ProfilerError::EarlierSamples {
                    path: path.to_owned(),
                });
            }
            if *first != header {
                return Err(ProfilerError::OtherJournal {
                    path: path.to_owned(),
                });
            }
            for (index, line) in rest.iter().enumerate() {
                let record = serde_json::from_str(line).map_err(|e| ProfilerError::Format {
                    path: path.to_owned(),
                    message: format!("line {}: {e}", index + 2),
                })?;
                records.push(record);
            }
        }
        let keep: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(io)?;
        file.set_len(keep).map_err(io)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
        };
        if lines.is_empty() {
            journal.write(&header)?;
        }
        Ok((journal, records))
    }

    /// Appends one record and waits until it is on the disk.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), ProfilerError> {
        let line = to_line(&self.path, record)?;
        self.write(&line)
    }

    fn write(&mut self, line: &str) -> Result<(), ProfilerError> {
        let bytes = format!("{line}\n");
        let written = self.file.write_all(bytes.as_bytes());
        let written = written.and_then(|()| self.file.sync_data());
        written.map_err(|source| ProfilerError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

fn to_line(path: &Path, value: &impl Serialize) -> Result<String, ProfilerError> {
    serde_json::to_string(value).map_err(|error| ProfilerError::Format {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Lines that end in a line break.
fn whole_lines(mut source: impl BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        source.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(whole) => lines.push(whole.to_owned()),
            None => return Ok(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, header: &str, resume: bool) -> Result<(Journal, Vec<u32>), ProfilerError> {
        Journal::open(path, &header, resume)
    }

    #[test]
    fn records_survive_and_a_cut_off_line_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, records) = open(&path, "plan", false).unwrap();
        assert!(records.is_empty());
        for record in [1u32, 2, 3] {
            journal.append(&record).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"4"].concat()).unwrap();
        let (mut journal, records) = open(&path, "plan", true).unwrap();
        assert_eq!(records, [1, 2, 3]);
        journal.append(&5u32).unwrap();
        drop(journal);
        assert_eq!(open(&path, "plan", true).unwrap().1, [1, 2, 3, 5]);
    }

    #[test]
    fn other_plans_and_unasked_resumption_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        drop(open(&path, "plan", false).unwrap());
        let unasked = open(&path, "plan", false);
        assert!(matches!(unasked, Err(ProfilerError::EarlierSamples { .. })));
        let other = open(&path, "another", true);
        assert!(matches!(other, Err(ProfilerError::OtherJournal { .. })));
        std::fs::write(&path, "\"plan\"\nnonsense\n").unwrap();
        let message = open(&path, "plan", true).err().unwrap().to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
