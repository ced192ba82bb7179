//! Calibrations and orders that are kept for the next command: they take minutes, and a gigabyte.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;

/// Bytes of all that is kept, beyond which what was used the longest ago goes.
const KEPT_BYTES: u64 = 6 << 30;
/// What was used within this time stays: another process may read it once more, hours after it began.
const IN_USE: Duration = Duration::from_secs(24 * 3600);
/// Its time says when a folder was last used.
const USED: &str = "used";

/// The folder in `root` for what is made of `origin`, a checkpoint and a text, and room for it.
///
/// # Errors
/// When the folder cannot be made.
pub(crate) fn folder(root: &Path, origin: &str) -> anyhow::Result<PathBuf> {
    let folder = root.join(format!("{:016x}", digest(origin)));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // A cache that cannot be written to can be read all the same.
    let _ = fs::write(folder.join(USED), origin);
    make_room(root, KEPT_BYTES, SystemTime::now());
    Ok(folder)
}

/// FNV-1a: stable across versions of the standard library.
pub(crate) fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Removes what was used the longest ago until the rest is no larger than `limit`. What cannot be removed
/// stays: that is no reason not to work.
fn make_room(root: &Path, limit: u64, now: SystemTime) {
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    let mut kept: Vec<(SystemTime, u64, PathBuf)> = folders
        .map(|entry| {
            let path = entry.path();
            let used = fs::metadata(path.join(USED)).and_then(|used| used.modified());
            (used.unwrap_or(SystemTime::UNIX_EPOCH), bytes(&path), path)
        })
        .collect();
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    for (used, bytes, path) in kept {
        // A clock that was set back says nothing.
        let age = now.duration_since(used).unwrap_or_default();
        if total <= limit || age < IN_USE {
            return;
        }
        let _ = fs::remove_dir_all(path);
        total -= bytes;
    }
}

fn bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_the_longest_ago_goes_and_what_is_in_use_stays() {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let make = |name: &str, bytes: usize, days: u32| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("calibration"), vec![0; bytes]).unwrap();
            let used = fs::File::create(folder.join(USED)).unwrap();
            used.set_modified(now - days * IN_USE).unwrap();
        };
        make("oldest", 100, 9);
        make("older", 100, 8);
        make("old", 100, 7);
        make("in use", 1000, 0);
        let left = || {
            let left = fs::read_dir(root.path()).unwrap().flatten();
            let mut left: Vec<String> = left
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            left.sort();
            left
        };
        make_room(root.path(), 1250, now);
        assert_eq!(left(), ["in use", "old", "older"]);
        make_room(root.path(), 10, now);
        assert_eq!(left(), ["in use"]);
    }

    #[test]
    fn each_origin_has_a_folder_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let of = |origin| folder(root.path(), origin).unwrap();
        let one = of("a checkpoint and a text");
        assert!(one.is_dir() && of("a checkpoint and a text") == one);
        assert_ne!(of("another"), one);
    }
}
