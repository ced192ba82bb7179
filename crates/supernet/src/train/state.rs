//! All that the next step depends on, as a safetensors file.

use std::collections::HashMap;
use std::path::Path;

use lathe_arch::SubnetConfig;

use super::adamw::Moments;
use super::adapters::LoraSettings;
use super::losses::Losses;
use super::settings::TrainSettings;
use super::trainable::Trainable;
use crate::SupernetError;
use crate::file::write_with;
use crate::parameters::Parameters;
use crate::supernet::Supernet;
use crate::tensor_file::TensorFile;
use crate::text::TokenWindows;

/// What is trained and how far it is.
pub(super) struct State {
    pub settings: TrainSettings,
    pub trained: Trainable,
    /// What adapters are beside.
    pub base: Option<Parameters>,
    pub moments: Moments,
    /// Steps made.
    pub step: usize,
    pub losses: Losses,
}

/// Names of the metadata fields.
const FORMAT: &str = "format";
const MADE_OF: &str = "made_of";
const SETTINGS: &str = "settings";
const STEP: &str = "step";
const LOSSES: &str = "losses";

const PRESENT_FORMAT: &str = "lathe training 1";

/// Of what [`trained_weights`] reads.
const TRAINED_FORMAT: &str = "lathe super-network 1";

/// Prefixes of the tensors' names.
const TRAINED: &str = "trained.";
const BASE: &str = "base.";
const FIRST: &str = "first_moments.";
const SECOND: &str = "second_moments.";

impl State {
    /// The weights of the network; `merged` are those with adapters.
    pub fn weights<'w>(&'w self, merged: Option<&'w Parameters>) -> &'w Parameters {
        match (&self.trained, merged) {
            (Trainable::Whole(weights), _) => weights,
            (Trainable::LowRank(_), Some(merged)) => merged,
            (Trainable::LowRank(_), None) => {
                unreachable!("adapters are merged from the beginning")
            }
        }
    }

