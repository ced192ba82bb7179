use std::env;
use std::fmt;
use std::str::FromStr;

/// A kind of device that agents are built for, by the compiler's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A PC or server with Linux: `x86_64-unknown-linux-gnu`.
    LinuxX86_64,
    /// A board or server with Linux: `aarch64-unknown-linux-gnu`.
    LinuxAarch64,
    /// A phone: `aarch64-linux-android`.
    AndroidAarch64,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::LinuxX86_64, Self::LinuxAarch64, Self::AndroidAarch64];

    /// The target of a device that calls its operating system and processor so, as
    /// [`std::env::consts`] does; `None` where none is known.
    pub fn of(os: &str, arch: &str) -> Option<Self> {
        match (os, arch) {
            ("linux", "x86_64") => Some(Self::LinuxX86_64),
            ("linux", "aarch64") => Some(Self::LinuxAarch64),
            ("android", "aarch64") => Some(Self::AndroidAarch64),
            _ => None,
        }
    }

    /// The target of this machine, where it is one.
    pub fn host() -> Option<Self> {
        Self::of(env::consts::OS, env::consts::ARCH)
    }

    /// The compiler's name.
    pub fn triple(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "x86_64-unknown-linux-gnu",
            Self::LinuxAarch64 => "aarch64-unknown-linux-gnu",
            Self::AndroidAarch64 => "aarch64-linux-android",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.triple())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|target| target.triple() == text);
        found.ok_or_else(|| format!("`{text}`: expected {}", Self::names()))
    }
}

impl Target {
    /// All names, for a message.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::triple).join(", ")
    }
}
