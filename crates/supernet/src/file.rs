//! Small JSON files: read with their name in every error, written atomically.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::SupernetError;

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, SupernetError> {
    let bytes = fs::read(path).map_err(|source| io(path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| SupernetError::Format {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), SupernetError> {
    let text = serde_json::to_vec(value).map_err(|error| SupernetError::Format {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> SupernetError {
    SupernetError::Io {
        path: path.to_owned(),
        source,
    }
}
