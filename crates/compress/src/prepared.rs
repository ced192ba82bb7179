//! A model ready to be cut: loaded, calibrated, ordered.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{ModelConfig, SearchSpace, SpaceSpec, SubnetConfig};
use lathe_fetch::{Cache, ModelSpec};
use lathe_supernet::checkpoint::{Checkpoint, Tokenizer};
use lathe_supernet::{
    Calibration, Importance, ImportanceOrder, Recovery, Split, Subnet, Supernet, TextSplits,
    TokenWindows,
};
use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::artefact::write_json;
use crate::kept::{self, digest};

/// Tokens of a window: each token is scored with up to this many before it.
pub const WINDOW_TOKENS: usize = 512;

/// Calibration tokens for each channel of the widest block below which correcting drift may do harm:
/// with 21 a network that a search had found lost 4 % more after it, with 64 less at every level.
const DRIFT_TOKENS_PER_CHANNEL: usize = 32;

/// The folder of the cache for calibrations.
const KEPT: &str = "calibration";
/// The calibration's file in a folder of its own.
const CALIBRATION: &str = "calibration.safetensors";

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
    choices: SpaceSpec,
    text: TextSplits,
    made: Made,
}

/// What a super-network was made of.
struct Made {
    checkpoint: PathBuf,
    importance: Importance,
    recovery: Recovery,
    calibration_tokens: usize,
    /// Tells calibrations apart.
    origin: String,
    /// Where calibration and orders are kept.
    folder: PathBuf,
    /// Networks on which its weights were trained.
    trained: Vec<SubnetConfig>,
}

/// How a model is made ready.
#[derive(Debug, Clone, Copy)]
pub struct Preparation<'a> {
    /// Tokens of the calibration, at most.
    pub calibration_tokens: usize,
    /// How units are ordered.
    pub importance: Importance,
    /// What stands for units that are cut away.
    pub recovery: Recovery,
    /// A trained super-network to cut from, whose own calibration, order and recovery take the place of
    /// these.
    pub adapter: Option<&'a Adapter>,
}

/// An order and what it was made of, so that a stale one is noticed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOrder {
    origin: String,
    importance: Importance,
    order: ImportanceOrder,
}

impl Prepared {
    /// Loads the model of `spec`, fetching what is missing, calibrates it and orders its units.
    /// Calibration and order are kept in `cache` for the next time.
    ///
    /// # Errors
    /// When something cannot be fetched or read.
    pub fn new(
        spec: &ModelSpec,
        cache: &Cache,
        text: TextSplits,
        preparation: &Preparation<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        progress("reading the checkpoint", 0, 1);
        let path = spec.fetch(cache)?;
        let mut checkpoint = Checkpoint::load(&path)?;
        let adapter = preparation.adapter;
        let tokens = adapter.map_or(preparation.calibration_tokens, Adapter::calibration_tokens);
        let windows =
            calibration_windows(&text, &checkpoint.tokenizer, &checkpoint.config, tokens)?;
        adapter.map_or(Ok(()), |adapter| adapter.check_text(&windows))?;
        let origin = origin(&checkpoint.path, &windows);
        let folder = kept::folder(&cache.root().join(KEPT), &origin)?;
        let stored = folder.join(CALIBRATION);
        // A file that cannot be used is made anew.
        let mut calibration = Calibration::load(&stored, &origin).ok().flatten();
        if calibration.is_none() {
            calibrate(checkpoint, &windows, &origin, &stored, progress)?;
            checkpoint = Checkpoint::load(&path)?;
            calibration = Calibration::load(&stored, &origin)?;
        }
        let calibration = calibration.context("the calibration was just written")?;
        progress("ordering units by importance", 0, 1);
        let importance = adapter.map_or(preparation.importance, Adapter::importance);
        let recovery = adapter.map_or(preparation.recovery, Adapter::recovery);
        let seen = (&windows, &calibration);
        let order = match adapter {
            Some(adapter) => adapter.order().clone(),
            None => order(&checkpoint, seen, importance, &origin, &folder)?,
        };
        progress("factorising the recovery", 0, 1);
        let calibration_tokens = calibration.tokens;
        let mut supernet = Supernet::ordered(
            &checkpoint.config,
            checkpoint.weights,
            calibration,
            &order,
            recovery,
        )?;
        if let Some(adapter) = adapter {
            progress("reading the trained weights", 0, 1);
            supernet = adapter.apply(supernet)?;
        }
        Self::of(
            spec,
            supernet,
            text,
            checkpoint.tokenizer,
            Made {
                checkpoint: checkpoint.path,
                importance,
                recovery,
                calibration_tokens,
                origin,
                folder,
                trained: adapter.map_or_else(Vec::new, |adapter| adapter.trained().to_vec()),
            },
        )
    }

