use std::env;
use std::path::{Path, PathBuf};

use crate::{Cache, FetchError, Item, Source, Target};

/// Version of ONNX Runtime that is fetched for Linux.
pub const RUNTIME_VERSION: &str = "1.32.0";

/// How to go on without a package client.
const BY_HAND: &str = "name ONNX Runtime's shared library with --ort-lib PATH";

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
        None => runtime_for(cache, Target::host().ok_or_else(unknown_host)?),
    }
}

/// ONNX Runtime's shared library for devices of a kind, from the cache, pip or, for Android, npm.
///
/// # Errors
/// When fetching fails.
pub fn runtime_for(cache: &Cache, target: Target) -> Result<PathBuf, FetchError> {
    item(target).fetch(cache)
}

fn unknown_host() -> FetchError {
    FetchError::Platform {
        platform: format!("{} on {}", env::consts::OS, env::consts::ARCH),
    }
}

/// This machine's library lies in the folder itself, those of other devices each in their own.
fn place(target: Target, file: &str) -> PathBuf {
    let folder = Path::new("runtime");
    if Target::host() == Some(target) {
        return folder.join(file);
    }
    folder.join(target.triple()).join(file)
}

fn item(target: Target) -> Item {
    match target {
        Target::LinuxX86_64 => wheel(
            target,
            Wheel {
                platform: "manylinux_2_28_x86_64",
                python: "3.11",
                sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
                bytes: 34_824_680,
                wheel_bytes: 27_773_237,
            },
        ),
        Target::LinuxAarch64 => wheel(
            target,
            Wheel {
                platform: "manylinux_2_28_aarch64",
                python: "3.12",
                sha256: "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
                bytes: 27_165_936,
                wheel_bytes: 23_196_724,
            },
        ),
        Target::AndroidAarch64 => android(target),
    }
}

struct Wheel {
    platform: &'static str,
    /// The interpreter's version decides which wheel pip takes.
    python: &'static str,
    sha256: &'static str,
    bytes: u64,
    wheel_bytes: u64,
}

/// The same wheel whatever Python the user has, so that its hash is known.
fn wheel(target: Target, wheel: Wheel) -> Item {
    let library = format!("libonnxruntime.so.{RUNTIME_VERSION}");
    let arguments = [
        "--platform",
        wheel.platform,
        "--python-version",
        wheel.python,
        "--implementation",
        "cp",
    ];
    Item {
        package: "onnxruntime".to_owned(),
        version: RUNTIME_VERSION.to_owned(),
        member: format!("onnxruntime/capi/{library}"),
        sha256: wheel.sha256.to_owned(),
        bytes: wheel.bytes,
        download_bytes: wheel.wheel_bytes,
        target: place(target, &library),
        source: Source::Pip {
            arguments: arguments.map(str::to_owned).to_vec(),
        },
        by_hand: BY_HAND.to_owned(),
    }
}

/// ONNX Runtime 1.29.0 for Android 7 and newer, which a plugin for a game engine carries (MIT).
fn android(target: Target) -> Item {
    Item {
        package: "com.github.asus4.onnxruntime".to_owned(),
        version: "0.4.9".to_owned(),
        member: "jni/arm64-v8a/libonnxruntime.so".to_owned(),
        sha256: "3a602b463d434d20fbf69cd1b8bdfd2f86a2cb67d08de97aec8f62476fa4ab87".to_owned(),
        bytes: 32_120_992,
        download_bytes: 149_786_233,
        target: place(target, "libonnxruntime.so"),
        source: Source::Npm {
            archive: "package/Plugins/Android/onnxruntime.aar".to_owned(),
        },
        by_hand: BY_HAND.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_different_devices_do_not_meet() {
        let mut places = Target::ALL.map(|target| item(target).target);
        places.sort();
        assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
        let host = Target::host().map(|target| item(target).target);
        assert!(host.is_none_or(|place| place.components().count() == 2));
    }
}
