//! From names on the command line to things: devices, the runtime, the agent's program.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use lathe_arch::{ModelConfig, SearchSpace, SpaceSpec, SubnetConfig};
use lathe_compress::{Adapter, StoredSubnet};
use lathe_fetch::{Cache, ModelSpec, Target, Toolchain, find_built_agent};
use lathe_latency::LatencyTable;
use lathe_profiler::{AgentCommand, DeviceSpec, Link, find_agent, own_target};
use lathe_supernet::checkpoint::read_config;
use lathe_supernet::{Parameters, Recovery, Subnet};
use serde::de::DeserializeOwned;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::arguments::{AdapterArgument, DeviceArguments, ModelArguments, ProgramArguments};
use crate::progress::Steps;

/// Calibration tokens for each channel of the widest block below which a refit may do more harm
/// than good.
const TOKENS_PER_CHANNEL: usize = 4;

/// Of the memory that is free when a search begins, one part in this many is for refitted matrices.
const REFITS_SHARE: u64 = 8;

/// Beside a study: the choices among which was searched.
pub const SPACE: &str = "space.json";

/// A device in `devices/`, or the YAML at a path.
pub fn device(name: &str) -> anyhow::Result<DeviceSpec> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(DeviceSpec::load(path)?);
    }
    let listed = devices_folder().join(format!("{name}.yaml"));
    if path.components().count() == 1 && listed.is_file() {
        return Ok(DeviceSpec::load(&listed)?);
    }
    let names: Vec<String> = device_names();
    bail!(
        "device `{name}` is neither a file nor a name in devices/; there are: {}",
        names.join(", ")
    );
}

/// Names in `devices/`.
pub fn device_names() -> Vec<String> {
    let entries = std::fs::read_dir(devices_folder())
        .into_iter()
        .flatten()
        .flatten();
    let paths = entries.map(|entry| entry.path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let stems = yaml.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let mut names: Vec<String> = stems.collect();
    names.sort();
    names
}

fn devices_folder() -> PathBuf {
    let here = PathBuf::from("devices");
    if here.is_dir() {
        return here;
    }
    // `cargo run` tells where the workspace is, wherever it is called.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    manifest.map_or(here, |xtask| xtask.join("../devices"))
}

/// The agent with the runtime, both made available if they are not.
pub fn agent(cache: &Cache, arguments: &DeviceArguments) -> anyhow::Result<AgentCommand> {
    agent_on(cache, &device(&arguments.device)?, &arguments.programs)
}

/// The same for a device that is described already.
pub fn agent_on(
    cache: &Cache,
    device: &DeviceSpec,
    arguments: &ProgramArguments,
) -> anyhow::Result<AgentCommand> {
    let link = Link::new(device, arguments.keep, tell_of_sending);
    let agent = arguments.agent.clone().or_else(|| device.agent.clone());
    let ort_lib = match (&arguments.ort_lib, &device.ort_lib) {
        (Some(path), _) => Some(lathe_fetch::runtime(cache, Some(path))?),
        (None, path) => path.clone(),
    };
    for (path, field) in [(&agent, "agent"), (&ort_lib, "ort_lib")] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            bail!(
                "{}: no such file, for `{field}` of {}",
                path.display(),
                device.name
            );
        }
    }
    if let (Some(agent), Some(ort_lib)) = (&agent, &ort_lib) {
        return Ok(link.agent(agent, ort_lib));
    }
    let target = link.target()?;
    let agent = agent.map_or_else(|| agent_for(cache, &target, device), Ok)?;
    let ort_lib = ort_lib.map_or_else(|| runtime_for(cache, &target, device), Ok)?;
    Ok(link.agent(&agent, &ort_lib))
}

/// The agent for a target: this machine's own, or one that was built for it.
fn agent_for(cache: &Cache, target: &str, device: &DeviceSpec) -> anyhow::Result<PathBuf> {
    if target == own_target() {
        build_agent()?;
        return Ok(find_agent()?);
    }
    let built = find_built_agent(cache, known(target, device)?);
    built.with_context(|| {
        format!(
            "{}: an agent may also be named with --agent, or as `agent:` in the device's file",
            device.name
        )
    })
}

/// ONNX Runtime for a target.
fn runtime_for(cache: &Cache, target: &str, device: &DeviceSpec) -> anyhow::Result<PathBuf> {
    match target == own_target() {
        true => Ok(lathe_fetch::runtime(cache, None)?),
        false => Ok(lathe_fetch::runtime_for(cache, known(target, device)?)?),
    }
}