    /// Loads the model of `spec` for networks of which nothing is cut away: they need no calibration. With
    /// an adapter it is the full model as it was trained, and networks are held against that.
    ///
    /// # Errors
    /// When something cannot be fetched or read.
    pub fn unpruned(
        spec: &ModelSpec,
        cache: &Cache,
        text: TextSplits,
        adapter: Option<&Adapter>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        progress("reading the checkpoint", 0, 1);
        let checkpoint = Checkpoint::load(&spec.fetch(cache)?)?;
        let (model, weights) = (&checkpoint.config, checkpoint.weights);
        let supernet = match adapter {
            Some(adapter) => adapter.full_model(model, weights)?,
            None => Supernet::unordered(model, weights),
        };
        Self::of(
            spec,
            supernet,
            text,
            checkpoint.tokenizer,
            Made {
                checkpoint: checkpoint.path,
                importance: Importance::Reconstruction,
                recovery: Recovery::None,
                calibration_tokens: 0,
                origin: String::new(),
                folder: PathBuf::new(),
                trained: Vec::new(),
            },
        )
    }

    fn of(
        spec: &ModelSpec,
        supernet: Supernet,
        text: TextSplits,
        tokenizer: Tokenizer,
        made: Made,
    ) -> anyhow::Result<Self> {
        let model = supernet.model();
        let choices = spec.search_space.clone();
        let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
        Ok(Self {
            space: SearchSpace::new(model, &spec.name, &choices)?,
            name: spec.name.clone(),
            choices,
            supernet,
            tokenizer,
            text,
            made,
        })
    }

    /// Lets the search choose among other things than the model's own choices.
    ///
    /// # Errors
    /// When a choice is not one of the model's.
    pub fn choose_among(&mut self, choices: SpaceSpec) -> anyhow::Result<()> {
        self.space = SearchSpace::new(self.model(), &self.name, &choices)?;
        self.choices = choices;
        Ok(())
    }

    /// Networks near which its weights were trained: others have gained less, so a search should know
    /// these.
    pub fn trained(&self) -> &[SubnetConfig] {
        &self.made.trained
    }

    /// The same model with its units in another order, or with another recovery.
    ///
    /// # Errors
    /// When the checkpoint cannot be read again.
    pub fn reordered(
        &self,
        importance: Importance,
        recovery: Recovery,
    ) -> anyhow::Result<Supernet> {
        let checkpoint = Checkpoint::load(&self.made.checkpoint)?;
        let tokens = self.made.calibration_tokens;
        let model = &checkpoint.config;
        let windows = calibration_windows(&self.text, &self.tokenizer, model, tokens)?;
        let calibration = self.calibration()?;
        let seen = (&windows, &calibration);
        let made = &self.made;
        let order = order(&checkpoint, seen, importance, &made.origin, &made.folder)?;
        Ok(Supernet::ordered(
            model,
            checkpoint.weights,
            calibration,
            &order,
            recovery,
        )?)
    }

