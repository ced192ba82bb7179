//! Exact parameters, FLOPs and bytes of a sub-network.
//!
//! A block that is smaller than the model's, or removed, leaves a bias of `hidden_size` numbers
//! behind: the mean output of what was cut away. A block at full size has none.

use crate::{
    AttentionConfig, BlockShape, HeadConfig, LogitRows, MlpConfig, ModelConfig, Phase, Precision,
    SubnetConfig,
};

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

    /// Whether an attention block has lost units or is removed, in whatever precision.
    pub fn is_attention_pruned(&self, block: Option<AttentionConfig>) -> bool {
        let size = |block: AttentionConfig| (block.heads, block.kv_heads);
        block.map(size) != Some(size(self.attention))
    }

    /// Whether an MLP block has lost neurons or is removed, in whatever precision.
    pub fn is_mlp_pruned(&self, block: Option<MlpConfig>) -> bool {
        block.map(|block| block.intermediate_size) != Some(self.mlp.intermediate_size)
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
            BlockShape::EmbeddingAndHead(_) => model.vocab_size as u64 * hidden,
            BlockShape::Attention(a) => {
                let rows = 2 * a.heads as u64 + 2 * a.kv_heads as u64;
                rows * model.head_dim as u64 * hidden
            }
            BlockShape::Mlp(m) => 3 * m.intermediate_size as u64 * hidden,
        }
    }

    /// Gains of the block's norms and biases of its projections; for both ends, of the final norm.
    pub fn vector_weights(&self, model: &ModelConfig) -> u64 {
        let hidden = model.hidden_size as u64;
        let norms = hidden * (1 + u64::from(model.post_norms));
        match self {
            BlockShape::EmbeddingAndHead(_) => hidden,
            BlockShape::Mlp(_) => norms,
            BlockShape::Attention(a) => {
                let head = model.head_dim as u64;
                let projected = (a.heads + 2 * a.kv_heads) as u64 * head;
                let biases = u64::from(model.qkv_bias) * projected;
                norms + biases + u64::from(model.qk_norm) * 2 * head
            }
        }
    }

    /// Inputs and outputs of each of the block's matrices, as they are stored.
    fn matrices(&self, model: &ModelConfig) -> Vec<(u64, u64)> {
        let hidden = model.hidden_size as u64;
        let head = model.head_dim as u64;
        match self {
            BlockShape::EmbeddingAndHead(_) => vec![(hidden, model.vocab_size as u64)],
            BlockShape::Attention(a) => {
                let (heads, groups) = (a.heads as u64, a.kv_heads as u64);
                vec![
                    (hidden, (heads + 2 * groups) * head),
                    (heads * head, hidden),
                ]
            }
            BlockShape::Mlp(m) => {
                let width = m.intermediate_size as u64;
                vec![(hidden, width), (hidden, width), (width, hidden)]
            }
        }
    }

    /// Bytes of the matrices, which one decode step streams from memory.
    pub fn weight_bytes(&self, model: &ModelConfig) -> u64 {
        let precision = match self {
            BlockShape::EmbeddingAndHead(head) => head.precision.of_ends(),
            BlockShape::Attention(_) | BlockShape::Mlp(_) => self.precision(),
        };
        let matrices = self.matrices(model).into_iter();
        matrices
            .map(|(inputs, outputs)| precision.matrix_bytes(inputs, outputs))
            .sum()
    }

    /// Bytes that one pass has to move at least: the matrices once, keys and values of the past
    /// read, those of the new tokens written and read, the residual stream in and out.
    pub fn traffic_bytes(&self, model: &ModelConfig, phase: &Phase) -> u64 {
        let batch = phase.batch() as u64;
        let tokens = phase.new_tokens() as u64;
        let context = tokens + phase.past_tokens() as u64;
        let stream = 2 * 4 * tokens * model.hidden_size as u64;
        let logits = match self {
            BlockShape::EmbeddingAndHead(head) => 4 * head.rows(tokens) * model.vocab_size as u64,
            BlockShape::Attention(_) | BlockShape::Mlp(_) => 0,
        };
        let cache = self.kv_bytes_per_token(model) * context;
        self.weight_bytes(model) + batch * (stream + cache + logits)
    }

    /// Floating point operations of one pass: two per multiply-accumulate of the matrices and of
    /// attention (causal: only positions that are seen). Attention is that of a layer that sees
    /// all tokens; [`SubnetConfig::flops`] knows which layers see a window.
    pub fn flops(&self, model: &ModelConfig, phase: &Phase) -> u64 {
        let batch = phase.batch() as u64;
        let tokens = phase.new_tokens() as u64;
        let matrices = 2 * self.matrix_weights(model);
        match self {
            BlockShape::EmbeddingAndHead(head) => batch * head.rows(tokens) * matrices,
            BlockShape::Mlp(_) => batch * tokens * matrices,
            BlockShape::Attention(a) => {
                let scores_and_values = a.flops_of_scores(model, phase, None);
                batch * tokens * matrices + scores_and_values
            }
        }
    }

    /// Bytes of keys and values that one past token of one sequence occupies (f32).
    pub fn kv_bytes_per_token(&self, model: &ModelConfig) -> u64 {
        match self {
            BlockShape::Attention(a) => 2 * 4 * (a.kv_heads * model.head_dim) as u64,
            BlockShape::EmbeddingAndHead(_) | BlockShape::Mlp(_) => 0,
        }
    }
}

