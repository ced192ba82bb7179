use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use lathe_fetch::Toolchain;

use crate::arguments::Fuzz;

/// What has a compiler count which code an input reaches, as cargo-fuzz sets it. Stable compilers
/// have it too.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Seconds that one input may take.
const TIMEOUT_S: u64 = 20;
/// Longest input: twice the largest seed. Longer ones are only slower.
const MAX_INPUT_BYTES: usize = 1 << 17;

/// Builds the fuzz targets so that they count what they reach, and runs one. Inputs that reached
/// something new are kept in `runs/fuzz/TARGET`, and those that broke something beside them.
pub fn run(arguments: &Fuzz) -> anyhow::Result<ExitCode> {
    let seeds = Path::new("tests/fuzz/seeds").join(&arguments.target);
    ensure!(
        seeds.is_dir(),
        "`{}` is no target; there are: {} (in the workspace's folder)",
        arguments.target,
        names()
    );
    let triple = host()?;
    let built = Path::new("target/fuzz");
    // A named target keeps the flags away from build scripts and macros.
    let status = Toolchain::default()
        .cargo_command()
        .args(["build", "--profile", "fuzz", "--package", "lathe-fuzz"])
        .args(["--features", "libfuzzer", "--target", &triple])
        .arg("--target-dir")
        .arg(built)
        .env("RUSTFLAGS", COVERAGE)
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "the fuzz targets cannot be built");
    let found = PathBuf::from("runs/fuzz").join(&arguments.target);
    std::fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
    let mut fuzzer = Command::new(built.join(triple).join("fuzz/lathe-fuzz"));
    fuzzer.env("LATHE_FUZZ_TARGET", &arguments.target);
    if let Some(input) = &arguments.input {
        fuzzer.arg(input);
    } else {
        fuzzer
            .arg(format!("-max_total_time={}", arguments.minutes * 60))
            .arg(format!("-timeout={TIMEOUT_S}"))
            .arg(format!("-max_len={MAX_INPUT_BYTES}"))
            .arg(format!("-artifact_prefix=runs/fuzz/{}-", arguments.target))
            .arg("-print_final_stats=1");
        if let Some(seed) = arguments.seed {
            fuzzer.arg(format!("-seed={seed}"));
        }
        fuzzer.arg(&found).arg(&seeds);
    }
    let status = fuzzer.status().context("the fuzz target cannot be run")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// This machine's target, as the compiler calls it.
fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "host-tuple"])
        .output()
        .context("rustc")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn names() -> String {
    let entries = std::fs::read_dir("tests/fuzz/seeds");
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.join(", ")
}