    /// A sub-network as it is exported: corrected for the drift of its residual stream on the
    /// calibration text, where blocks are refitted and there is text enough.
    ///
    /// # Errors
    /// When it does not fit the model or the text cannot be had.
    pub fn cut(&self, subnet: &SubnetConfig, progress: Progress<'_>) -> anyhow::Result<Subnet<'_>> {
        let cut = self.supernet.cut(subnet)?;
        match self.corrects_drift() {
            true => self.correct(cut, progress),
            false => Ok(cut),
        }
    }

    /// Whether drift is corrected: where the super-network was trained, its networks have learnt to live
    /// with it, and least squares on single blocks would undo that.
    pub(crate) fn corrects_drift(&self) -> bool {
        self.has_text_for_drift() && !self.supernet.is_trained()
    }

    /// Whether there is text enough to correct drift with.
    pub(crate) fn has_text_for_drift(&self) -> bool {
        let least = DRIFT_TOKENS_PER_CHANNEL * self.model().intermediate_size;
        self.recovery() == Recovery::LeastSquares && self.calibration_tokens() >= least
    }

    /// `subnet`, of this model in any order, corrected for drift.
    ///
    /// # Errors
    /// When the text cannot be had.
    pub(crate) fn correct<'s>(
        &self,
        subnet: Subnet<'s>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Subnet<'s>> {
        let windows = self.calibration_text()?;
        let layers = self.model().num_hidden_layers;
        Ok(subnet.correct_drift(&windows, |done| progress("correcting drift", done, layers))?)
    }

    /// What its search space was made of.
    pub fn choices(&self) -> &SpaceSpec {
        &self.choices
    }

    /// The file or folder of its checkpoint.
    pub fn checkpoint(&self) -> &Path {
        &self.made.checkpoint
    }

    /// What stands for units that are cut away.
    pub fn recovery(&self) -> Recovery {
        self.made.recovery
    }

    /// How its units are ordered.
    pub fn importance(&self) -> Importance {
        self.made.importance
    }

    /// The text of the calibration.
    ///
    /// # Errors
    /// When the text cannot be had.
    pub(crate) fn calibration_text(&self) -> anyhow::Result<TokenWindows> {
        let tokens = self.made.calibration_tokens;
        calibration_windows(&self.text, &self.tokenizer, self.model(), tokens)
    }

    /// Tokens of the calibration: those asked for, or what text there was.
    pub fn calibration_tokens(&self) -> usize {
        self.made.calibration_tokens
    }

    /// What its units do on the calibration text, read again from the disk: it is larger than the
    /// model.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn calibration(&self) -> anyhow::Result<Calibration> {
        let path = self.made.folder.join(CALIBRATION);
        let calibration = Calibration::load(&path, &self.made.origin)?;
        calibration.with_context(|| format!("{}: the calibration is gone", path.display()))
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
        let (windows, window_tokens) = window_count(self.model(), tokens);
        Ok(self
            .text
            .windows(split, &self.tokenizer, windows, window_tokens)?)
    }

    /// Has trainings read `passages`, but for those that are searched or tested with.
    pub fn train_on(&mut self, passages: Vec<String>) {
        self.text.train_on(passages);
    }

    /// What tells the text for training from another.
    pub(crate) fn training_digest(&self) -> u64 {
        digest(&self.text.passages(Split::Training).join("\n\n"))
    }

    /// The text for training, at most `tokens` tokens, in windows of `window_tokens`.
    ///
    /// # Errors
    /// When it does not fill a single window.
    pub(crate) fn training_windows(
        &self,
        window_tokens: usize,
        tokens: usize,
    ) -> anyhow::Result<TokenWindows> {
        let windows = (tokens / window_tokens.max(1)).max(1);
        Ok(self
            .text
            .windows_up_to(Split::Training, &self.tokenizer, windows, window_tokens)?)
    }

    /// The same, or what text there is.
    ///
    /// # Errors
    /// When the part does not fill a single window.
    pub(crate) fn windows_up_to(
        &self,
        split: Split,
        tokens: usize,
    ) -> anyhow::Result<TokenWindows> {
        let (windows, window_tokens) = window_count(self.model(), tokens);
        Ok(self
            .text
            .windows_up_to(split, &self.tokenizer, windows, window_tokens)?)
    }
}

