//! The agent for other devices: built with cargo, kept in the cache.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lathe_agent::PROTOCOL_VERSION;

use crate::{Cache, FetchError, Target};

/// The profile in the workspace's `Cargo.toml`.
const PROFILE: &str = "agent";
/// The program's name, everywhere that agents run.
const PROGRAM: &str = "lathe-agent";
/// Android versions are counted by their interface: 24 is Android 7, the oldest that ONNX Runtime
/// runs on.
const ANDROID_API: u32 = 24;
/// Lines of the compiler's output kept for an error.
const KEPT_LINES: usize = 40;

/// The programs that build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// cargo.
    pub cargo: PathBuf,
    /// The compiler.
    pub rustc: PathBuf,
}

impl Default for Toolchain {
    /// `CARGO` and `RUSTC` from the environment, as cargo has it, else `cargo` and `rustc`.
    fn default() -> Self {
        let named = |name: &str, default: &str| {
            let set = env::var_os(name).filter(|value| !value.is_empty());
            PathBuf::from(set.unwrap_or_else(|| default.into()))
        };
        Self {
            cargo: named("CARGO", "cargo"),
            rustc: named("RUSTC", "rustc"),
        }
    }
}

impl Toolchain {
    /// cargo, without what another cargo told this program of its package: a build script that looks at
    /// that, as ring's does, would run again, and all that depends on it be built again.
    pub fn cargo_command(&self) -> Command {
        let mut cargo = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        cargo
    }
}

/// A built agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBuild {
    /// The program.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The oldest glibc it runs with; absent where it uses none.
    pub least_glibc: Option<String>,
}

/// Where the agent for `target` lies in the cache once it was built: one for each version of the
/// program and of the protocol.
pub fn agent_path(cache: &Cache, target: Target) -> PathBuf {
    let version = format!("{}-protocol-{PROTOCOL_VERSION}", env!("CARGO_PKG_VERSION"));
    let folder = cache.root().join("agent").join(version);
    folder.join(target.triple()).join(PROGRAM)
}

/// The agent for `target` that was built before.
///
/// # Errors
/// When there is none: the error has the command that builds it.
pub fn find_built_agent(cache: &Cache, target: Target) -> Result<PathBuf, FetchError> {
    let path = agent_path(cache, target);
    if path.is_file() {
        return Ok(path);
    }
    Err(FetchError::NotBuilt { path, target })
}

/// Builds the agent of the workspace for `target` and keeps it in the cache. cargo's own progress
/// goes to standard error.
///
/// # Errors
/// When the sources, the compiler's library for the target or a linker is missing, which the error
/// says how to get, or when cargo fails.
pub fn build_agent(
    cache: &Cache,
    target: Target,
    toolchain: &Toolchain,
) -> Result<AgentBuild, FetchError> {
    let workspace = workspace()?;
    check_library(target, toolchain)?;
    // Its own folder: another compiler may be at work here than in the rest of `target/`.
    let folder = workspace.join("target").join("agent");
    let mut cargo = toolchain.cargo_command();
    cargo
        .args(["build", "--package", PROGRAM, "--bin", PROGRAM])
        .args(["--profile", PROFILE, "--target", target.triple()])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(&workspace)
        .env("RUSTC", &toolchain.rustc);
    if let Some((variable, linker)) = linker(target)? {
        cargo.env(variable, linker);
    }
    run(&mut cargo, target)?;
    let built = folder.join(target.triple()).join(PROFILE).join(PROGRAM);
    let path = agent_path(cache, target);
    let contents = fs::read(&built).map_err(|source| FetchError::io(&built, source))?;
    install(&contents, &path)?;
    Ok(AgentBuild {
        bytes: contents.len() as u64,
        least_glibc: least_glibc(&contents),
        path,
    })
}

/// The folder with the agent's sources, at or above the current one or that of the running package.
fn workspace() -> Result<PathBuf, FetchError> {
    let here = env::current_dir().ok();
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let starts: Vec<PathBuf> = here.into_iter().chain(package).collect();
    let mut folders = starts.iter().flat_map(|start| start.ancestors());
    let found = folders.find(|folder| folder.join("crates/agent/Cargo.toml").is_file());
    found.map(Path::to_owned).ok_or(FetchError::NoSources)
}

/// The compiler needs the standard library for the target.
fn check_library(target: Target, toolchain: &Toolchain) -> Result<(), FetchError> {
    let rustc = &toolchain.rustc;
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", target.triple()])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FetchError::io(rustc, source))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_std = |name: OsString| name.to_string_lossy().starts_with("libstd-");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    if output.status.success() && entries.map(|entry| entry.file_name()).any(is_std) {
        return Ok(());
    }
    Err(FetchError::NoTarget {
        target,
        rustc: rustc.clone(),
    })
}

