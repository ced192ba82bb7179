//! Checkpoints from the Hugging Face Hub, in the cache that its own tools keep.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};
use serde::Deserialize;

use crate::FetchError;
use crate::item::sha256_of;

/// Names a single file of weights.
const WEIGHTS: &str = "model.safetensors";
/// Names the files of weights that come in several.
const INDEX: &str = "model.safetensors.index.json";
/// Files without which a checkpoint is none.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that are taken along where they exist.
const WELCOME: [&str; 2] = ["tokenizer_config.json", "generation_config.json"];
/// Attempts to go on with an interrupted download.
const RETRIES: usize = 3;

/// The Hub, or a mirror of it.
#[derive(Debug, Clone)]
pub struct Hub {
    cache: hf_hub::Cache,
    endpoint: Option<String>,
}

/// What tells which file of weights holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Default for Hub {
    /// As Hugging Face's tools have it: `HF_HOME` names the cache, `HF_ENDPOINT` a mirror, and a
    /// stored login or `HF_TOKEN` opens gated repositories.
    fn default() -> Self {
        Self {
            cache: hf_hub::Cache::from_env(),
            endpoint: std::env::var("HF_ENDPOINT").ok(),
        }
    }
}

impl Hub {
    /// The Hub at `endpoint`, with a cache of its own.
    pub fn at(endpoint: &str, cache: &Path) -> Self {
        Self {
            cache: hf_hub::Cache::new(cache.to_owned()),
            endpoint: Some(endpoint.to_owned()),
        }
    }

    /// The folder of a model repository, with its files fetched where they are not in the cache.
    ///
    /// # Errors
    /// When a name is none, the Hub does not answer or does not let in, or what it brings is not
    /// a checkpoint or does not match its hash.
    pub fn fetch(&self, repo: &str, revision: &str) -> Result<PathBuf, FetchError> {
        let wrong = |reason: String| FetchError::Hub {
            repo: repo.to_owned(),
            reason,
        };
        if !is_repo_name(repo) || !is_name(revision) {
            return Err(wrong(format!(
                "`{revision}` of `{repo}` is no revision of a repository OWNER/NAME"
            )));
        }
        let id = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        let cached = |file: &str| self.cache.repo(id.clone()).get(file);
        if let Some(folder) = complete(&cached) {
            return Ok(folder);
        }
        let mut api = ApiBuilder::from_cache(self.cache.clone()).with_retries(RETRIES);
        if let Some(endpoint) = &self.endpoint {
            api = api.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Ok(token) = std::env::var("HF_TOKEN") {
            api = api.with_token(Some(token));
        }
        let remote = api.build().map_err(|error| wrong(explain(&error)))?;
        let remote = remote.repo(id.clone());
        let info = remote.info().map_err(|error| wrong(explain(&error)))?;
        let has = |file: &str| info.siblings.iter().any(|s| s.rfilename == file);
        for file in NEEDED
            .into_iter()
            .chain(WELCOME.into_iter().filter(|f| has(f)))
        {
            get(&remote, file).map_err(wrong)?;
        }
        if has(INDEX) {
            let index = get(&remote, INDEX).map_err(wrong)?;
            for shard in shards(&index).map_err(wrong)? {
                get(&remote, &shard).map_err(wrong)?;
            }
        } else if has(WEIGHTS) {
            get(&remote, WEIGHTS).map_err(wrong)?;
        } else {
            let reason = format!("it has neither {WEIGHTS} nor {INDEX}");
            return Err(wrong(reason));
        }
        complete(&cached).ok_or_else(|| wrong("files are missing after the download".to_owned()))
    }
}

/// Whether `name` is `OWNER/NAME`, as the Hub spells repositories.
pub(crate) fn is_repo_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(is_name)
}

/// Whether `name` is one plain part of a path.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain)
}

/// The folder of the files that `cached` finds, when none that is needed is missing.
fn complete(cached: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    for file in NEEDED {
        cached(file)?;
    }
    if let Some(index) = cached(INDEX) {
        for shard in shards(&index).ok()? {
            cached(&shard)?;
        }
    } else {
        cached(WEIGHTS)?;
    }
    cached(NEEDED[0])?.parent().map(Path::to_owned)
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", index.display());
    let text = fs::read(index).map_err(|error| wrong(&error))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    let mut shards: Vec<String> = index.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    match shards.iter().find(|shard| !is_name(shard)) {
        Some(shard) => Err(wrong(&format!("`{shard}` is no file of the repository"))),
        None => Ok(shards),
    }
}

/// One file, from the cache or the Hub. Large files are stored under their SHA-256, which is
/// checked: one that does not match is removed.
fn get(remote: &ApiRepo, file: &str) -> Result<PathBuf, String> {
    let path = remote.get(file).map_err(|error| explain(&error))?;
    let blob = fs::canonicalize(&path).map_err(|error| format!("{file}: {error}"))?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    let is_sha256 = name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    if is_sha256 {
        let found = sha256_of(&blob).map_err(|error| format!("{file}: {error}"))?;
        if found != *name {
            let removed = fs::remove_file(&blob).and_then(|()| fs::remove_file(&path));
            let what = removed.map_or_else(|e| e.to_string(), |()| "it was removed".to_owned());
            return Err(format!(
                "{file}: its SHA-256 is {found}, expected {name}; {what}"
            ));
        }
    }
    Ok(path)
}

fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    let is = |code: &str| text.contains(code);
    if is("401") || is("403") {
        return format!(
            "{text}: there is no such repository, or it asks for a login (accept its terms on its page and set HF_TOKEN)"
        );
    }
    if is("404") {
        return format!("{text}: there is no such repository, revision or file");
    }
    text
}
