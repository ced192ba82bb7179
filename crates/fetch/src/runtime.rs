use std::env;
use std::path::{Path, PathBuf};

use crate::{Cache, FetchError, Item};

/// Version of ONNX Runtime that is fetched.
pub const RUNTIME_VERSION: &str = "1.32.0";

/// ONNX Runtime's shared library: `explicit`, else `ORT_DYLIB_PATH`, else from the cache or pip.
///
/// # Errors
/// When a named library does not exist, the platform is not known, or fetching fails.
pub fn runtime(cache: &Cache, explicit: Option<&Path>) -> Result<PathBuf, FetchError> {
    let from_env = env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let named = match explicit {
        Some(path) => Some((path.to_owned(), "--ort-lib")),
        None => from_env.map(|path| (path, "ORT_DYLIB_PATH")),
    };
    match named {
        Some((path, _)) if path.is_file() => Ok(path),
        Some((path, given_by)) => Err(FetchError::Missing { path, given_by }),
        None => item()?.fetch(cache),
    }
}

/// The same wheel whatever Python the user has, so that its hash is known.
fn item() -> Result<Item, FetchError> {
    let (platform, sha256, bytes, wheel_bytes) = match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => (
            "manylinux_2_28_x86_64",
            "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
            34_824_680,
            27_773_237,
        ),
        ("linux", "aarch64") => (
            "manylinux_2_28_aarch64",
            "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
            27_165_936,
            22_000_000,
        ),
        (os, arch) => {
            return Err(FetchError::Platform {
                platform: format!("{os} on {arch}"),
            });
        }
    };
    let library = format!("libonnxruntime.so.{RUNTIME_VERSION}");
    // The interpreter's version decides which wheel pip takes.
    let python = if platform.ends_with("aarch64") {
        "3.12"
    } else {
        "3.11"
    };
    let arguments = [
        "--platform",
        platform,
        "--python-version",
        python,
        "--implementation",
        "cp",
    ];
    Ok(Item {
        package: "onnxruntime".to_owned(),
        version: RUNTIME_VERSION.to_owned(),
        member: format!("onnxruntime/capi/{library}"),
        sha256: sha256.to_owned(),
        bytes,
        wheel_bytes,
        target: Path::new("runtime").join(library),
        pip_arguments: arguments.map(str::to_owned).to_vec(),
        by_hand: "name ONNX Runtime's shared library with --ort-lib PATH".to_owned(),
    })
}