/// A target that agents are built for and runtimes are fetched for.
fn known(target: &str, device: &DeviceSpec) -> anyhow::Result<Target> {
    let known = target.parse::<Target>().map_err(anyhow::Error::msg);
    known.with_context(|| {
        format!(
            "{}: name an agent and a runtime with --agent and --ort-lib, or in the device's file",
            device.name
        )
    })
}

/// Says what is sent where it may take more than a moment.
fn tell_of_sending(device: &str, file: &Path, bytes: u64) {
    const LONG: u64 = 4 << 20;
    if bytes >= LONG {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        eprintln!("{device}: sending {name}, {} MB", bytes / 1_000_000);
    }
}

/// Builds the agent where it is missing or older than this program, if cargo is at hand.
fn build_agent() -> anyhow::Result<()> {
    if std::env::var_os("LATHE_AGENT").is_some() {
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let modified = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|data| data.modified())
            .ok()
    };
    let is_fresh = find_agent().is_ok_and(|agent| modified(&agent) >= modified(&this));
    if is_fresh || std::env::var_os("CARGO").is_none() {
        return Ok(());
    }
    let mut build = Toolchain::default().cargo_command();
    build.args(["build", "--quiet", "--workspace", "--bin", "lathe-agent"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build
        .stdout(Stdio::null())
        .status()
        .context("cargo build")?;
    anyhow::ensure!(status.success(), "building the agent failed");
    Ok(())
}

/// A model that is ready to be cut.
pub fn prepare(
    cache: &Cache,
    arguments: &ModelArguments,
    adapter: &AdapterArgument,
    steps: &mut Steps,
) -> anyhow::Result<lathe_compress::Prepared> {
    // A mistake in the adapter is told before the long preparation.
    let adapter = adapter.adapter.as_deref();
    let adapter = adapter.map(Adapter::read).transpose()?;
    let spec = ModelSpec::find(&arguments.model)?;
    let text = lathe_compress::load_text(cache, arguments.text.as_deref())?;
    let prepared = lathe_compress::Prepared::new(
        &spec,
        cache,
        text,
        &lathe_compress::Preparation {
            calibration_tokens: arguments.calibration_tokens,
            importance: arguments.importance,
            recovery: arguments.recovery,
            adapter: adapter.as_ref(),
        },
        &mut |label, done, total| steps.show(label, done, total),
    )?;
    let channels = prepared.model().intermediate_size;
    let tokens = prepared.calibration_tokens();
    if prepared.recovery() == Recovery::LeastSquares && tokens < TOKENS_PER_CHANNEL * channels {
        steps.finish();
        eprintln!(
            "warning: {tokens} calibration tokens are few for a refit of {channels} channels: give at least {} with --calibration-tokens and enough --text, or take --recovery bias",
            TOKENS_PER_CHANNEL * channels
        );
    }
    Ok(prepared)
}

/// A model that is ready to be cut often.
pub fn prepare_search(
    cache: &Cache,
    arguments: &ModelArguments,
    adapter: &AdapterArgument,
    steps: &mut Steps,
) -> anyhow::Result<lathe_compress::Prepared> {
    let mut prepared = prepare(cache, arguments, adapter, steps)?;
    let memory_bytes = free_memory_bytes() / REFITS_SHARE;
    prepared.supernet.keep_refits(memory_bytes);
    Ok(prepared)
}

/// 0 where the machine does not tell.
fn free_memory_bytes() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let machine = System::new_with_specifics(kind).ok();
    machine.map_or(0, |machine| {
        let of_group = machine.cgroup_limits().map(|limits| limits.free_memory);
        machine.available_memory().min(of_group.unwrap_or(u64::MAX))
    })
}

/// A model that is ready for one sub-network, and that.
pub struct Network {
    pub prepared: lathe_compress::Prepared,
    pub config: SubnetConfig,
    /// Its weights, where they were trained.
    pub weights: Option<Parameters>,
}

impl Network {
    /// The sub-network, corrected for drift unless that is to be kept or it was trained.
    pub fn cut(&self, keep_drift: bool, steps: &mut Steps) -> anyhow::Result<Subnet<'_>> {
        let supernet = &self.prepared.supernet;
        match (&self.weights, keep_drift) {
            (Some(weights), _) => Ok(weights.subnet(supernet, &self.config)?),
            (None, true) => Ok(supernet.cut(&self.config)?),
            (None, false) => self.prepared.cut(&self.config, &mut |label, done, total| {
                steps.show(label, done, total);
            }),
        }
    }
}

