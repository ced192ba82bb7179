//! A place to call the command line at, as a user does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A folder to work in, with some text and the tiny model's name.
pub struct Desk {
    folder: TempDir,
}

impl Desk {
    /// A new folder with a text, removed with the desk.
    ///
    /// # Panics
    /// When it fails.
    pub fn with_text() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = [
            "quick", "brown", "fox", "model", "lazy", "dog", "box", "jugs", "five",
        ];
        let passage = |i: usize| {
            let word = |j: usize| {
                // Knuth's multiplicative hash: words that do not repeat in any short period.
                let hash = ((i * 60 + j) as u32).wrapping_mul(2_654_435_761);
                words[(hash >> 16) as usize % words.len()]
            };
            (0..60).map(word).collect::<Vec<_>>().join(" ")
        };
        let text: Vec<String> = (0..400).map(passage).collect();
        fs::write(folder.path().join("text.txt"), text.join("\n\n")).unwrap();
        Self { folder }
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the command line answers.
    ///
    /// # Panics
    /// When it fails.
    pub fn xtask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The command line, called where the workspace is.
    ///
    /// # Panics
    /// When it fails.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::xtask());
        command
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("LATHE_AGENT", crate::agent().program);
        command
    }

    /// The output of a command that must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.xtask(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail with exit code 2 and without a panic.
    ///
    /// # Panics
    /// When it fails otherwise, or does not.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.xtask(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }

    /// Has a training end when it has made some steps, by a signal, and returns how it ended. Its metrics
    /// are in the folder `out`.
    ///
    /// # Panics
    /// When it cannot be started or no signal can be sent.
    pub fn stop(&self, arguments: &[&str], out: &str, signal: &str) -> Option<i32> {
        let metrics = self.path(out).join("metrics.jsonl");
        let mut child = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        let (before, clock) = (lines(), Instant::now());
        while lines() < before + 12 && clock.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap().code()
    }

    /// A file of the folder, as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// The tiny model's name.
    pub fn model(&self) -> String {
        crate::fixture("tiny-llama").to_string_lossy().into_owned()
    }

    /// A short profile of the tiny model: its table, with the samples beside it. It is measured at the
    /// first desk that asks, and laid on all.
    ///
    /// # Panics
    /// When it fails.
    pub fn profile(&self) -> String {
        const FILES: [&str; 2] = ["table.yaml", "table.samples.jsonl"];
        static MEASURED: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
        let (model, table) = (self.model(), self.text(FILES[0]));
        let measured = MEASURED.get_or_init(|| {
            self.succeeds(&short_profile(&model, &table, "f32"));
            FILES.map(|file| fs::read(self.path(file)).unwrap())
        });
        for (file, contents) in FILES.iter().zip(measured) {
            fs::write(self.path(file), contents).unwrap();
        }
        table
    }
}

/// The shortest profile that still has everything in it.
pub fn short_profile<'a>(model: &'a str, table: &'a str, precision: &'a str) -> Vec<&'a str> {
    let blocks = ["profile", "--model", model, "--quick", "--minutes", "0"];
    let rest = ["--networks", "4", "--precision", precision, "--out", table];
    [blocks, rest].concat()
}
