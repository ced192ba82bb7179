use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names;
use crate::ProfilerError;

/// Longest description of a device, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A device as described in `devices/*.yaml`.
///
/// ```
/// use lathe_profiler::DeviceSpec;
///
/// let spec = DeviceSpec::parse("name: pi\ntransport:\n  ssh: {host: pi.local}\n")?;
/// assert!(spec.affinity.is_empty());
/// let wrong = DeviceSpec::parse("name: pi\ntransport: local\nthraeds: 2\n").unwrap_err();
/// assert!(wrong.contains("did you mean `threads`?"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its name.
    pub name: String,
    /// What it is, in a sentence.
    #[serde(default)]
    pub description: String,
    /// How to reach it.
    #[serde(with = "serde_yaml::with::singleton_map")]
    pub transport: TransportSpec,
    /// Threads inside an operator; as many as there are processors when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Processors that measurements are bound to; any when empty.
    #[serde(default)]
    pub affinity: Vec<usize>,
    /// What runs the operators.
    #[serde(default)]
    pub execution_provider: ExecutionProvider,
    /// When it is cool enough to measure; at any temperature when absent.
    #[serde(default)]
    pub cool_down: Option<CoolDown>,
    /// Most memory that the agent may take for its data, in MiB; any when absent.
    #[serde(default)]
    pub memory_cap_mib: Option<u64>,
    /// The agent's program for it, beside this file unless the path is absolute.
    #[serde(default)]
    pub agent: Option<PathBuf>,
    /// ONNX Runtime's shared library for it, likewise.
    #[serde(default)]
    pub ort_lib: Option<PathBuf>,
    /// Whether its processor is emulated, so that latencies say nothing of a real one.
    #[serde(default)]
    pub emulated: bool,
    /// After this many seconds without an answer the agent is taken to hang.
    #[serde(default = "default_job_timeout_s")]
    pub job_timeout_s: u64,
    /// For this many seconds a lost device is tried again.
    #[serde(default = "default_reconnect_s")]
    pub reconnect_s: u64,
}

/// How to reach a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportSpec {
    /// This machine.
    Local,
    /// Another machine, by the system's OpenSSH.
    Ssh(SshSpec),
    /// An Android device, by the system's adb.
    Adb(AdbSpec),
}

/// Where an ssh server is. What is absent is as the user's ssh configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshSpec {
    /// Its host, or an alias of the user's ssh configuration.
    pub host: String,
    /// Its port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The user there.
    #[serde(default)]
    pub user: Option<String>,
    /// A configuration instead of the user's (`ssh -F`), beside this file unless absolute.
    #[serde(default)]
    pub config: Option<PathBuf>,
    /// Folder on the device in which a private one is made; `/var/tmp` or `/tmp` when absent.
    #[serde(default)]
    pub folder: Option<String>,
}

/// Which of adb's devices it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdbSpec {
    /// Its serial number, or HOST:PORT over Wi-Fi, as `adb devices` lists it; the only device, or
    /// `ANDROID_SERIAL`, when absent.
    #[serde(default)]
    pub serial: Option<String>,
    /// adb's program, beside this file unless absolute; the one in `PATH` when absent.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Folder on the device in which a private one is made; `/data/local/tmp` when absent.
    #[serde(default)]
    pub folder: Option<String>,
}

/// What runs the operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// ONNX Runtime's own kernels.
    #[default]
    Cpu,
    /// XNNPACK's kernels where it has them, in a runtime that was built with it.
    Xnnpack,
    /// Android's Neural Networks API where it can, likewise.
    Nnapi,
}

/// When a device is cool enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoolDown {
    /// The hottest sensor of the processor has to be below this.
    pub below_celsius: f64,
    /// After this many seconds of waiting it is measured all the same.
    #[serde(default = "default_cool_down_s")]
    pub timeout_s: u64,
}

fn default_job_timeout_s() -> u64 {
    600
}

fn default_reconnect_s() -> u64 {
    120
}

fn default_cool_down_s() -> u64 {
    300
}

impl ExecutionProvider {
    /// The runtime's name for it.
    pub fn runtime_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Xnnpack => "XnnpackExecutionProvider",
            Self::Nnapi => "NnapiExecutionProvider",
        }
    }

    /// Its name in a device's file and on the agent's command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Xnnpack => "xnnpack",
            Self::Nnapi => "nnapi",
        }
    }
}

impl DeviceSpec {
    /// This machine.
    pub fn local() -> Self {
        Self {
            name: "local".to_owned(),
            description: String::new(),
            transport: TransportSpec::Local,
            threads: None,
            affinity: Vec::new(),
            execution_provider: ExecutionProvider::Cpu,
            cool_down: None,
            memory_cap_mib: None,
            agent: None,
            ort_lib: None,
            emulated: false,
            job_timeout_s: default_job_timeout_s(),
            reconnect_s: default_reconnect_s(),
        }
    }

