use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use lathe_agent::{MAX_CHARACTERS, MAX_ITEMS};

/// Read of one file; `/proc/cpuinfo` of 1024 processors has about 1.5 MB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The system's files below a root, `/` on a device.
pub struct SystemFiles {
    root: PathBuf,
}

impl SystemFiles {
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file's text without the white space and zeros around it; `None` when it has none.
    pub fn text(&self, path: &str) -> Option<String> {
        let file = File::open(self.path(path)).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }

    /// A file's first line as a [`printable`] text.
    pub fn line(&self, path: &str) -> Option<String> {
        printable(self.text(path)?.lines().next()?)
    }

    /// A file that holds a number.
    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// What follows `start` on the first line that begins with it, without `:`, `=`, quotes and
    /// white space around it.
    pub fn field(&self, path: &str, start: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(start))?;
        let is_frame = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '"');
        printable(line.trim_matches(is_frame))
    }

    /// Names in a folder that begin with `start`, shorter ones first, so that 2 precedes 10.
    pub fn names(&self, folder: &str, start: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names.truncate(MAX_ITEMS);
        names
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// A text that is safe to print and short enough for the protocol; `None` when nothing is left.
pub fn printable(text: &str) -> Option<String> {
    let seen = text.trim().chars().filter(|c| !c.is_control());
    let text: String = seen.take(MAX_CHARACTERS).collect();
    Some(text).filter(|text| !text.is_empty())
}
