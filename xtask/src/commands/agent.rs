use lathe_fetch::{Cache, Target, Toolchain, build_agent};
use serde::Serialize;

use super::print_json;
use crate::arguments::Agent;

/// What was built.
#[derive(Serialize)]
struct Built {
    target: &'static str,
    path: std::path::PathBuf,
    bytes: u64,
    least_glibc: Option<String>,
}

pub fn run(arguments: &Agent) -> anyhow::Result<()> {
    let Some(target) = arguments.target.or_else(Target::host) else {
        anyhow::bail!("no agent is known for this machine: name a device's kind with --target");
    };
    let defaults = Toolchain::default();
    let toolchain = Toolchain {
        cargo: arguments.cargo.clone().unwrap_or(defaults.cargo),
        rustc: arguments.rustc.clone().unwrap_or(defaults.rustc),
    };
    let built = build_agent(&Cache::from_env()?, target, &toolchain)?;
    let built = Built {
        target: target.triple(),
        path: built.path,
        bytes: built.bytes,
        least_glibc: built.least_glibc,
    };
    if arguments.json {
        return print_json(&built);
    }
    println!("{}", built.path.display());
    let glibc = built.least_glibc.map_or(String::new(), |version| {
        format!(", needs glibc {version} or newer")
    });
    println!("{:.1} MB{glibc}", built.bytes as f64 / 1e6);
    Ok(())
}
