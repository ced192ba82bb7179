//! What a training of the super-network leaves: a folder with the trained weights or adapters, the
//! order of units they stand in, and what they belong to.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use lathe_arch::{ModelConfig, SubnetConfig};
use lathe_supernet::checkpoint::ModelWeights;
use lathe_supernet::{
    Importance, ImportanceOrder, Recovery, Supernet, TokenWindows, TrainSettings, Trainer,
    trained_weights,
};
use serde::{Deserialize, Serialize};

use crate::Prepared;
use crate::artefact::{WEIGHTS, read_bounded, write_json, write_yaml};

/// What the folder is, written last: without it there is no adapter.
pub(crate) const MANIFEST: &str = "adapter.yaml";
/// The order of units.
const ORDER: &str = "order.json";
/// The networks that were trained with their neighbours, where there were such.
const TRAINED: &str = "front.json";
/// Of the files as this version writes them.
const VERSION: u32 = 1;
/// Tokens of the calibration that are kept to know its text by.
const KNOWN_TOKENS: usize = 16;

/// A trained super-network in a folder, but for its weights.
#[derive(Debug, Clone)]
pub struct Adapter {
    folder: PathBuf,
    manifest: Manifest,
    order: ImportanceOrder,
    trained: Vec<SubnetConfig>,
}

/// What trained weights belong to, and how they came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    /// Name of the model.
    model: String,
    /// Digest of its weights.
    weights_digest: String,
    /// How its units were ordered.
    importance: Importance,
    /// What stands for units that are cut away.
    recovery: Recovery,
    calibration: CalibrationText,
    /// Steps made.
    steps: usize,
    settings: TrainSettings,
}

/// What the recovery was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationText {
    tokens: usize,
    /// The first of them.
    begins: Vec<u32>,
}

impl CalibrationText {
    fn of(windows: &TokenWindows) -> Self {
        Self {
            tokens: windows.token_count(),
            begins: windows.first(KNOWN_TOKENS).to_vec(),
        }
    }
}

impl Adapter {
    /// Reads what a training left in `folder`; the weights are read when they are applied.
    ///
    /// # Errors
    /// When a file is missing, damaged or of another version.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MANIFEST);
        ensure!(
            path.is_file(),
            "{}: there is no {MANIFEST}: name the folder that a finished `train` wrote",
            folder.display()
        );
        let manifest: Manifest = read_bounded(&path, |text| Ok(serde_yaml::from_slice(text)?))?;
        ensure!(
            manifest.version == VERSION,
            "{}: version {}, expected {VERSION}",
            path.display(),
            manifest.version
        );
        let order = read_bounded(&folder.join(ORDER), |text| {
            Ok(serde_json::from_slice(text)?)
        })?;
        let path = folder.join(TRAINED);
        let trained = match path.is_file() {
            true => read_bounded(&path, |text| Ok(serde_json::from_slice(text)?))?,
            false => Vec::new(),
        };
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            order,
            trained,
        })
    }

    /// How units were ordered in training.
    pub fn importance(&self) -> Importance {
        self.manifest.importance
    }

    /// What stood for units that were cut away in training.
    pub fn recovery(&self) -> Recovery {
        self.manifest.recovery
    }

    /// Tokens of the calibration that was trained with.
    pub fn calibration_tokens(&self) -> usize {
        self.manifest.calibration.tokens
    }

    /// The networks that were trained with their neighbours: others have gained less.
    pub(crate) fn trained(&self) -> &[SubnetConfig] {
        &self.trained
    }

    /// The order of units in training.
    pub(crate) fn order(&self) -> &ImportanceOrder {
        &self.order
    }

    /// Whether it was trained with this calibration text: what is refitted follows from it.
    pub(crate) fn check_text(&self, windows: &TokenWindows) -> anyhow::Result<()> {
        let (found, wanted) = (CalibrationText::of(windows), &self.manifest.calibration);
        ensure!(
            found == *wanted,
            "{}: it was trained with another calibration, {} tokens of other text than these {}: give the same --text",
            self.folder.display(),
            wanted.tokens,
            found.tokens
        );
        Ok(())
    }

    /// `supernet`, made of the same checkpoint in [`Self::order`], with the trained weights.
    pub(crate) fn apply(&self, supernet: Supernet) -> anyhow::Result<Supernet> {
        ensure!(
            supernet.weights_digest() == self.manifest.weights_digest,
            "{}: it was trained of another model, `{}`: give the same --model",
            self.folder.display(),
            self.manifest.model
        );
        let lora = self.manifest.settings.lora.as_ref();
        let weights = trained_weights(&self.folder.join(WEIGHTS), &supernet, lora)?;
        Ok(supernet.with_weights(&weights)?)
    }

    /// The full model of a checkpoint with the trained weights, which networks are held against then.
    pub(crate) fn full_model(
        &self,
        model: &ModelConfig,
        weights: ModelWeights,
    ) -> anyhow::Result<Supernet> {
        let supernet = Supernet::in_order(model, weights, &self.order)?;
        Ok(self.apply(supernet)?.taught_by_itself())
    }

    /// Writes what `trainer` trained of `prepared` near the networks `trained` into `folder`, the
    /// manifest last.
    pub(crate) fn write(
        folder: &Path,
        prepared: &Prepared,
        trained: &[SubnetConfig],
        trainer: &Trainer<'_>,
        settings: &TrainSettings,
    ) -> anyhow::Result<()> {
        trainer.save_trained(&folder.join(WEIGHTS))?;
        write_json(&folder.join(TRAINED), &trained)?;
        write_json(&folder.join(ORDER), prepared.supernet.order())?;
        let manifest = Manifest {
            version: VERSION,
            model: prepared.name.clone(),
            weights_digest: prepared.supernet.weights_digest(),
            importance: prepared.importance(),
            recovery: prepared.recovery(),
            calibration: CalibrationText::of(&prepared.calibration_text()?),
            steps: trainer.steps_done(),
            settings: settings.clone(),
        };
        write_yaml(&folder.join(MANIFEST), &manifest)
    }
}
