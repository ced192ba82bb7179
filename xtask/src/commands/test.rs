use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::Context;
use lathe_fetch::Toolchain;

use crate::arguments::Test;

/// Runs `cargo test` and adds up what its runners say.
pub fn run(arguments: &Test) -> anyhow::Result<ExitCode> {
    let mut test = Toolchain::default().cargo_command();
    test.args(["test", "--workspace"]);
    if !cfg!(debug_assertions) {
        // What this program was built from is then built already.
        test.arg("--release");
    }
    let mut child = test
        .args(&arguments.rest)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test")?;
    let mut counts = [0u64; 3];
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        for (count, found) in counts.iter_mut().zip(parse(&line)) {
            *count += found;
        }
    }
    let status = child.wait()?;
    let [passed, failed, skipped] = counts;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Passed, failed and ignored of a line such as `test result: ok. 3 passed; 0 failed; 0 ignored;`.
fn parse(line: &str) -> [u64; 3] {
    if !line.starts_with("test result:") {
        return [0; 3];
    }
    ["passed", "failed", "ignored"].map(|word| {
        let words: Vec<&str> = line.split([' ', ';']).collect();
        let mut pairs = words.windows(2);
        let found = pairs.find(|pair| pair[1] == word);
        found.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_runner_lines_only() {
        let line = "test result: ok. 8 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse(line), [8, 1, 2]);
        assert_eq!(parse("3 passed"), [0, 0, 0]);
    }
}
