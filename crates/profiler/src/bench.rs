//! The graphs that are timed: written once, over one file of random weights.

use std::fs;
use std::path::{Path, PathBuf};

use lathe_arch::{
    BlockShape, LayerConfig, LogitRows, ModelConfig, Precision, SUBNET_VERSION, SubnetConfig,
};
use lathe_onnx::{
    BlockKind, Chain, Network, RandomWeights, TensorRole, WeightSource, chain_data_bytes,
    write_chain, write_network_graph, write_random_data,
};

use crate::ProfilerError;
use crate::plan::{Probe, ProfilePlan, reference_block};

/// Weights that all measured graphs share.
const WEIGHTS_FILE: &str = "weights.data";

/// A folder of graphs.
pub(crate) struct Bench {
    folder: PathBuf,
    model: ModelConfig,
    /// Bytes of weights that the largest graph uses.
    weights_bytes: u64,
    seed: u64,
}

impl Bench {
    /// A folder at `folder` without graphs; those that a killed run left there are removed.
    pub fn new(folder: &Path, model: &ModelConfig, seed: u64) -> Result<Self, ProfilerError> {
        let failed = |source| ProfilerError::Io {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        remove_graphs(folder).map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            model: model.clone(),
            weights_bytes: 0,
            seed,
        })
    }

    /// Writes the two chains of a probe, or the network without blocks; returns them, the
    /// shorter first.
    pub fn probe(
        &mut self,
        probe: &Probe,
        plan: &ProfilePlan,
    ) -> Result<Vec<PathBuf>, ProfilerError> {
        let lengths = plan.chain_lengths(probe, &self.model).into_iter();
        let graphs = lengths.filter(|copies| *copies > 0);
        let graphs = graphs.map(|copies| self.copies(probe.block, copies, plan.positions()));
        graphs.collect()
    }

    /// Writes the reference chain of a probe, and its filler where it has one.
    pub fn references(
        &mut self,
        probe: &Probe,
        plan: &ProfilePlan,
    ) -> Result<Vec<PathBuf>, ProfilerError> {
        let precision = probe.block.precision();
        let block = reference_block(precision, &self.model);
        let reference = plan.reference_copies(precision, probe.kind, &self.model);
        let filler = plan.filler(probe, &self.model);
        let graphs = [Some((block, reference)), filler].into_iter().flatten();
        let graphs = graphs.map(|(block, copies)| self.copies(block, copies, plan.positions()));
        graphs.collect()
    }

    /// Writes a chain, or the network without blocks, of which there is one copy.
    fn copies(
        &mut self,
        block: BlockShape,
        copies: usize,
        positions: usize,
    ) -> Result<PathBuf, ProfilerError> {
        match block {
            BlockShape::EmbeddingAndHead(head) => self.ends(head.precision, head.logit_rows),
            BlockShape::Attention(_) | BlockShape::Mlp(_) => self.chain(block, copies, positions),
        }
    }

    /// Writes a chain.
    pub fn chain(
        &mut self,
        block: BlockShape,
        copies: usize,
        positions: usize,
    ) -> Result<PathBuf, ProfilerError> {
        let name: String = block
            .to_string()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let path = self.folder.join(format!("{name}-{copies}.onnx"));
        let chain = Chain {
            model: &self.model,
            block,
            copies,
            positions,
        };
        if !path.is_file() {
            write_chain(&path, &chain, WEIGHTS_FILE)?;
        }
        self.weights_bytes = self.weights_bytes.max(chain_data_bytes(&chain)?);
        Ok(path)
    }

    /// Writes the network without blocks.
    pub fn ends(
        &mut self,
        precision: Precision,
        logit_rows: LogitRows,
    ) -> Result<PathBuf, ProfilerError> {
        let nothing = LayerConfig {
            attention: None,
            mlp: None,
        };
        let subnet = SubnetConfig {
            version: SUBNET_VERSION,
            model: String::new(),
            head_precision: precision,
            layers: vec![nothing; self.model.num_hidden_layers],
        };
        let path = self
            .folder
            .join(format!("ends-{precision}-{logit_rows:?}.onnx"));
        let network = Network {
            model: &self.model,
            subnet: &subnet,
            weights: &NoWeights,
            logit_rows,
        };
        let bytes = write_network_graph(&path, &network, WEIGHTS_FILE)?;
        self.weights_bytes = self.weights_bytes.max(bytes);
        Ok(path)
    }

    /// Writes a whole sub-network, as an export would write it.
    pub fn network(&mut self, name: &str, subnet: &SubnetConfig) -> Result<PathBuf, ProfilerError> {
        let path = self.graph(name);
        let network = Network {
            model: &self.model,
            subnet,
            weights: &RandomWeights {
                model: &self.model,
                subnet,
                seed: 0,
            },
            logit_rows: LogitRows::Last,
        };
        let bytes = write_network_graph(&path, &network, WEIGHTS_FILE)?;
        self.weights_bytes = self.weights_bytes.max(bytes);
        Ok(path)
    }

    /// Writes the weights that the graphs written so far use.
    pub fn write_weights(&self) -> Result<(), ProfilerError> {
        let path = self.folder.join(WEIGHTS_FILE);
        let there = fs::metadata(&path).map_or(0, |data| data.len());
        if there < self.weights_bytes {
            write_random_data(&path, self.weights_bytes, self.seed)?;
        }
        Ok(())
    }

    /// The graph called `name`.
    pub fn graph(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.onnx"))
    }
}

impl Drop for Bench {
    /// The graphs are of no use once all is measured; what cannot be deleted does no harm.
    fn drop(&mut self) {
        let _left = remove_graphs(&self.folder).and_then(|()| fs::remove_dir(&self.folder));
    }
}

/// Removes graphs, weights and unfinished files, and nothing else: the folder's name follows from
/// one that the user chose, and something of theirs may lie there.
fn remove_graphs(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = path
            .extension()
            .is_some_and(|extension| extension == "onnx")
            || name == WEIGHTS_FILE
            || name.starts_with(".tmp");
        if is_ours && path.is_file() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The network without blocks has no biases, and its matrices lie in the shared file.
struct NoWeights;

impl WeightSource for NoWeights {
    fn tensor(&self, _role: TensorRole) -> Vec<f32> {
        Vec::new()
    }

    fn output_bias(&self, _layer: usize, _block: BlockKind) -> Option<Vec<f32>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_graphs_and_weights_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("table.work");
        let model = ModelConfig::smollm2_135m();
        fs::create_dir(&work).unwrap();
        for name in ["old.onnx", WEIGHTS_FILE, ".tmpAbc", "thesis.txt"] {
            fs::write(work.join(name), "x").unwrap();
        }
        let bench = Bench::new(&work, &model, 1).unwrap();
        assert!(!work.join("old.onnx").exists() && !work.join(WEIGHTS_FILE).exists());
        drop(bench);
        let left = fs::read_dir(&work).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["thesis.txt"]);
        fs::remove_file(work.join("thesis.txt")).unwrap();
        drop(Bench::new(&work, &model, 1).unwrap());
        assert!(!work.exists());
    }
}
