//! Tables on disk.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::{LatencyError, LatencyTable};

/// Largest table read.
const MAX_TABLE_BYTES: u64 = 256 << 20;

impl LatencyTable {
    /// Reads a table and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, is not a table, or holds something that cannot be right.
    pub fn load(path: &Path) -> Result<Self, LatencyError> {
        let io = |source| LatencyError::Io {
            path: path.to_owned(),
            source,
        };
        let format = |message: String| LatencyError::Format {
            path: path.to_owned(),
            message,
        };
        // Bounded while it is read: a pipe or a device has no length that could be asked for.
        let mut text = String::new();
        let file = File::open(path).map_err(io)?;
        let mut file = file.take(MAX_TABLE_BYTES + 1);
        file.read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_TABLE_BYTES {
            let message = format!("more than the {MAX_TABLE_BYTES} bytes that are read at most");
            return Err(format(message));
        }
        let table: Self = serde_yaml::from_str(&text).map_err(|e| format(e.to_string()))?;
        table.check().map_err(|error| format(error.to_string()))?;
        Ok(table)
    }

    /// Writes the table as YAML, atomically.
    ///
    /// # Errors
    /// When the table is not sound or the disk does not take the file.
    pub fn save(&self, path: &Path) -> Result<(), LatencyError> {
        self.check()?;
        let text = serde_yaml::to_string(self).map_err(|error| LatencyError::Format {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| LatencyError::Io {
            path: path.to_owned(),
            source,
        })
    }
}
