//! A model with a narrower residual stream, as a checkpoint of its own.

use std::path::{Path, PathBuf};

use lathe_fetch::{Cache, ModelSpec};
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{Split, Supernet, TokenWindows, narrowed, perplexity};
use serde::Serialize;

use crate::prepared::{calibration_windows, window_count};
use crate::{Progress, load_text};

/// What to narrow, and how far.
pub struct Narrowing<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// Where fetched things lie.
    pub cache: &'a Cache,
    /// Text to use instead of the fetched one.
    pub text: Option<&'a Path>,
    /// Width of the residual stream that is left.
    pub hidden_size: usize,
    /// Tokens from which the stream's principal components are taken.
    pub calibration_tokens: usize,
    /// Tokens of the perplexities before and after.
    pub test_tokens: usize,
    /// The Hugging Face folder to write.
    pub folder: &'a Path,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Narrowed {
    /// Width of the model's residual stream, and of the one that is left.
    pub hidden_size: [usize; 2],
    /// Attention heads, which stay.
    pub num_attention_heads: usize,
    /// Parameters before and after.
    pub parameters: [u64; 2],
    /// Perplexity before and after, on text that was not calibrated on.
    pub perplexity: [f64; 2],
}

impl Narrowing<'_> {
    /// Narrows the model, writes it and scores it.
    ///
    /// # Errors
    /// When the model cannot be narrowed so, or something cannot be fetched, read or written.
    pub fn run(&self, progress: Progress<'_>) -> anyhow::Result<Narrowed> {
        progress("reading the checkpoint", 0, 1);
        let path = self.model.fetch(self.cache)?;
        let is_same = |out: PathBuf| path.canonicalize().is_ok_and(|path| path == out);
        anyhow::ensure!(
            !self.folder.canonicalize().is_ok_and(is_same),
            "--out {}: the model itself lies there, name another folder",
            self.folder.display()
        );
        let checkpoint = Checkpoint::load(&path)?;
        let text = load_text(self.cache, self.text)?;
        let (tokenizer, config) = (&checkpoint.tokenizer, &checkpoint.config);
        let windows = calibration_windows(&text, tokenizer, config, self.calibration_tokens)?;
        let (count, len) = window_count(config, self.test_tokens);
        let test = text.windows(Split::Test, tokenizer, count, len)?;
        let blocks = 4 * config.num_hidden_layers + 2;
        let (config, weights) = narrowed(
            config,
            &checkpoint.weights,
            &windows,
            self.hidden_size,
            |done| progress("narrowing", done, blocks),
        )?;
        let narrow = Checkpoint {
            path: self.folder.to_owned(),
            config,
            weights,
            tokenizer: checkpoint.tokenizer,
        };
        progress("writing", 0, 1);
        narrow.save(self.folder)?;
        progress("scoring", 0, 1);
        Ok(Narrowed {
            hidden_size: [checkpoint.config.hidden_size, narrow.config.hidden_size],
            num_attention_heads: narrow.config.num_attention_heads,
            parameters: [checkpoint.weights.parameters(), narrow.weights.parameters()],
            perplexity: [
                scored(
                    Supernet::unordered(&checkpoint.config, checkpoint.weights),
                    &test,
                )?,
                scored(Supernet::unordered(&narrow.config, narrow.weights), &test)?,
            ],
        })
    }
}

fn scored(model: Supernet, test: &TokenWindows) -> anyhow::Result<f64> {
    Ok(perplexity(&model.full(), test)?.perplexity())
}
