//! Files that commands leave behind, written atomically.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{ModelConfig, SubnetConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest sub-network file read.
const MAX_SUBNET_BYTES: u64 = 16 << 20;

/// Largest other file read whole.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// File of a trained sub-network's weights, beside its choices.
pub(crate) const WEIGHTS: &str = "weights.safetensors";
/// File of the choices in a folder.
pub(crate) const SUBNET: &str = "subnet.yaml";

/// A sub-network in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSubnet {
    /// Its choices.
    pub config: SubnetConfig,
    /// File of its weights, where they were trained.
    pub weights: Option<PathBuf>,
}

/// Writes the choices of a trained sub-network beside its weights.
pub(crate) fn write_trained(folder: &Path, config: &SubnetConfig) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Trained<'a> {
        #[serde(flatten)]
        config: &'a SubnetConfig,
        weights: &'static str,
    }
    let weights = WEIGHTS;
    write_yaml(&folder.join(SUBNET), &Trained { config, weights })
}

/// Reads a sub-network, a file or a folder with `subnet.yaml`, and checks that it fits the model.
///
/// # Errors
/// Names the file, and the line or the field that is wrong.
pub fn read_subnet(path: &Path, model: &ModelConfig) -> anyhow::Result<StoredSubnet> {
    let in_folder = path.is_dir().then(|| path.join(SUBNET));
    let path = in_folder.as_deref().unwrap_or(path);
    let name = || path.display().to_string();
    // Bounded while it is read: a pipe or a device has no length that could be asked for.
    let mut text = String::new();
    let file = File::open(path).with_context(name)?;
    let mut file = file.take(MAX_SUBNET_BYTES + 1);
    file.read_to_string(&mut text).with_context(name)?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_SUBNET_BYTES,
        "{}: more than the {MAX_SUBNET_BYTES} bytes that are read at most",
        name()
    );
    // An exported manifest also says what was made of the choices.
    let mut value: serde_yaml::Value = serde_yaml::from_str(&text).with_context(name)?;
    let mut remove = |field| value.as_mapping_mut().and_then(|all| all.remove(field));
    let weights = remove("weights");
    let made = ["drift_corrected", "trained", "kept"].map(|field| remove(field).is_some());
    let config: Result<SubnetConfig, _> = match (made, &weights) {
        // Read from the text, errors name the line.
        ([false, false, false], None) => serde_yaml::from_str(&text),
        _ => serde_yaml::from_value(value),
    };
    let config = config.with_context(name)?;
    config.check(model).with_context(name)?;
    let weights = weights.map(|file| {
        let is_known = file.as_str() == Some(WEIGHTS);
        anyhow::ensure!(is_known, "{}: weights: expected {WEIGHTS}", name());
        Ok(path.with_file_name(WEIGHTS))
    });
    Ok(StoredSubnet {
        config,
        weights: weights.transpose()?,
    })
}

/// What `parse` makes of a file of at most 64 MiB.
pub(crate) fn read_bounded<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let name = || path.display().to_string();
    let mut text = Vec::new();
    let file = File::open(path).with_context(name)?;
    let mut file = file.take(MAX_FILE_BYTES + 1);
    file.read_to_end(&mut text).with_context(name)?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_FILE_BYTES,
        "{}: more than the {MAX_FILE_BYTES} bytes that are read at most",
        name()
    );
    parse(&text).with_context(name)
}

/// Removes a file, where it is there.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a value as YAML.
///
/// # Errors
/// When the disk does not take the file.
pub fn write_yaml(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_text(path, &serde_yaml::to_string(value)?)
}

/// Writes a value as JSON.
///
/// # Errors
/// When the disk does not take the file.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_text(path, &format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// What an earlier run with the same settings left at `path`, or what `make` makes.
pub(crate) fn cached<T: Serialize + DeserializeOwned>(
    path: &Path,
    key: &str,
    make: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    #[derive(Serialize, Deserialize)]
    struct Kept<T> {
        settings: String,
        value: T,
    }
    let kept = std::fs::read(path).ok();
    let kept: Option<Kept<T>> = kept.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.settings == key) {
        return Ok(kept.value);
    }
    let kept = Kept {
        settings: key.to_owned(),
        value: make()?,
    };
    write_json(path, &kept)?;
    Ok(kept.value)
}

/// Writes beside `path`, flushes to the disk, then takes the name.
///
/// # Errors
/// When the disk does not take the file.
pub fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let run = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    run().with_context(|| path.display().to_string())
}