    /// Reads a device's YAML.
    ///
    /// # Errors
    /// When the file cannot be read or has a wrong field, which is named with its line.
    pub fn load(path: &Path) -> Result<Self, ProfilerError> {
        let io = |source| ProfilerError::Io {
            path: path.to_owned(),
            source,
        };
        let format = |message: String| ProfilerError::Format {
            path: path.to_owned(),
            message,
        };
        if fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
            return Err(format("too long for a device".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let mut spec = Self::parse(&text).map_err(format)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = |file: &mut Option<PathBuf>| {
            if let Some(file) = file {
                *file = folder.join(&*file);
            }
        };
        beside(&mut spec.agent);
        beside(&mut spec.ort_lib);
        match &mut spec.transport {
            TransportSpec::Local => {}
            TransportSpec::Ssh(ssh) => beside(&mut ssh.config),
            TransportSpec::Adb(adb) => beside(&mut adb.program),
        }
        Ok(spec)
    }

    /// Reads a device's YAML from a text.
    ///
    /// # Errors
    /// What is wrong, with line and field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = serde_yaml::from_str(text)
            .map_err(|error| names::with_suggestion(&error.to_string()))?;
        spec.check()?;
        Ok(spec)
    }

    /// The longest wait for one answer of the agent.
    pub fn job_timeout(&self) -> Duration {
        Duration::from_secs(self.job_timeout_s)
    }

    fn check(&self) -> Result<(), String> {
        names::check_device(&self.name)?;
        let folder = match &self.transport {
            TransportSpec::Local => &None,
            TransportSpec::Ssh(ssh) => {
                names::check_host(&ssh.host)?;
                ssh.user.as_deref().map_or(Ok(()), names::check_user)?;
                &ssh.folder
            }
            TransportSpec::Adb(adb) => {
                adb.serial.as_deref().map_or(Ok(()), names::check_serial)?;
                &adb.folder
            }
        };
        folder.as_deref().map_or(Ok(()), names::check_folder)?;
        let year_s = 365 * 24 * 3600;
        let cool_down = self.cool_down.as_ref();
        for (field, value, range) in [
            ("threads", self.threads.map(|n| n as u64), 1..=1024),
            ("memory_cap_mib", self.memory_cap_mib, 64..=1 << 30),
            ("job_timeout_s", Some(self.job_timeout_s), 1..=year_s),
            ("reconnect_s", Some(self.reconnect_s), 0..=year_s),
            (
                "cool_down.timeout_s",
                cool_down.map(|rule| rule.timeout_s),
                0..=year_s,
            ),
        ] {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let (low, high) = (range.start(), range.end());
                return Err(format!("{field}: {value}, expected {low} to {high}"));
            }
        }
        match cool_down.map(|rule| rule.below_celsius) {
            // A NaN is in no range.
            Some(celsius) if !(0.0..=150.0).contains(&celsius) => Err(format!(
                "cool_down.below_celsius: {celsius}, expected 0 to 150"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.yaml");
        for (text, words) in [
            (
                "name: a\ntransport: local\nthread: 2\n",
                &["`threads`?", "line 3"][..],
            ),
            ("name: a\ntransport: telnet\n", &["telnet"]),
            ("name: a\ntransport: local\nthreads: 0\n", &["threads: 0"]),
            (
                "name: a\ntransport:\n  ssh: {hots: b}\n",
                &["`hots`", "`host`?"],
            ),
            ("name: a\ntransport:\n  ssh: {host: -oX}\n", &["ssh.host"]),
            ("name: a\ntransport:\n  adb: {serial: 'a b'}\n", &["serial"]),
            (
                "name: a\ntransport:\n  adb: {folder: tmp}\n",
                &["folder", "absolute"],
            ),
            (
                "name: a\ntransport: local\ncool_down: {below_celsius: .nan}\n",
                &["below_celsius"],
            ),
            (
                "name: a\ntransport: local\nexecution_provider: cuda\n",
                &["cuda"],
            ),
        ] {
            fs::write(&path, text).unwrap();
            let message = DeviceSpec::load(&path).unwrap_err().to_string();
            for word in words.iter().chain(&["device.yaml"]) {
                assert!(message.contains(word), "{message}");
            }
        }
    }

    #[test]
    fn files_lie_beside_the_description() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.yaml");
        let text = "name: a\ntransport:\n  ssh: {host: b, config: c}\nagent: d\nort_lib: /e\n";
        fs::write(&path, text).unwrap();
        let spec = DeviceSpec::load(&path).unwrap();
        assert_eq!(spec.agent, Some(folder.path().join("d")));
        assert_eq!(spec.ort_lib, Some(PathBuf::from("/e")));
        let TransportSpec::Ssh(ssh) = spec.transport else {
            panic!("{:?}", spec.transport);
        };
        assert_eq!(ssh.config, Some(folder.path().join("c")));
    }
}
