//! Peak memory: weights as the runtime holds them, keys and values, and the largest activations.

use lathe_arch::{BlockShape, LogitRows, ModelConfig, Precision, SubnetConfig, Workload};
use serde::{Deserialize, Serialize};

use crate::LatencyTable;
use crate::least_squares::line;

/// One whole network: what its blocks weigh, and the memory that it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryPoint {
    /// Bytes of the blocks' matrices.
    pub block_bytes: f64,
    /// Measured peak, keys, values and activations subtracted, in bytes.
    pub rest_bytes: f64,
}

/// `peak = base + factor * bytes of the blocks + keys and values + activations`, for networks in
/// one precision.
///
/// The factor is above 1 where the runtime keeps packed copies of the weights beside the file;
/// the base holds the runtime itself and both ends of the network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryModel {
    /// Precision of all weights of the networks.
    pub precision: Precision,
    /// Bytes that every network takes.
    pub base_bytes: f64,
    /// Bytes of memory for a byte of weights.
    pub factor: f64,
    /// Networks that it was fitted on.
    pub networks: usize,
}

impl MemoryModel {
    /// Fits the networks of one precision; `None` for fewer than 3.
    pub fn fit(precision: Precision, points: &[MemoryPoint]) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let pairs: Vec<(f64, f64)> = points
            .iter()
            .map(|point| (point.block_bytes, point.rest_bytes))
            .collect();
        let (base_bytes, factor) = line(&pairs, |_| 1.0);
        Some(Self {
            precision,
            base_bytes,
            factor,
            networks: points.len(),
        })
    }

    /// The field that cannot be right, and its value.
    pub(crate) fn check(&self) -> Result<(), (&'static str, f64)> {
        for (field, value, limit) in [
            ("base_bytes", self.base_bytes, 1e15),
            ("factor", self.factor, 100.0),
        ] {
            if !(value.is_finite() && value.abs() <= limit) {
                return Err((field, value));
            }
        }
        Ok(())
    }
}

impl LatencyTable {
    /// Peak resident memory of a sub-network at a workload, in bytes: the whole context's keys and
    /// values, the activations of the prompt. `None` without a model for its precisions.
    pub fn predict_peak_memory_bytes(
        &self,
        subnet: &SubnetConfig,
        workload: &Workload,
    ) -> Option<f64> {
        let model = &self.model.dimensions;
        let memory = |precision: Precision| self.memory.iter().find(|m| m.precision == precision);
        let mut bytes = memory(subnet.head_precision)?.base_bytes;
        for block in subnet.blocks() {
            let factor = memory(block.precision())?.factor;
            bytes += factor * block.weight_bytes(model) as f64;
        }
        Some(bytes + context_bytes(model, subnet, workload))
    }
}

/// Bytes of keys, values and activations.
pub fn context_bytes(model: &ModelConfig, subnet: &SubnetConfig, workload: &Workload) -> f64 {
    let tokens = workload.prompt_tokens + workload.generated_tokens;
    let cache = subnet.kv_cache_bytes(model, workload.batch, tokens);
    cache as f64 + activation_bytes(model, subnet, workload.batch, workload.prompt_tokens) as f64
}

/// Bytes of the largest activations of one pass over `tokens` tokens a sequence: the residual
/// stream twice and the norm's output, and the widest block's products.
fn activation_bytes(
    model: &ModelConfig,
    subnet: &SubnetConfig,
    batch: usize,
    tokens: usize,
) -> u64 {
    let width = |block: BlockShape| match block {
        BlockShape::Attention(a) => (2 * a.heads + 2 * a.kv_heads) * model.head_dim,
        BlockShape::Mlp(m) => 3 * m.intermediate_size,
        BlockShape::EmbeddingAndHead(head) => match head.logit_rows {
            LogitRows::Last => 0,
            LogitRows::All => model.vocab_size,
        },
    };
    let widest = subnet.blocks().map(width).max().unwrap_or(0);
    let numbers = (batch as u64) * (tokens as u64) * (3 * model.hidden_size + widest) as u64;
    4 * numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_rule_is_found() {
        let point = |block_bytes: f64| MemoryPoint {
            block_bytes,
            rest_bytes: 5e7 + 2.0 * block_bytes,
        };
        let points = [point(1e8), point(2e8), point(4e8)];
        let fitted = MemoryModel::fit(Precision::Int8, &points).unwrap();
        assert!((fitted.base_bytes - 5e7).abs() < 1.0 && (fitted.factor - 2.0).abs() < 1e-9);
        assert!(MemoryModel::fit(Precision::Int8, &points[..2]).is_none());
    }
}
