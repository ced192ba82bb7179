use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::transport::{Launch, OnSending, Process, Transport, transport_to};
use crate::{DeviceSpec, ExecutionProvider, ProfilerError};

/// The way to a device. Clones share one connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Link {
    device: DeviceSpec,
    transport: Arc<dyn Transport>,
}

impl Link {
    /// The way to `device`. What is sent there is removed at the end unless it is to be kept.
    /// Nothing happens before it is used. `on_sending` is told of files that are sent.
    pub fn new(device: &DeviceSpec, keep: bool, on_sending: OnSending) -> Self {
        Self {
            device: device.clone(),
            transport: transport_to(device, keep, on_sending),
        }
    }

    /// The Rust target of programs for the device.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn target(&self) -> Result<String, ProfilerError> {
        Ok(self.transport.target()?)
    }

    /// Agents there.
    pub fn agent(self, program: &Path, ort_lib: &Path) -> AgentCommand {
        AgentCommand {
            program: program.to_owned(),
            ort_lib: ort_lib.to_owned(),
            link: self,
        }
    }
}

/// How to start agents on a device.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    /// The agent's program, a file of this machine; sent to the device where that is another one.
    pub program: PathBuf,
    /// ONNX Runtime's shared library, likewise.
    pub ort_lib: PathBuf,
    link: Link,
}

impl AgentCommand {
    /// Agents on this machine.
    pub fn local(program: &Path, ort_lib: &Path) -> Self {
        Link::new(&DeviceSpec::local(), false, |_, _, _| ()).agent(program, ort_lib)
    }

    /// The device.
    pub fn device(&self) -> &DeviceSpec {
        &self.link.device
    }

    /// What was done to the device so that it measures better, in words.
    pub fn conditions(&self) -> Vec<String> {
        self.transport().conditions()
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.link.transport
    }

    pub(super) fn start(&self) -> Result<Process, ProfilerError> {
        Ok(self.transport().start(&Launch {
            program: &self.program,
            ort_lib: &self.ort_lib,
            arguments: &arguments(self.device()),
        })?)
    }
}

/// The agent's program for this machine: named in `LATHE_AGENT`, or beside this program or its
/// folder.
///
/// # Errors
/// When it is in none of these places.
pub fn find_agent() -> Result<PathBuf, ProfilerError> {
    if let Some(named) = env::var_os("LATHE_AGENT") {
        return Ok(PathBuf::from(named));
    }
    let near = env::current_exe().unwrap_or_default();
    let name = format!("lathe-agent{}", env::consts::EXE_SUFFIX);
    let mut folders = near.ancestors().skip(1).take(3);
    let found = folders.find_map(|folder| Some(folder.join(&name)).filter(|path| path.is_file()));
    found.ok_or(ProfilerError::NoAgent { near })
}

fn arguments(device: &DeviceSpec) -> Vec<String> {
    let mut arguments = Vec::new();
    if !device.affinity.is_empty() {
        let processors: Vec<String> = device.affinity.iter().map(usize::to_string).collect();
        arguments.extend(["--affinity".to_owned(), processors.join(",")]);
    }
    if device.execution_provider != ExecutionProvider::Cpu {
        let name = device.execution_provider.name();
        arguments.extend(["--execution-provider".to_owned(), name.to_owned()]);
    }
    if let Some(cap_mib) = device.memory_cap_mib {
        arguments.extend(["--memory-cap-mib".to_owned(), cap_mib.to_string()]);
    }
    arguments
}
