//! One file for each kind of input.

mod checkpoint;
mod protocol;
mod study;
mod yaml;

use std::path::PathBuf;

use tempfile::TempDir;

use crate::{Target, mutate};

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "requests",
        structure: mutate::json_lines,
        read: protocol::requests,
    },
    Target {
        name: "answers",
        structure: mutate::json_lines,
        read: protocol::answers,
    },
    Target {
        name: "device",
        structure: mutate::yaml,
        read: yaml::device,
    },
    Target {
        name: "model",
        structure: mutate::yaml,
        read: yaml::model,
    },
    Target {
        name: "subnet",
        structure: mutate::yaml,
        read: yaml::subnet,
    },
    Target {
        name: "table",
        structure: mutate::yaml,
        read: yaml::table,
    },
    Target {
        name: "gguf",
        structure: mutate::gguf::mutate,
        read: checkpoint::gguf,
    },
    Target {
        name: "safetensors",
        structure: mutate::safetensors::mutate,
        read: checkpoint::safetensors,
    },
    Target {
        name: "config",
        structure: mutate::json,
        read: checkpoint::config,
    },
    Target {
        name: "tokenizer",
        structure: mutate::json,
        read: checkpoint::tokenizer,
    },
    Target {
        name: "study",
        structure: mutate::json,
        read: study::study,
    },
];

thread_local! {
    /// A folder of this thread's own, which goes with it: in memory where the system has one, since writing would take
    /// longer than reading.
    static FOLDER: TempDir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder can be made");
}

/// A file of this thread's own folder: readers take paths.
fn file(name: &str) -> PathBuf {
    FOLDER.with(|folder| folder.path().join(name))
}

/// A file with these contents.
fn written(name: &str, contents: &[u8]) -> PathBuf {
    let path = file(name);
    std::fs::write(&path, contents).expect("a file can be written");
    path
}
