//! Whether a network, as the runtime optimises it, holds exactly the operators of its blocks as
//! they were priced. An operator fused across a cut would make sums of prices wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lathe_agent::{OptimizeJob, SessionConfig};
use lathe_arch::{
    BlockShape, LayerConfig, LogitRows, ModelConfig, Precision, SUBNET_VERSION, SubnetConfig,
};
use lathe_onnx::proto;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::bench::Bench;
use crate::{AgentCommand, ProfilerError};

/// A small vocabulary: the operators do not depend on it, the size of the files does.
const VOCAB_SIZE: usize = 512;
/// Longest context of the graphs.
const POSITIONS: usize = 64;

/// Operators by name, and how many of each.
type Operators = BTreeMap<String, i64>;

/// What was found for one precision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Structure {
    /// The precision.
    pub precision: Precision,
    /// Operators of the optimised network.
    pub operators: usize,
    /// Operators of which the network has more or fewer than its blocks together, in words.
    pub differences: Vec<String>,
}

/// Compares a network of all kinds of layers (both blocks, either one, narrow and full) with the
/// sum of its blocks, for each precision among `blocks`.
///
/// # Errors
/// When the agent fails, or a graph cannot be written or read back.
pub fn check_structure(
    command: &AgentCommand,
    model: &ModelConfig,
    blocks: &[BlockShape],
    threads: usize,
    work: &Path,
) -> Result<Vec<Structure>, ProfilerError> {
    let precisions: BTreeSet<Precision> = blocks.iter().map(BlockShape::precision).collect();
    let mut check = Check {
        agent: Agent::start(command)?,
        session: SessionConfig { threads },
        folder: work.to_owned(),
    };
    let precisions = precisions.into_iter();
    precisions
        .map(|precision| check.precision(precision, model, blocks))
        .collect()
}

struct Check {
    agent: Agent,
    session: SessionConfig,
    folder: PathBuf,
}

impl Check {
    fn precision(
        &mut self,
        precision: Precision,
        model: &ModelConfig,
        blocks: &[BlockShape],
    ) -> Result<Structure, ProfilerError> {
        let layers = layers(blocks, precision, model);
        let model = ModelConfig {
            num_hidden_layers: layers.len(),
            vocab_size: VOCAB_SIZE,
            ..model.clone()
        };
        let subnet = SubnetConfig {
            version: SUBNET_VERSION,
            model: String::new(),
            head_precision: precision,
            layers,
        };
        let mut bench = Bench::new(&self.folder, &model, 1)?;
        let network = bench.network("network", &subnet)?;
        let ends = bench.ends(precision, LogitRows::Last)?;
        let mut chains = BTreeMap::new();
        for block in subnet.blocks() {
            let two = bench.chain(block, 2, POSITIONS)?;
            let three = bench.chain(block, 3, POSITIONS)?;
            chains.insert(block, (two, three));
        }
        bench.write_weights()?;
        let mut expected = self.operators(&ends)?;
        let mut preamble = None;
        let mut slopes = BTreeMap::new();
        for (block, (two, three)) in &chains {
            let two = self.operators(two)?;
            let slope = difference(&self.operators(three)?, &two);
            if matches!(block, BlockShape::Attention(_)) && preamble.is_none() {
                preamble = Some(difference(&difference(&two, &slope), &slope));
            }
            slopes.insert(*block, slope);
        }
        for block in subnet.blocks() {
            add(&mut expected, &slopes[&block]);
        }
        add(&mut expected, &preamble.unwrap_or_default());
        let found = self.operators(&network)?;
        Ok(Structure {
            precision,
            operators: found.values().sum::<i64>() as usize,
            differences: words(&difference(&found, &expected)),
        })
    }

    /// Operators of a graph after the runtime's optimisation.
    fn operators(&mut self, graph: &Path) -> Result<Operators, ProfilerError> {
        let out = graph.with_extension("optimized.onnx");
        self.agent.optimize(OptimizeJob {
            model: graph.to_owned(),
            session: self.session,
            out: out.clone(),
        })?;
        let bytes = fs::read(&out).map_err(|source| ProfilerError::Io {
            path: out.clone(),
            source,
        })?;
        let model = proto::Model::decode(&bytes[..]).map_err(|error| ProfilerError::Format {
            path: out,
            message: error.to_string(),
        })?;
        let mut operators = Operators::new();
        for node in model.graph.unwrap_or_default().node {
            let domain = if node.domain.is_empty() {
                "ai.onnx"
            } else {
                &node.domain
            };
            *operators
                .entry(format!("{domain}.{}", node.op_type))
                .or_default() += 1;
        }
        Ok(operators)
    }
}

/// Full and narrow layers with both blocks, and layers with one.
fn layers(blocks: &[BlockShape], precision: Precision, model: &ModelConfig) -> Vec<LayerConfig> {
    let mut sorted: Vec<BlockShape> = blocks
        .iter()
        .filter(|block| block.precision() == precision)
        .copied()
        .collect();
    sorted.sort_by_key(|block| block.matrix_weights(model));
    let attention = || {
        sorted.iter().filter_map(|block| match block {
            BlockShape::Attention(attention) => Some(*attention),
            _ => None,
        })
    };
    let mlp = || {
        sorted.iter().filter_map(|block| match block {
            BlockShape::Mlp(mlp) => Some(*mlp),
            _ => None,
        })
    };
    let layer = |attention, mlp| LayerConfig { attention, mlp };
    vec![
        layer(attention().next_back(), mlp().next_back()),
        layer(attention().next(), None),
        layer(attention().next(), mlp().next()),
        layer(None, mlp().next()),
        layer(None, None),
        layer(attention().next_back(), mlp().next()),
    ]
}

fn add(operators: &mut Operators, more: &Operators) {
    for (name, count) in more {
        *operators.entry(name.clone()).or_default() += count;
    }
}

fn difference(operators: &Operators, less: &Operators) -> Operators {
    let mut difference = operators.clone();
    for (name, count) in less {
        *difference.entry(name.clone()).or_default() -= count;
    }
    difference.retain(|_, count| *count != 0);
    difference
}

fn words(difference: &Operators) -> Vec<String> {
    let word = |(name, count): (&String, &i64)| match count {
        1.. => format!("{count} {name} that no block has"),
        _ => format!(
            "{} {name} of the blocks missing: fused across a cut",
            -count
        ),
    };
    difference.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fused_is_named() {
        let count = |pairs: &[(&str, i64)]| -> Operators {
            pairs
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect()
        };
        let network = count(&[("MatMul", 3), ("FusedMatMul", 1)]);
        let blocks = count(&[("MatMul", 4), ("Mul", 0)]);
        let words = words(&difference(&network, &blocks));
        assert_eq!(
            words,
            [
                "1 FusedMatMul that no block has",
                "1 MatMul of the blocks missing: fused across a cut"
            ]
        );
    }
}
