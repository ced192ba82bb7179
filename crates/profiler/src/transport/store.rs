//! Files by content: what a file of this machine is called on a device, and which other files have
//! to lie beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use lathe_onnx::proto;
use prost::Message;
use sha2::{Digest, Sha256};

use super::TransportError;

/// Longest graph that is read for the files it refers to: what a protocol buffer can be.
const MAX_GRAPH_BYTES: u64 = 2 << 30;
/// Most files that a graph may refer to.
const MAX_DATA_FILES: usize = 64;
/// Characters of a hash in a name: 128 bits.
const NAME_CHARACTERS: usize = 32;

/// A file and what it is called on the device, below the private folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub file: PathBuf,
    pub stamp: Stamp,
    pub sha256: String,
    pub name: String,
}

/// What a file looks like from outside: another content has another length or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// `None` when there is no such file.
    pub fn of(file: &Path) -> Option<Self> {
        let data = fs::metadata(file).ok().filter(|data| data.is_file())?;
        Some(Self {
            bytes: data.len(),
            modified: data.modified().ok(),
        })
    }
}

/// Contents that are known already.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    hashes: BTreeMap<PathBuf, (Stamp, String)>,
    references: BTreeMap<PathBuf, (Stamp, BTreeSet<String>)>,
}

impl Contents {
    /// A program or library, called `name` in a folder of its own.
    pub fn program(&mut self, file: &Path, name: &str) -> Result<Item, TransportError> {
        let (stamp, sha256) = self.sha256(file)?;
        Ok(Item {
            name: format!("{}/{name}", &sha256[..NAME_CHARACTERS]),
            file: file.to_owned(),
            stamp,
            sha256,
        })
    }

    /// A graph and the data files that it refers to. All lie in one folder, named after the data, so
    /// that graphs that share their data share one copy of it. The graph is the last.
    pub fn graph(&mut self, file: &Path) -> Result<Vec<Item>, TransportError> {
        let (stamp, sha256) = self.sha256(file)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut items = Vec::new();
        let mut all = Sha256::new();
        for location in self.references(file, stamp)? {
            let data = folder.join(&location);
            let (stamp, sha256) = self.sha256(&data)?;
            all.update(format!("{location}\n{sha256}\n"));
            items.push(Item {
                file: data,
                stamp,
                sha256,
                name: location,
            });
        }
        let beside = &hexadecimal(&all.finalize())[..NAME_CHARACTERS];
        for item in &mut items {
            item.name = format!("{beside}/{}", item.name);
        }
        items.push(Item {
            file: file.to_owned(),
            stamp,
            name: format!("{beside}/{}.onnx", &sha256[..NAME_CHARACTERS]),
            sha256,
        });
        Ok(items)
    }

    fn sha256(&mut self, file: &Path) -> Result<(Stamp, String), TransportError> {
        let stamp = Stamp::of(file).ok_or_else(|| TransportError::File {
            path: file.to_owned(),
            reason: "no such file".to_owned(),
        })?;
        if let Some((_, known)) = self.hashes.get(file).filter(|(seen, _)| *seen == stamp) {
            return Ok((stamp, known.clone()));
        }
        let sha256 = sha256_of(file).map_err(|source| TransportError::Io {
            path: file.to_owned(),
            source,
        })?;
        let known = (stamp, sha256.clone());
        self.hashes.insert(file.to_owned(), known);
        Ok((stamp, sha256))
    }

    fn references(
        &mut self,
        file: &Path,
        stamp: Stamp,
    ) -> Result<BTreeSet<String>, TransportError> {
        if let Some((_, known)) = self.references.get(file).filter(|(seen, _)| *seen == stamp) {
            return Ok(known.clone());
        }
        let locations = locations(file, stamp)?;
        let known = (stamp, locations.clone());
        self.references.insert(file.to_owned(), known);
        Ok(locations)
    }
}

