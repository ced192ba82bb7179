//! Running a package client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::progress::{bar, folder_bytes};
use crate::{FetchError, Item};

/// Lines of a client's output kept for an error.
const KEPT_LINES: usize = 8;

/// Whether a program is there and works.
pub fn answers(program: &Path, first: &[&str]) -> bool {
    let answer = Command::new(program)
        .args(first)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    answer.is_ok_and(|status| status.success())
}

/// Runs a client that downloads the item's package into `folder`, with a bar for how far it is.
pub fn download(
    client: &'static str,
    command: &mut Command,
    item: &Item,
    folder: &Path,
) -> Result<(), FetchError> {
    let log = folder.join("client.log");
    let file = std::fs::File::create(&log).map_err(|source| FetchError::io(&log, source))?;
    let errors = file
        .try_clone()
        .map_err(|source| FetchError::io(&log, source))?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let program = Path::new(command.get_program()).to_owned();
    let mut child = command
        .spawn()
        .map_err(|source| FetchError::io(&program, source))?;
    let bar = bar(&item.requirement(), item.download_bytes);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(source) => return Err(FetchError::io(program, source)),
        }
        bar.set_position(folder_bytes(folder).min(item.download_bytes));
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
    Err(FetchError::Client {
        client,
        package: item.requirement(),
        output: lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n"),
        by_hand: item.by_hand.clone(),
    })
}