impl AttentionConfig {
    /// Operations of scores and values in a layer that sees `window` tokens, or all.
    fn flops_of_scores(&self, model: &ModelConfig, phase: &Phase, window: Option<usize>) -> u64 {
        let (tokens, past) = (phase.new_tokens() as u64, phase.past_tokens() as u64);
        let all = tokens * past + tokens * (tokens + 1) / 2;
        // Token `t` sees `past + t + 1` tokens, and those beyond the window it does not.
        let window = window.map_or(u64::MAX, |window| window as u64);
        let beyond = (past + tokens).saturating_sub(window);
        let before = past.saturating_sub(window);
        let unseen = beyond * (beyond + 1) / 2 - before * (before + 1) / 2;
        let pairs = phase.batch() as u64 * (all - unseen);
        4 * pairs * (self.heads * model.head_dim) as u64
    }
}

impl HeadConfig {
    /// Positions of `tokens` that are scored.
    fn rows(&self, tokens: u64) -> u64 {
        match self.logit_rows {
            LogitRows::Last => 1,
            LogitRows::All => tokens,
        }
    }
}

impl SubnetConfig {
    /// Parameters of the sub-network: matrices, norm gains, biases of projections, and the biases
    /// that pruning left.
    pub fn parameters(&self, model: &ModelConfig) -> u64 {
        let full = FullShapes::of(model);
        let hidden = model.hidden_size as u64;
        let matrices = if model.tie_word_embeddings { 1 } else { 2 };
        let ends = matrices * model.vocab_size as u64 * hidden + hidden;
        let blocks: u64 = self
            .blocks()
            .map(|block| block.matrix_weights(model) + block.vector_weights(model))
            .sum();
        let biases = self
            .layers
            .iter()
            .map(|layer| {
                u64::from(full.is_attention_pruned(layer.attention))
                    + u64::from(full.is_mlp_pruned(layer.mlp))
            })
            .sum::<u64>();
        ends + blocks + biases * hidden
    }

    /// Floating point operations of one pass with the LM head on the last position.
    pub fn flops(&self, model: &ModelConfig, phase: &Phase) -> u64 {
        let ends = self.head(LogitRows::Last).flops(model, phase);
        let blocks: u64 = self.blocks().map(|block| block.flops(model, phase)).sum();
        let layers = self.layers.iter().enumerate();
        let unseen = layers.filter_map(|(index, layer)| {
            let attention = layer.attention?;
            let window = model.window(index);
            let flops = |window| attention.flops_of_scores(model, phase, window);
            Some(flops(None) - flops(window))
        });
        ends + blocks - unseen.sum::<u64>()
    }

    /// Bytes of all parameters as stored.
    pub fn weight_bytes(&self, model: &ModelConfig) -> u64 {
        let head = self.head(LogitRows::Last);
        // An untied embedding stays f32: a lookup reads one row of it.
        let embedding = head.with_precision(Precision::F32);
        let ends = [head]
            .into_iter()
            .chain((!model.tie_word_embeddings).then_some(embedding));
        let (weights, bytes) = self
            .blocks()
            .chain(ends)
            .fold((0, 0), |(weights, bytes), block| {
                (
                    weights + block.matrix_weights(model),
                    bytes + block.weight_bytes(model),
                )
            });
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
    use crate::{Family, LayerType, SlidingWindow};

    #[test]
    fn the_full_model_has_the_published_size() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        assert_eq!(full.parameters(&model), 134_515_008);
        assert_eq!(full.weight_bytes(&model), 4 * 134_515_008);
        // 46 kB of keys and values per token: 30 layers x 2 x 192 x 4 bytes.
        assert_eq!(full.kv_cache_bytes(&model, 1, 1), 46_080);
    }

