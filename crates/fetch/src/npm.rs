//! Running npm.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{answers, download};
use crate::{FetchError, Item};

/// The program that is npm.
#[derive(Debug, Clone)]
pub struct Npm {
    program: PathBuf,
}

impl Default for Npm {
    /// `npm`, as it is found.
    fn default() -> Self {
        let name = if cfg!(windows) { "npm.cmd" } else { "npm" };
        Self::program(Path::new(name))
    }
}

impl Npm {
    /// This program.
    pub fn program(path: &Path) -> Self {
        Self {
            program: path.to_owned(),
        }
    }

    /// Downloads the item's package into `folder`, alone: `npm pack` installs and runs nothing.
    pub(crate) fn download(&self, item: &Item, folder: &Path) -> Result<(), FetchError> {
        if !answers(&self.program, &[]) {
            return Err(FetchError::NoNpm {
                what: format!("{}@{}", item.package, item.version),
                tried: self.program.clone(),
                by_hand: item.by_hand.clone(),
            });
        }
        let mut command = Command::new(&self.program);
        command
            .args(["pack", "--ignore-scripts", "--loglevel=error"])
            .arg("--pack-destination")
            .arg(folder)
            .arg(format!("{}@{}", item.package, item.version));
        download("npm", &mut command, item, folder)
    }
}
