//! The interface by which a network gets its weights.

use lathe_arch::{ModelConfig, SubnetConfig};

/// A tensor of a network by what it does. Matrices are `[in, out]`, as `MatMul` reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// `[vocab_size, hidden_size]`
    Embedding,
    /// Gain of the norm before attention, `[hidden_size]`.
    InputNorm(usize),
    /// Query, key and value side by side, `[hidden_size, (heads + 2 kv_heads) * head_dim]`.
    /// Query heads are in the order of their KV heads, `heads / kv_heads` for each; the rotary
    /// embedding turns the first half of a head against its second half.
    QkvProj(usize),
    /// Biases of query, key and value side by side, `[(heads + 2 kv_heads) * head_dim]`; asked for
    /// only when the model has them, as the next four.
    QkvBias(usize),
    /// Gain of the norm of query heads, `[head_dim]`.
    QueryNorm(usize),
    /// Gain of the norm of key heads, `[head_dim]`.
    KeyNorm(usize),
    /// Gain of the norm behind the attention block, `[hidden_size]`.
    AttentionPostNorm(usize),
    /// Gain of the norm behind the MLP block, `[hidden_size]`.
    MlpPostNorm(usize),
    /// `[heads * head_dim, hidden_size]`
    OProj(usize),
    /// Gain of the norm before the MLP, `[hidden_size]`.
    PostAttentionNorm(usize),
    /// `[hidden_size, intermediate_size]`
    GateProj(usize),
    /// `[hidden_size, intermediate_size]`
    UpProj(usize),
    /// `[intermediate_size, hidden_size]`
    DownProj(usize),
    /// Gain of the final norm, `[hidden_size]`.
    FinalNorm,
    /// `[hidden_size, vocab_size]`; asked for only when it is not the embedding.
    LmHead,
}

impl TensorRole {
    /// Shape of the tensor in `subnet`, or `None` when its block is removed.
    pub fn shape(self, model: &ModelConfig, subnet: &SubnetConfig) -> Option<Vec<usize>> {
        let (vocab, hidden) = (model.vocab_size, model.hidden_size);
        let attention = |layer: usize| subnet.layers.get(layer).and_then(|l| l.attention);
        let mlp = |layer: usize| subnet.layers.get(layer).and_then(|l| l.mlp);
        Some(match self {
            TensorRole::Embedding => vec![vocab, hidden],
            TensorRole::LmHead => vec![hidden, vocab],
            TensorRole::FinalNorm => vec![hidden],
            TensorRole::InputNorm(layer) | TensorRole::AttentionPostNorm(layer) => {
                attention(layer).map(|_| vec![hidden])?
            }
            TensorRole::QkvBias(layer) => {
                let block = attention(layer)?;
                vec![(block.heads + 2 * block.kv_heads) * model.head_dim]
            }
            TensorRole::QueryNorm(layer) | TensorRole::KeyNorm(layer) => {
                attention(layer).map(|_| vec![model.head_dim])?
            }
            TensorRole::QkvProj(layer) => {
                let block = attention(layer)?;
                vec![hidden, (block.heads + 2 * block.kv_heads) * model.head_dim]
            }
            TensorRole::OProj(layer) => vec![attention(layer)?.heads * model.head_dim, hidden],
            TensorRole::PostAttentionNorm(layer) | TensorRole::MlpPostNorm(layer) => {
                mlp(layer).map(|_| vec![hidden])?
            }
            TensorRole::GateProj(layer) | TensorRole::UpProj(layer) => {
                vec![hidden, mlp(layer)?.intermediate_size]
            }
            TensorRole::DownProj(layer) => vec![mlp(layer)?.intermediate_size, hidden],
        })
    }
}

/// One of a layer's two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// The attention block.
    Attention,
    /// The MLP block.
    Mlp,
}

/// Where a network's weights come from.
pub trait WeightSource {
    /// The values of a tensor, row-major. It is asked for once, when it is written.
    fn tensor(&self, role: TensorRole) -> Vec<f32>;

    /// The constant `[hidden_size]` that a pruned or removed block adds to the residual stream; of
    /// a pruned block with a norm behind it, what that norm takes in beside the block's output.
    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>>;
}