    /// The dimensions of gemma-3-270m.
    fn gemma_3_270m() -> ModelConfig {
        let mut layer_types = vec![LayerType::SlidingAttention; 5];
        layer_types.push(LayerType::FullAttention);
        ModelConfig {
            family: Family::Gemma3,
            vocab_size: 262_144,
            hidden_size: 640,
            intermediate_size: 2048,
            num_hidden_layers: 18,
            num_attention_heads: 4,
            num_key_value_heads: 1,
            head_dim: 256,
            qk_norm: true,
            post_norms: true,
            sliding_window: Some(SlidingWindow {
                window: 512,
                layer_types,
                rope_theta: 1e4,
            }),
            ..ModelConfig::smollm2_135m()
        }
    }

    #[test]
    fn other_families_have_the_published_sizes() {
        let qwen2 = ModelConfig {
            family: Family::Qwen2,
            vocab_size: 151_936,
            hidden_size: 896,
            intermediate_size: 4864,
            num_hidden_layers: 24,
            num_attention_heads: 14,
            num_key_value_heads: 2,
            head_dim: 64,
            qkv_bias: true,
            ..ModelConfig::smollm2_135m()
        };
        let qwen3 = ModelConfig {
            family: Family::Qwen3,
            vocab_size: 151_936,
            hidden_size: 1024,
            intermediate_size: 3072,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            qk_norm: true,
            ..ModelConfig::smollm2_135m()
        };
        // Qwen2.5-0.5B, Qwen3-0.6B, gemma-3-270m.
        for (model, parameters) in [
            (qwen2, 494_032_768),
            (qwen3, 596_049_920),
            (gemma_3_270m(), 268_098_176),
        ] {
            let full = SubnetConfig::full(&model);
            assert_eq!(full.parameters(&model), parameters);
            assert_eq!(full.weight_bytes(&model), 4 * parameters);
        }
    }

    #[test]
    fn a_window_bounds_the_pairs_that_are_seen() {
        let model = gemma_3_270m();
        let full = SubnetConfig::full(&model);
        let mut everywhere = model.clone();
        everywhere.sliding_window = None;
        for (seq_len, past) in [(600, 0), (512, 0), (1, 100), (1, 2000), (30, 500)] {
            let phase = match past {
                0 => Phase::Prefill { batch: 2, seq_len },
                _ => Phase::Decode {
                    batch: 2,
                    past_len: past,
                },
            };
            let tokens = phase.new_tokens();
            let seen = (0..tokens).map(|t| (past + t + 1).min(512)).sum::<usize>();
            let all = (0..tokens).map(|t| past + t + 1).sum::<usize>();
            let unseen = 2 * 15 * 4 * (all - seen) * 4 * 256;
            let flops = everywhere_flops(&full, &everywhere, &phase);
            assert_eq!(full.flops(&model, &phase), flops - unseen as u64);
        }
    }

    fn everywhere_flops(subnet: &SubnetConfig, model: &ModelConfig, phase: &Phase) -> u64 {
        let head = subnet.head(LogitRows::Last).flops(model, phase);
        head + subnet.blocks().map(|b| b.flops(model, phase)).sum::<u64>()
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
    fn quantised_matrices_carry_a_scale_for_every_block() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        let matrices = full.parameters(&model) - 61 * 576;
        for (precision, bits) in [(Precision::Int8, 9), (Precision::Int4, 5)] {
            let bytes = full.clone().with_precision(precision).weight_bytes(&model);
            assert_eq!(bytes, matrices * bits / 8 + 4 * 61 * 576);
        }
        let w8a8 = full.clone().with_precision(Precision::W8A8);
        let head = full.head(LogitRows::Last).with_precision(Precision::Int8);
        let scales = 30 * (960 + 576 + 2 * 1536 + 576);
        assert_eq!(
            w8a8.weight_bytes(&model),
            matrices - 49_152 * 576 + 4 * scales + head.weight_bytes(&model) + 4 * 61 * 576
        );
        // 40 inputs take two blocks of 32.
        assert_eq!(Precision::Int4.matrix_bytes(40, 3), 3 * 2 * 20);
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
