//! Exact parameters, FLOPs and bytes of a sub-network.
//!
//! A block that is smaller than the model's, or removed, leaves a bias of `hidden_size` numbers
//! behind: the mean output of what was cut away. A block at full size has none.

use crate::{AttentionConfig, BlockShape, MlpConfig, ModelConfig, Phase, SubnetConfig};

/// The two blocks of the full model, which decide whether a block was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullShapes {
    /// The full attention block.
    pub attention: AttentionConfig,
    /// The full MLP block.
    pub mlp: MlpConfig,
}

impl FullShapes {
    /// The full blocks of `model`.
    pub fn of(model: &ModelConfig) -> Self {
        Self {
            attention: AttentionConfig::full(model),
            mlp: MlpConfig::full(model),
        }
    }
}

impl BlockShape {
    /// Weights in the block's matrices (norm gains and biases not counted).
    ///
    /// The LM head counts for [`BlockShape::EmbeddingAndHead`], the embedding does not: a lookup
    /// reads one row.
    pub fn matrix_weights(&self, model: &ModelConfig) -> u64 {
        let hidden = model.hidden_size as u64;
        match self {
            BlockShape::EmbeddingAndHead => model.vocab_size as u64 * hidden,
            BlockShape::Attention(a) => {
                let rows = 2 * a.heads as u64 + 2 * a.kv_heads as u64;
                rows * model.head_dim as u64 * hidden
            }
            BlockShape::Mlp(m) => 3 * m.intermediate_size as u64 * hidden,
        }
    }

    /// Bytes of the matrices, which one decode step streams from memory.
    pub fn weight_bytes(&self, model: &ModelConfig) -> u64 {
        let precision = match self {
            BlockShape::EmbeddingAndHead => crate::Precision::F32,
            BlockShape::Attention(a) => a.precision,
            BlockShape::Mlp(m) => m.precision,
        };
        precision.bytes(self.matrix_weights(model))
    }

    /// Floating point operations of one pass: two per multiply-accumulate of the matrices and of
    /// attention (causal: only positions that are seen). The LM head runs on the last position.
    pub fn flops(&self, model: &ModelConfig, phase: &Phase) -> u64 {
        let batch = phase.batch() as u64;
        let tokens = phase.new_tokens() as u64;
        let matrices = 2 * self.matrix_weights(model);
        match self {
            BlockShape::EmbeddingAndHead => batch * matrices,
            BlockShape::Mlp(_) => batch * tokens * matrices,
            BlockShape::Attention(a) => {
                let past = phase.past_tokens() as u64;
                let seen_pairs = tokens * past + tokens * (tokens + 1) / 2;
                let scores_and_values = 4 * seen_pairs * (a.heads * model.head_dim) as u64;
                batch * (tokens * matrices + scores_and_values)
            }
        }
    }

    /// Bytes of keys and values that one past token of one sequence occupies (f32).
    pub fn kv_bytes_per_token(&self, model: &ModelConfig) -> u64 {
        match self {
            BlockShape::Attention(a) => 2 * 4 * (a.kv_heads * model.head_dim) as u64,
            BlockShape::EmbeddingAndHead | BlockShape::Mlp(_) => 0,
        }
    }
}

impl SubnetConfig {
    /// Parameters of the sub-network: matrices, norm gains, and the biases that pruning left.
    pub fn parameters(&self, model: &ModelConfig) -> u64 {
        let full = FullShapes::of(model);
        let hidden = model.hidden_size as u64;
        let matrices = if model.tie_word_embeddings { 1 } else { 2 };
        let ends = matrices * model.vocab_size as u64 * hidden + hidden;
        let blocks: u64 = self
            .blocks()
            .map(|block| block.matrix_weights(model) + hidden)
            .sum();
        let biases = self
            .layers
            .iter()
            .map(|layer| {
                u64::from(layer.attention != Some(full.attention))
                    + u64::from(layer.mlp != Some(full.mlp))
            })
            .sum::<u64>();
        ends + blocks + biases * hidden
    }

    /// Floating point operations of one pass.
    pub fn flops(&self, model: &ModelConfig, phase: &Phase) -> u64 {
        let ends = BlockShape::EmbeddingAndHead.flops(model, phase);
        ends + self
            .blocks()
            .map(|block| block.flops(model, phase))
            .sum::<u64>()
    }

    /// Bytes of all parameters as stored.
    pub fn weight_bytes(&self, model: &ModelConfig) -> u64 {
        let matrices =
            |block: &BlockShape| (block.matrix_weights(model), block.weight_bytes(model));
        let (weights, bytes) = self.blocks().map(|b| matrices(&b)).fold(
            (0, 0),
            |(weights, bytes), (block_weights, block_bytes)| {
                (weights + block_weights, bytes + block_bytes)
            },
        );
        bytes + 4 * (self.parameters(model) - weights)
    }

    /// Bytes of the KV cache of `tokens` tokens in `batch` sequences (f32).
    pub fn kv_cache_bytes(&self, model: &ModelConfig, batch: usize, tokens: usize) -> u64 {
        let per_token: u64 = self
            .blocks()
            .map(|block| block.kv_bytes_per_token(model))
            .sum();
        per_token * batch as u64 * tokens as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_model_has_the_published_size() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        assert_eq!(full.parameters(&model), 134_515_008);
        assert_eq!(full.weight_bytes(&model), 4 * 134_515_008);
        // 46 kB of keys and values per token: 30 layers x 2 x 192 x 4 bytes.
        assert_eq!(full.kv_cache_bytes(&model, 1, 1), 46_080);
    }

    #[test]
    fn a_pruned_block_keeps_a_bias_and_a_removed_one_loses_its_norm() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        let mut narrow = full.clone();
        narrow.layers[0].mlp = Some(MlpConfig::with_width(1535));
        assert_eq!(
            narrow.parameters(&model),
            full.parameters(&model) - 3 * 576 + 576
        );
        let mut removed = full.clone();
        removed.layers[0].mlp = None;
        assert_eq!(
            removed.parameters(&model),
            full.parameters(&model) - 3 * 1536 * 576 - 576 + 576
        );
    }

    #[test]
    fn flops_of_a_decode_step_are_two_per_weight_plus_attention() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        let phase = Phase::Decode {
            batch: 1,
            past_len: 0,
        };
        let weights: u64 = 30 * (884_736 + 2_654_208) + 28_311_552;
        let attention = 30 * 4 * 9 * 64;
        assert_eq!(full.flops(&model, &phase), 2 * weights + attention);
    }
}
