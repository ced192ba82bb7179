//! Files that are written whole or not at all.

use std::path::Path;

use crate::SupernetError;

/// Has `write` fill a file beside `path`, flushes it to the disk, then gives it the name.
pub(crate) fn write_with(
    path: &Path,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), SupernetError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let run = || {
        let file = tempfile::NamedTempFile::new_in(folder)?;
        write(file.path())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    run().map_err(|source| SupernetError::Io {
        path: path.to_owned(),
        source,
    })
}
