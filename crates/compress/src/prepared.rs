//! A model ready to be cut: loaded, calibrated, ordered.

use std::path::{Path, PathBuf};

use lathe_arch::{ModelConfig, SearchSpace, SpaceSpec};
use lathe_fetch::{Cache, ModelSpec};
use lathe_supernet::checkpoint::{Checkpoint, Tokenizer};
use lathe_supernet::{Calibration, Split, Supernet, TextSplits, TokenWindows};
use serde::{Deserialize, Serialize};

use crate::artefact::write_json;

/// Tokens of a window: each token is scored with up to this many before it.
pub const WINDOW_TOKENS: usize = 512;

/// Seed of the split of the text into calibration, search and test.
const SPLIT_SEED: u64 = 1;

/// Told what is being done, how much is done, and how much there is in all.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// A model ready to be cut.
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its weights in order of importance.
    pub supernet: Supernet,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its default search space.
    pub space: SearchSpace,
    text: TextSplits,
}

/// A calibration and what it was made of, so that a stale one is noticed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCalibration {
    checkpoint: String,
    checkpoint_bytes: u64,
    tokens: usize,
    first_tokens: Vec<u32>,
    calibration: Calibration,
}

impl Prepared {
    /// Loads the model of `spec`, fetching what is missing, and orders its units by calibration
    /// on `tokens` tokens. The calibration is kept in `folder` for the next time.
    ///
    /// # Errors
    /// When something cannot be fetched or read.
    pub fn new(
        spec: &ModelSpec,
        cache: &Cache,
        text: TextSplits,
        tokens: usize,
        folder: &Path,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        progress("reading the checkpoint", 0, 1);
        let checkpoint = Checkpoint::load(&spec.fetch(cache)?)?;
        let model = &checkpoint.config;
        let context = model.max_position_embeddings;
        let window_tokens = WINDOW_TOKENS.min(context);
        let windows = tokens.div_ceil(window_tokens).max(1);
        let windows = text.windows(
            Split::Calibration,
            &checkpoint.tokenizer,
            windows,
            window_tokens,
        )?;
        let calibration = calibrate(&checkpoint, &windows, folder, progress)?;
        progress("ordering units by importance", 0, 1);
        let supernet = Supernet::ordered(model, &checkpoint.weights, &calibration)?;
        let choices = spec.search_space.clone();
        let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
        Ok(Self {
            space: SearchSpace::new(model, &spec.name, &choices)?,
            name: spec.name.clone(),
            supernet,
            tokenizer: checkpoint.tokenizer,
            text,
        })
    }

    /// Its dimensions.
    pub fn model(&self) -> &ModelConfig {
        self.supernet.model()
    }

    /// The first `tokens` tokens of a part of the text, in windows. A larger number contains the
    /// smaller.
    ///
    /// # Errors
    /// When the part has too little text.
    pub fn windows(&self, split: Split, tokens: usize) -> anyhow::Result<TokenWindows> {
        let context = self.model().max_position_embeddings;
        let window_tokens = WINDOW_TOKENS.min(context).min(tokens).max(1);
        let windows = tokens.div_ceil(window_tokens).max(1);
        Ok(self
            .text
            .windows(split, &self.tokenizer, windows, window_tokens)?)
    }
}

/// The text to work on: `file`, or what is fetched.
///
/// # Errors
/// When the text cannot be fetched or read.
pub fn load_text(cache: &Cache, file: Option<&Path>) -> anyhow::Result<TextSplits> {
    let files: Vec<PathBuf> = match file {
        Some(file) => vec![file.to_owned()],
        None => lathe_fetch::text(cache)?,
    };
    let mut passages = Vec::new();
    for file in files {
        passages.extend(lathe_fetch::read_passages(&file)?);
    }
    Ok(TextSplits::new(passages, SPLIT_SEED))
}

fn calibration_path(folder: &Path) -> PathBuf {
    folder.join("calibration.json")
}

fn calibrate(
    checkpoint: &Checkpoint,
    windows: &TokenWindows,
    folder: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<Calibration> {
    let path = calibration_path(folder);
    let checkpoint_bytes = folder_or_file_bytes(&checkpoint.path);
    let first_tokens = windows.first(16).to_vec();
    let tokens = windows.token_count();
    let stored = std::fs::read(&path).ok();
    let stored: Option<StoredCalibration> =
        stored.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(stored) = stored
        && stored.checkpoint == checkpoint.path.display().to_string()
        && stored.checkpoint_bytes == checkpoint_bytes
        && stored.tokens == tokens
        && stored.first_tokens == first_tokens
    {
        return Ok(stored.calibration);
    }
    let unordered = Supernet::unordered(&checkpoint.config, &checkpoint.weights);
    progress("calibrating", 0, tokens);
    let calibration = Calibration::measure(&unordered, windows, |done| {
        progress("calibrating", done, tokens);
    });
    let stored = StoredCalibration {
        checkpoint: checkpoint.path.display().to_string(),
        checkpoint_bytes,
        tokens,
        first_tokens,
        calibration,
    };
    write_json(&path, &stored)?;
    Ok(stored.calibration)
}

fn folder_or_file_bytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => size(path),
    }
}