/// Names of the data files of a graph; none for what is no graph, which the runtime then says.
fn locations(file: &Path, stamp: Stamp) -> Result<BTreeSet<String>, TransportError> {
    let wrong = |reason: String| TransportError::File {
        path: file.to_owned(),
        reason,
    };
    if stamp.bytes > MAX_GRAPH_BYTES {
        return Err(wrong(format!("longer than {MAX_GRAPH_BYTES} bytes")));
    }
    let bytes = fs::read(file).map_err(|source| TransportError::Io {
        path: file.to_owned(),
        source,
    })?;
    let graph = proto::Model::decode(&bytes[..])
        .ok()
        .and_then(|model| model.graph);
    let tensors = graph.map(|graph| graph.initializer).unwrap_or_default();
    let entries = tensors.into_iter().flat_map(|tensor| tensor.external_data);
    let locations = entries.filter(|entry| entry.key == "location");
    let locations: BTreeSet<String> = locations.map(|entry| entry.value).collect();
    if locations.len() > MAX_DATA_FILES {
        return Err(wrong(format!("refers to more than {MAX_DATA_FILES} files")));
    }
    let is_beside = |location: &&String| {
        let mut components = Path::new(location).components();
        !location.is_empty() && components.all(|c| matches!(c, Component::Normal(_)))
    };
    match locations.iter().find(|location| !is_beside(location)) {
        Some(outside) => Err(wrong(format!(
            "refers to {outside:?}, which is not in the graph's folder"
        ))),
        None => Ok(locations),
    }
}

/// SHA-256 of a file in hexadecimal.
fn sha256_of(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_graph(file: &Path, locations: &[&str]) {
        let initializer = locations.iter().map(|location| proto::Tensor {
            external_data: vec![proto::StringStringEntry {
                key: "location".to_owned(),
                value: (*location).to_owned(),
            }],
            ..proto::Tensor::default()
        });
        let model = proto::Model {
            graph: Some(proto::Graph {
                initializer: initializer.collect(),
                ..proto::Graph::default()
            }),
            ..proto::Model::default()
        };
        fs::write(file, model.encode_to_vec()).unwrap();
    }

    #[test]
    fn graphs_of_one_data_file_lie_beside_one_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("weights.data"), "weights").unwrap();
        write_graph(&path("a.onnx"), &["weights.data", "weights.data"]);
        write_graph(&path("b c'.onnx"), &["weights.data"]);
        let mut contents = Contents::default();
        let a = contents.graph(&path("a.onnx")).unwrap();
        let b = contents.graph(&path("b c'.onnx")).unwrap();
        assert_eq!((a.len(), b.len()), (2, 2));
        assert_eq!(a[0], b[0]);
        assert!(a[0].name.ends_with("/weights.data"));
        assert_ne!(a[1].name, b[1].name);
        let folder_of = |item: &Item| item.name.split_once('/').unwrap().0.to_owned();
        assert_eq!(folder_of(&a[0]), folder_of(&a[1]));
        // Names of this machine do not reach the device.
        assert!(!b[1].name.contains('\''));
        fs::write(path("weights.data"), "other weights").unwrap();
        let changed = contents.graph(&path("a.onnx")).unwrap();
        assert_ne!(folder_of(&changed[1]), folder_of(&a[1]));
    }

    #[test]
    fn what_is_no_graph_is_sent_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("garbage.onnx");
        fs::write(&file, "not a model").unwrap();
        let mut contents = Contents::default();
        assert_eq!(contents.graph(&file).unwrap().len(), 1);
        let missing = contents.graph(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("no such file"), "{missing}");
        let item = contents.program(&file, "lathe-agent").unwrap();
        assert_eq!(item.sha256.len(), 64);
        assert!(item.name.ends_with("/lathe-agent"));
    }

    #[test]
    fn no_graph_has_files_from_elsewhere_sent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("graph.onnx");
        for outside in ["/etc/shadow", "../secret", "a/../../b", ""] {
            write_graph(&file, &[outside]);
            let error = Contents::default().graph(&file).unwrap_err().to_string();
            assert!(error.contains("not in the graph's folder"), "{error}");
        }
    }
}
