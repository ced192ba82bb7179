//! Fuzz targets: everything that Lathe reads and did not write a moment ago.
//!
//! A [`Target`] is a reader and what is done at once with what it read. No input may make it panic,
//! ask for far more memory than the input has, or take long; and what was accepted has to hold what
//! the type promises. [`Target::mutate`] changes an input inside its structure (a field of a YAML
//! file, a dimension in a GGUF header) so that most changes get past the first check.
//!
//! `tests/seeded.rs` tries a few thousand changes of the seeds with a fixed seed in every test run;
//! `cargo xtask fuzz TARGET` searches with libFuzzer, guided by coverage.

mod limits;
pub mod mutate;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;

pub use limits::{Cost, cost_of};
pub use targets::TARGETS;

/// Something that reads.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and its folder in `seeds/`.
    pub name: &'static str,
    /// Changes an input inside its structure; `None` where it has none left.
    structure: fn(&[u8], &mut ChaCha8Rng) -> Option<Vec<u8>>,
    /// Reads an input.
    read: fn(&[u8]),
}

impl Target {
    /// The target called so.
    pub fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Reads an input and checks what came of it.
    ///
    /// # Panics
    /// When the reader does, when what it accepted is not sound, or when it asked for far more
    /// memory than the input has bytes.
    pub fn run(&self, input: &[u8]) {
        let cost = cost_of(|| (self.read)(input));
        cost.check(input.len());
    }

    /// The input with one change: most often inside its structure, else in its bytes.
    pub fn mutate(&self, input: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
        if mutate::one_in(rng, 4) {
            return mutate::bytes(input, rng);
        }
        (self.structure)(input, rng).unwrap_or_else(|| mutate::bytes(input, rng))
    }

    /// Folder of the committed inputs.
    pub fn seeds_folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("seeds")
            .join(self.name)
    }

    /// The committed inputs with their names, in order.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let folder = self.seeds_folder();
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let read = entries.flatten().map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a seed can be read"))
        });
        let mut seeds: Vec<_> = read.collect();
        seeds.sort();
        seeds
    }
}