    pub fn save(
        &self,
        path: &Path,
        supernet: &Supernet,
        config: &SubnetConfig,
        text: &TokenWindows,
    ) -> Result<(), SupernetError> {
        let json = |error: serde_json::Error| SupernetError::Format {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let metadata = HashMap::from([
            (FORMAT.to_owned(), PRESENT_FORMAT.to_owned()),
            (
                MADE_OF.to_owned(),
                made_of(supernet, config, text, self.settings.sampling.is_some()),
            ),
            (
                SETTINGS.to_owned(),
                serde_json::to_string(&self.settings).map_err(json)?,
            ),
            (STEP.to_owned(), self.step.to_string()),
            (
                LOSSES.to_owned(),
                serde_json::to_string(&self.losses).map_err(json)?,
            ),
        ]);
        let mut tensors = self.trained.named(TRAINED);
        tensors.extend(self.base.iter().flat_map(|base| base.named(BASE)));
        tensors.extend(self.moments.first.named(FIRST));
        tensors.extend(self.moments.second.named(SECOND));
        write_with(path, |temporary| {
            safetensors::serialize_to_file(tensors, Some(metadata), temporary)
                .map_err(std::io::Error::other)
        })
    }

    /// What is trained, and nothing else.
    pub fn save_trained(&self, path: &Path) -> Result<(), SupernetError> {
        // A single field: several would stand in another order every time.
        let metadata = HashMap::from([(FORMAT.to_owned(), TRAINED_FORMAT.to_owned())]);
        write_with(path, |temporary| {
            safetensors::serialize_to_file(self.trained.named(""), Some(metadata), temporary)
                .map_err(std::io::Error::other)
        })
    }

    pub fn load(
        path: &Path,
        supernet: &Supernet,
        config: &SubnetConfig,
        text: &TokenWindows,
        settings: &TrainSettings,
    ) -> Result<Self, SupernetError> {
        let file = TensorFile::open(path)?;
        let fields = file.fields();
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        if field(FORMAT) != PRESENT_FORMAT {
            return Err(file.format("this is no state of a training"));
        }
        if field(MADE_OF) != made_of(supernet, config, text, settings.sampling.is_some()) {
            return Err(file.format(
                "it is of another model, adapter, sub-network or text: give the same, or train anew",
            ));
        }
        let found: TrainSettings = serde_json::from_str(field(SETTINGS))
            .map_err(|error| file.format(&format!("settings: {error}")))?;
        let wanted = TrainSettings {
            steps: settings.steps.or(found.steps),
            ..settings.clone()
        };
        if found != wanted {
            return Err(file.format(&format!(
                "it was trained with other settings, {}: give the same, or train anew",
                field(SETTINGS)
            )));
        }
        let step = field(STEP).parse();
        let step = step.map_err(|_| file.format("the number of steps is missing"))?;
        let model = supernet.model();
        let read = |prefix| {
            let lora = found.lora.as_ref();
            Trainable::read(&file, prefix, model, config, lora)
        };
        let base = match &found.lora {
            Some(_) => Some(Parameters::read(&file, BASE, model, config)?),
            None => None,
        };
        let state = Self {
            trained: read(TRAINED)?,
            base,
            moments: Moments {
                first: read(FIRST)?,
                second: read(SECOND)?,
            },
            step,
            losses: serde_json::from_str(field(LOSSES))
                .map_err(|error| file.format(&format!("losses: {error}")))?,
            settings: found,
        };
        state.check(&file)?;
        Ok(state)
    }

    /// Tensors that may be absent are absent everywhere.
    fn check(&self, file: &TensorFile) -> Result<(), SupernetError> {
        let lengths = |numbers: &Trainable| -> Vec<usize> {
            let values = numbers.values();
            values.iter().map(|values| values.numbers.len()).collect()
        };
        let trained = lengths(&self.trained);
        let is_same = |moments| lengths(moments) == trained;
        match is_same(&self.moments.first) && is_same(&self.moments.second) {
            true => Ok(()),
            false => Err(file.format("the moments are not those of the weights")),
        }
    }
}

/// The weights that [`Trainer::save_trained`](super::Trainer::save_trained) left of a training of
/// `supernet`, adapters of `lora` merged into its own.
///
/// # Errors
/// When the file cannot be read or holds no such weights.
pub fn trained_weights(
    path: &Path,
    supernet: &Supernet,
    lora: Option<&LoraSettings>,
) -> Result<Parameters, SupernetError> {
    let file = TensorFile::open(path)?;
    let fields = file.fields();
    if fields.get(FORMAT).map(String::as_str) != Some(TRAINED_FORMAT) {
        return Err(file.format("these are no weights of a trained super-network"));
    }
    let full = supernet.teacher();
    match Trainable::read(&file, "", supernet.model(), full.config(), lora)? {
        Trainable::Whole(weights) => Ok(weights),
        Trainable::LowRank(adapters) => {
            let base = Parameters::of(&full);
            let mut merged = base.clone();
            adapters.merge(&base, &mut merged);
            Ok(merged)
        }
    }
}

/// Tells trainings apart by the model, the sub-network and the text.
fn made_of(
    supernet: &Supernet,
    config: &SubnetConfig,
    text: &TokenWindows,
    is_shared: bool,
) -> String {
    // FNV-1a: stable across versions of the standard library.
    let hash = |words: &mut dyn Iterator<Item = u64>| {
        words.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
            (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let mut tokens = text.tokens().iter().map(|token| u64::from(*token));
    let layers = format!("{:?}", config.layers);
    let mut layers = layers.bytes().map(u64::from);
    // Sub-networks of a super-network also depend on its order and calibration.
    let cut_from = is_shared.then(|| format!("super-network {:016x}, ", supernet.digest()));
    format!(
        "{}model {}, sub-network {:016x}, {} windows of {} tokens {:016x}",
        cut_from.unwrap_or_default(),
        supernet.weights_digest(),
        hash(&mut layers),
        text.window_count(),
        text.window_len(),
        hash(&mut tokens),
    )
}
