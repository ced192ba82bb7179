//! Repositories of a Hub that runs here, on files of this project's fixtures.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lathe_fetch::Hub;
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves `files` of the repository `lab/tiny` as the Hub does, and counts requests.
fn serve(files: BTreeMap<&'static str, Vec<u8>>, false_hash: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let path = head[0].split(' ').nth(1).unwrap_or_default();
            let range = head.iter().find_map(|line| {
                let line = line.to_ascii_lowercase();
                let (from, to) = line.strip_prefix("range: bytes=")?.split_once('-')?;
                Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()))
            });
            let file = path.strip_prefix("/lab/tiny/resolve/main/");
            let (status, headers, body) = if path == "/api/models/lab/tiny/revision/main" {
                let names = files
                    .keys()
                    .map(|name| format!("{{\"rfilename\":\"{name}\"}}"));
                let names: Vec<String> = names.collect();
                let body = format!(
                    "{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}",
                    names.join(",")
                );
                ("200 OK", String::new(), body.into_bytes())
            } else if let Some(bytes) = file.and_then(|file| files.get(file)) {
                let (from, to) = range.unwrap_or((0, None));
                let to = to.unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
                let mut hash: String = Sha256::digest(bytes)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                if false_hash {
                    hash = hash.replace(|c| c != '0', "1");
                }
                let headers = format!(
                    "ETag: \"{hash}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{to}/{}\r\n",
                    bytes.len()
                );
                ("206 Partial Content", headers, bytes[from..=to].to_vec())
            } else {
                ("404 Not Found", String::new(), Vec::new())
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let answer = [head.as_bytes(), &body].concat();
            // A client that has hung up has what it wanted.
            let _hung_up = stream.write_all(&answer);
        }
    });
    (endpoint, requests)
}

/// The tiny Llama of the fixtures.
fn files() -> BTreeMap<&'static str, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llama");
    let names = ["config.json", "tokenizer.json", "model.safetensors"];
    let read = |name| (name, fs::read(folder.join(name)).unwrap());
    names.map(read).into_iter().collect()
}

#[test]
fn a_repository_is_fetched_once_and_used_offline() {
    let cache = tempfile::tempdir().unwrap();
    let mut served = files();
    served.insert("README.md", b"not wanted".to_vec());
    let (endpoint, requests) = serve(served, false);
    let hub = Hub::at(&endpoint, cache.path());
    let folder = hub.fetch("lab/tiny", "main").unwrap();
    for (name, bytes) in files() {
        assert_eq!(fs::read(folder.join(name)).unwrap(), bytes, "{name}");
    }
    assert!(!folder.join("README.md").exists());
    let before = requests.load(Ordering::Relaxed);
    assert_eq!(hub.fetch("lab/tiny", "main").unwrap(), folder);
    assert_eq!(requests.load(Ordering::Relaxed), before);
}

#[test]
fn weights_in_shards_are_those_that_the_index_names() {
    let cache = tempfile::tempdir().unwrap();
    let mut served = files();
    let weights = served.remove("model.safetensors").unwrap();
    served.insert("model-00001-of-00002.safetensors", weights.clone());
    served.insert("model-00002-of-00002.safetensors", weights);
    let index = |second: &str| {
        let first = "model-00001-of-00002.safetensors";
        format!("{{\"weight_map\":{{\"a\":\"{first}\",\"b\":\"{second}\"}}}}").into_bytes()
    };
    served.insert(
        "model.safetensors.index.json",
        index("model-00002-of-00002.safetensors"),
    );
    let (endpoint, _) = serve(served.clone(), false);
    let folder = Hub::at(&endpoint, cache.path()).fetch("lab/tiny", "main");
    let second = folder.unwrap().join("model-00002-of-00002.safetensors");
    assert!(second.is_file());

    // An index that points out of the repository.
    served.insert("model.safetensors.index.json", index("../../../escaped"));
    let (endpoint, _) = serve(served, false);
    let other = tempfile::tempdir().unwrap();
    let message = Hub::at(&endpoint, other.path()).fetch("lab/tiny", "main");
    let message = message.unwrap_err().to_string();
    assert!(message.contains("../../../escaped"), "{message}");
}

#[test]
fn what_is_missing_or_false_is_said_and_not_kept() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(files(), true);
    let hub = Hub::at(&endpoint, cache.path());
    let message = hub.fetch("lab/tiny", "main").unwrap_err().to_string();
    assert!(
        message.contains("lab/tiny") && message.contains("SHA-256"),
        "{message}"
    );
    let message = hub.fetch("lab/none", "main").unwrap_err().to_string();
    assert!(message.contains("no such repository"), "{message}");
    for (repo, revision) in [
        ("lab/../tiny", "main"),
        ("lab/tiny", "../x"),
        ("tiny", "main"),
    ] {
        let message = hub.fetch(repo, revision).unwrap_err().to_string();
        assert!(message.contains("OWNER/NAME"), "{message}");
    }
    // Nobody listens.
    let silent = Hub::at("http://127.0.0.1:9", cache.path());
    assert!(silent.fetch("lab/other", "main").is_err());
    // A repository without weights in this form.
    let mut served = files();
    served.remove("model.safetensors");
    let (endpoint, _) = serve(served, false);
    let other = tempfile::tempdir().unwrap();
    let message = Hub::at(&endpoint, other.path()).fetch("lab/tiny", "main");
    let message = message.unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}
