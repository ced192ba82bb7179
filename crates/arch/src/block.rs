use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AttentionConfig, MlpConfig};

/// How a block's weights are stored and multiplied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
}

impl Precision {
    /// Bytes of `count` weights.
    pub fn bytes(self, count: u64) -> u64 {
        match self {
            Precision::F32 => 4 * count,
        }
    }
}

/// The unit that is measured and priced: one block with its dimensions, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockShape {
    /// What every sub-network has whatever its blocks: embedding, final norm, LM head on the
    /// last position, and the fixed cost of one run.
    EmbeddingAndHead,
    /// One attention block with its norm and residual addition.
    Attention(AttentionConfig),
    /// One MLP block with its norm and residual addition.
    Mlp(MlpConfig),
}

impl fmt::Display for BlockShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockShape::EmbeddingAndHead => write!(f, "embedding+head"),
            BlockShape::Attention(a) => write!(f, "attention {}/{} heads", a.heads, a.kv_heads),
            BlockShape::Mlp(m) => write!(f, "mlp {}", m.intermediate_size),
        }
    }
}