/// The variable that tells cargo the linker, and the linker; `None` where the default does or the
/// user has set one.
fn linker(target: Target) -> Result<Option<(String, PathBuf)>, FetchError> {
    let name = target.triple().to_uppercase().replace('-', "_");
    let variable = format!("CARGO_TARGET_{name}_LINKER");
    let is_set = env::var_os(&variable).is_some_and(|value| !value.is_empty());
    if is_set || Target::host() == Some(target) {
        return Ok(None);
    }
    let missing = |how: String| FetchError::NoLinker {
        target,
        variable: variable.clone(),
        how,
    };
    let found = match target {
        Target::AndroidAarch64 => ndk_clang(|name| env::var_os(name)).map_err(missing)?,
        Target::LinuxX86_64 => on_path("x86_64-linux-gnu-gcc")
            .ok_or_else(|| missing("apt install gcc-x86-64-linux-gnu".to_owned()))?,
        Target::LinuxAarch64 => on_path("aarch64-linux-gnu-gcc")
            .ok_or_else(|| missing("apt install gcc-aarch64-linux-gnu".to_owned()))?,
    };
    Ok(Some((variable, found)))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    let mut files = env::split_paths(&paths).map(|folder| folder.join(program));
    files.find(|file| file.is_file())
}

/// The NDK's clang for the oldest interface from [`ANDROID_API`] on that it knows.
fn ndk_clang(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, String> {
    const VARIABLES: [&str; 2] = ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"];
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let set = VARIABLES
        .into_iter()
        .find_map(|name| Some((name, get(name)?)));
    let Some((name, ndk)) = set else {
        return Err(format!(
            "get Android's NDK and name its folder in {}",
            VARIABLES[0]
        ));
    };
    let hosts = Path::new(&ndk).join("toolchains/llvm/prebuilt");
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let hosts = entries(&hosts).into_iter().map(|host| host.join("bin"));
    let clangs = hosts.flat_map(|bin| entries(&bin)).filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let name = name.strip_suffix(".cmd").unwrap_or(name);
        let api = name.strip_prefix("aarch64-linux-android")?;
        let api: u32 = api.strip_suffix("-clang")?.parse().ok()?;
        (api >= ANDROID_API).then_some((api, path))
    });
    let oldest = clangs.min_by_key(|(api, _)| *api);
    oldest.map(|(_, path)| path).ok_or_else(|| {
        format!(
            "{name} is {}, where there is no toolchains/llvm/prebuilt/*/bin/aarch64-linux-android{ANDROID_API}-clang or newer",
            ndk.to_string_lossy()
        )
    })
}

/// Runs cargo. What it says is passed on, and its last lines kept for an error.
fn run(cargo: &mut Command, target: Target) -> Result<(), FetchError> {
    let program = Path::new(cargo.get_program()).to_owned();
    let io = |source| FetchError::io(&program, source);
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    let mut kept = std::collections::VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)) {
            let line = line.map_err(io)?;
            eprintln!("{line}");
            kept.push_back(line);
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
        }
    }
    if child.wait().map_err(io)?.success() {
        return Ok(());
    }
    let output: Vec<String> = kept.into();
    Err(FetchError::Build {
        target,
        output: output.join("\n"),
    })
}

/// Writes the program, whole or not at all, so that it can be run.
fn install(contents: &[u8], path: &Path) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(contents)?;
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            file.as_file().set_permissions(mode)?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| FetchError::io(path, source))
}

/// The newest version among the names of glibc's symbols, `GLIBC_2.34`.
fn least_glibc(program: &[u8]) -> Option<String> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let places = program.windows(PREFIX.len()).enumerate();
    let versions = places.filter(|(_, window)| *window == PREFIX);
    let minors = versions.filter_map(|(at, _)| {
        let rest = &program[at + PREFIX.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits])
            .ok()?
            .parse::<u32>()
            .ok()
    });
    minors.max().map(|minor| format!("2.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_clang_that_is_new_enough_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder
            .path()
            .join("toolchains/llvm/prebuilt/linux-x86_64/bin");
        fs::create_dir_all(&bin).unwrap();
        let found = |named: Option<&str>| {
            ndk_clang(|name| (Some(name) == named).then(|| folder.path().into()))
        };
        assert!(found(None).unwrap_err().contains("ANDROID_NDK_HOME"));
        for api in [21, 23] {
            fs::write(bin.join(format!("aarch64-linux-android{api}-clang")), "").unwrap();
        }
        let message = found(Some("ANDROID_NDK_ROOT")).unwrap_err();
        assert!(
            message.contains("ANDROID_NDK_ROOT") && message.contains("24"),
            "{message}"
        );
        for name in ["android35-clang", "android26-clang", "android26-clang++"] {
            fs::write(bin.join(format!("aarch64-linux-{name}")), "").unwrap();
        }
        let clang = found(Some("ANDROID_NDK_HOME")).unwrap();
        assert_eq!(clang.file_name().unwrap(), "aarch64-linux-android26-clang");
    }

    #[test]
    fn the_newest_symbol_decides() {
        let program = b"..GLIBC_2.17\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_PRIVATE";
        assert_eq!(least_glibc(program).as_deref(), Some("2.34"));
        assert_eq!(least_glibc(b"no symbols"), None);
    }

    #[test]
    fn what_was_not_built_is_answered_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path(), crate::Pip::default()).unwrap();
        let error = find_built_agent(&cache, Target::AndroidAarch64).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("cargo xtask agent --target aarch64-linux-android"),
            "{message}"
        );
        install(b"program", &agent_path(&cache, Target::AndroidAarch64)).unwrap();
        let found = find_built_agent(&cache, Target::AndroidAarch64).unwrap();
        assert_eq!(fs::read(found).unwrap(), b"program");
    }
}
