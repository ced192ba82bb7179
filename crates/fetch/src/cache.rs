use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{FetchError, Npm, Pip};

/// The folder in which everything fetched lies: `runtime/`, `models/` and `data/`, and the agents
/// built for devices in `agent/`.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    pip: Pip,
    npm: Npm,
}

impl Cache {
    /// The user's cache: `LATHE_CACHE`, else `lathe` in the system's cache folder.
    ///
    /// # Errors
    /// When there is no such folder and none can be made.
    pub fn from_env() -> Result<Self, FetchError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let root = match set("LATHE_CACHE") {
            Some(root) => PathBuf::from(root),
            None => user_cache_folder()
                .ok_or(FetchError::NoCache)?
                .join("lathe"),
        };
        Self::at(&root, Pip::default())
    }

    /// A cache at `root` that is filled by `pip`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn at(root: &Path, pip: Pip) -> Result<Self, FetchError> {
        fs::create_dir_all(root).map_err(|source| FetchError::io(root, source))?;
        Ok(Self {
            root: root.to_owned(),
            pip,
            npm: Npm::default(),
        })
    }

    /// The same cache, filled by `npm` where that is wanted.
    pub fn with_npm(self, npm: Npm) -> Self {
        Self { npm, ..self }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn pip(&self) -> &Pip {
        &self.pip
    }

    pub(crate) fn npm(&self) -> &Npm {
        &self.npm
    }
}

fn user_cache_folder() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if cfg!(windows) {
        return set("LOCALAPPDATA");
    }
    if cfg!(target_os = "macos") {
        return Some(set("HOME")?.join("Library/Caches"));
    }
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))
}