/// The sub-network in a file or folder; the full model when none is named. That and a trained
/// sub-network need no calibration; with an adapter both are of the trained super-network.
pub fn prepare_network(
    cache: &Cache,
    arguments: &ModelArguments,
    adapter: &AdapterArgument,
    subnet: Option<&Path>,
    steps: &mut Steps,
) -> anyhow::Result<Network> {
    // A mistake in the file is told before the long preparation.
    let stored = match subnet {
        Some(path) => Some(stored_subnet(cache, &arguments.model, path)?),
        None => None,
    };
    anyhow::ensure!(
        adapter.adapter.is_none()
            || stored
                .as_ref()
                .is_none_or(|stored| stored.weights.is_none()),
        "--adapter: the sub-network was healed and has weights of its own: leave one of both away"
    );
    let is_cut = matches!(&stored, Some(stored) if stored.weights.is_none());
    if is_cut || adapter.adapter.is_some() {
        let prepared = prepare(cache, arguments, adapter, steps)?;
        let full = || SubnetConfig::full(prepared.model()).named(&prepared.name);
        return Ok(Network {
            config: stored.map_or_else(full, |stored| stored.config),
            prepared,
            weights: None,
        });
    }
    let prepared = prepare_unpruned(cache, arguments, adapter, steps)?;
    let (config, weights) = match stored {
        Some(StoredSubnet { config, weights }) => (config, weights),
        None => {
            let full = SubnetConfig::full(prepared.model());
            (full.named(&prepared.name), None)
        }
    };
    let supernet = &prepared.supernet;
    let weights = weights.map(|path| Parameters::load(&path, supernet, &config));
    let weights = weights.transpose()?;
    Ok(Network {
        prepared,
        config,
        weights,
    })
}

/// A sub-network of a model.
pub fn stored_subnet(cache: &Cache, model: &str, path: &Path) -> anyhow::Result<StoredSubnet> {
    lathe_compress::read_subnet(path, &model_config(cache, model)?)
}

/// The dimensions of a model, without its weights.
pub fn model_config(cache: &Cache, model: &str) -> anyhow::Result<ModelConfig> {
    Ok(read_config(&ModelSpec::find(model)?.fetch(cache)?)?)
}

/// A model of which nothing has to be cut away.
pub fn prepare_unpruned(
    cache: &Cache,
    arguments: &ModelArguments,
    adapter: &AdapterArgument,
    steps: &mut Steps,
) -> anyhow::Result<lathe_compress::Prepared> {
    let adapter = adapter.adapter.as_deref();
    let adapter = adapter.map(Adapter::read).transpose()?;
    let spec = ModelSpec::find(&arguments.model)?;
    let text = lathe_compress::load_text(cache, arguments.text.as_deref())?;
    let progress = &mut |label: &str, done, total| steps.show(label, done, total);
    lathe_compress::Prepared::unpruned(&spec, cache, text, adapter.as_ref(), progress)
}

/// A table of the model's dimensions, read before the long preparation of the model.
pub fn table_for(cache: &Cache, model: &str, path: &Path) -> anyhow::Result<LatencyTable> {
    let table = LatencyTable::load(path)?;
    let spec = ModelSpec::find(model)?;
    anyhow::ensure!(
        table.model.dimensions == read_config(&spec.fetch(cache)?)?,
        "{}: the table is of model `{}`, which has other dimensions than `{}`",
        path.display(),
        table.model.name,
        spec.name
    );
    Ok(table)
}

/// The choices behind a study's genomes: what the search left beside it, or those of the model `name`.
pub fn space_of(study: &Path, name: &str, table: &LatencyTable) -> anyhow::Result<SearchSpace> {
    let model = &table.model.dimensions;
    let searched: Option<SpaceSpec> = read_json(&study.with_extension(SPACE))?;
    // A model given by path has no entry in models/; its space is the standard one.
    let of_model = || ModelSpec::find(name).ok()?.search_space;
    let choices = searched.or_else(of_model);
    let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
    Ok(SearchSpace::new(model, &table.model.name, &choices)?)
}

/// What an earlier command left, if it did.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path)?;
    let value = serde_json::from_slice(&text);
    value
        .map(Some)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// The folder in which a file lies.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}