/// How many windows hold `tokens` tokens, and the tokens of each.
pub(crate) fn window_count(model: &ModelConfig, tokens: usize) -> (usize, usize) {
    let context = model.max_position_embeddings;
    let window_tokens = WINDOW_TOKENS.min(context).min(tokens).max(1);
    (tokens.div_ceil(window_tokens).max(1), window_tokens)
}

/// The text to work on: a file or a folder, or what is fetched.
///
/// # Errors
/// When the text cannot be fetched or read.
pub fn load_text(cache: &Cache, file: Option<&Path>) -> anyhow::Result<TextSplits> {
    let passages = match file {
        Some(file) => read_text(file)?,
        None => read_files(&lathe_fetch::text(cache)?)?,
    };
    Ok(TextSplits::new(passages, SPLIT_SEED))
}

/// The passages of a file, or of all text in a folder: files named `.txt`, `.md` or `.jsonl`.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read_text(path: &Path) -> anyhow::Result<Vec<String>> {
    if !path.is_dir() {
        return Ok(lathe_fetch::read_passages(path)?);
    }
    let name = || path.display().to_string();
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).with_context(name)?.collect();
    let entries = entries.with_context(name)?.into_iter();
    let is_text = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && matches!(extension, Some("txt" | "md" | "jsonl"))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_text).collect();
    anyhow::ensure!(
        !files.is_empty(),
        "{}: there is no file named .txt, .md or .jsonl in the folder",
        name()
    );
    files.sort();
    read_files(&files)
}

fn read_files(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut passages = Vec::new();
    for file in files {
        passages.extend(lathe_fetch::read_passages(file)?);
    }
    Ok(passages)
}

/// Windows of the calibration text with `tokens` tokens in all; with less text, what there is.
pub(crate) fn calibration_windows(
    text: &TextSplits,
    tokenizer: &Tokenizer,
    model: &ModelConfig,
    tokens: usize,
) -> anyhow::Result<TokenWindows> {
    let window_tokens = WINDOW_TOKENS.min(model.max_position_embeddings);
    let windows = tokens.div_ceil(window_tokens).max(1);
    Ok(text.windows_up_to(Split::Calibration, tokenizer, windows, window_tokens)?)
}

/// What a calibration is made of: the checkpoint and the text.
fn origin(checkpoint: &Path, windows: &TokenWindows) -> String {
    format!(
        "{}, {} bytes, {} tokens from {:?}",
        checkpoint.display(),
        folder_or_file_bytes(checkpoint),
        windows.token_count(),
        windows.first(16),
    )
}

fn calibrate(
    checkpoint: Checkpoint,
    windows: &TokenWindows,
    origin: &str,
    path: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let tokens = windows.token_count();
    let unordered = Supernet::unordered(&checkpoint.config, checkpoint.weights);
    progress("calibrating", 0, tokens);
    let calibration = Calibration::measure(&unordered, windows, |done| {
        progress("calibrating", done, tokens);
    });
    Ok(calibration.save(path, origin)?)
}

/// The units' order: from `folder`, or made of the calibration text and what the units do on it.
fn order(
    checkpoint: &Checkpoint,
    (windows, calibration): (&TokenWindows, &Calibration),
    importance: Importance,
    origin: &str,
    folder: &Path,
) -> anyhow::Result<ImportanceOrder> {
    let path = folder.join(format!("order-{}.json", importance.name()));
    let stored = std::fs::read(&path).ok();
    let stored: Option<StoredOrder> = stored.and_then(|text| serde_json::from_slice(&text).ok());
    let (model, weights) = (&checkpoint.config, &checkpoint.weights);
    let is_usable = |stored: &StoredOrder| {
        stored.origin == origin
            && stored.importance == importance
            && stored.order.check(model).is_ok()
    };
    if let Some(stored) = stored.filter(is_usable) {
        return Ok(stored.order);
    }
    let stored = StoredOrder {
        origin: origin.to_owned(),
        importance,
        order: ImportanceOrder::of(model, weights, calibration, windows, importance)?,
    };
    write_json(&path, &stored)?;
    Ok(stored.order)
}

fn folder_or_file_bytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => size(path),
    }
}
