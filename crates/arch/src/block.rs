use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ArchError, AttentionConfig, MlpConfig};

/// How a block's weights are stored and multiplied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 8-bit integers in blocks of [`QUANTIZATION_BLOCK`] with one f32 scale each.
    Int8,
    /// 8-bit integers with one f32 scale for each output, multiplied as integers with inputs of 8 bits and
    /// one scale for each token (W8A8, as in LLM.int8(), 2208.07339, and ZeroQuant, 2206.01861). The
    /// values take 7 bits, so that processors without an instruction for four products at once, which add
    /// pairs of products in 16 bits, cannot overflow. Both ends of a network are as in [`Self::Int8`].
    W8A8,
    /// 4-bit integers in blocks of [`QUANTIZATION_BLOCK`] with one f32 scale each.
    Int4,
}

/// Weights along a matrix's input dimension that share a scale.
pub const QUANTIZATION_BLOCK: usize = 32;

impl Precision {
    /// All precisions, the widest first.
    pub const ALL: [Precision; 4] = [
        Precision::F32,
        Precision::Int8,
        Precision::W8A8,
        Precision::Int4,
    ];

    /// Bits that the values of one weight take, scales not counted.
    pub fn bits(self) -> usize {
        match self {
            Precision::F32 => 32,
            Precision::Int8 => 8,
            Precision::W8A8 => 7,
            Precision::Int4 => 4,
        }
    }

    /// The precision of embedding and LM head in a network of this one. Of the head's product one row is
    /// taken, which is bound by reading its matrix.
    pub fn of_ends(self) -> Self {
        match self {
            Precision::W8A8 => Precision::Int8,
            other => other,
        }
    }

    /// How many of `inputs` that follow each other share a scale, of weights and of what they are
    /// multiplied with.
    pub fn sharing_a_scale(self, inputs: usize) -> usize {
        match self {
            Precision::W8A8 => inputs,
            _ => QUANTIZATION_BLOCK,
        }
    }

    /// Bytes of a matrix of `inputs` by `outputs` weights with its scales. The last block of an
    /// output is padded to [`QUANTIZATION_BLOCK`].
    pub fn matrix_bytes(self, inputs: u64, outputs: u64) -> u64 {
        let block = QUANTIZATION_BLOCK as u64;
        match self {
            Precision::F32 => inputs.saturating_mul(outputs).saturating_mul(4),
            Precision::W8A8 => inputs.saturating_add(4).saturating_mul(outputs),
            Precision::Int8 | Precision::Int4 => {
                let bytes_per_block = block * self.bits() as u64 / 8 + 4;
                let blocks = inputs.div_ceil(block).saturating_mul(outputs);
                blocks.saturating_mul(bytes_per_block)
            }
        }
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
            Precision::W8A8 => "w8a8",
            Precision::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        let found = Precision::ALL.into_iter().find(|p| p.name() == text);
        found.ok_or_else(|| ArchError::Precision {
            text: text.to_owned(),
        })
    }
}

/// Which positions the LM head scores.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum LogitRows {
    /// The last position alone, as generation needs.
    #[default]
    Last,
    /// Every position, as scoring needs.
    All,
}

/// The two ends of a network: embedding, final norm and LM head.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Precision of the embedding and the LM head.
    #[serde(default)]
    pub precision: Precision,
    /// Positions that the LM head scores.
    #[serde(default)]
    pub logit_rows: LogitRows,
}

/// The unit that is measured and priced: one block with its dimensions, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockShape {
    /// What every sub-network has whatever its blocks: embedding, final norm, LM head, and the
    /// fixed cost of one run.
    EmbeddingAndHead(HeadConfig),
    /// One attention block with its norm and residual addition.
    Attention(AttentionConfig),
    /// One MLP block with its norm and residual addition.
    Mlp(MlpConfig),
}

impl BlockShape {
    /// Precision of the block's weights.
    pub fn precision(&self) -> Precision {
        match self {
            BlockShape::EmbeddingAndHead(head) => head.precision,
            BlockShape::Attention(attention) => attention.precision,
            BlockShape::Mlp(mlp) => mlp.precision,
        }
    }

    /// The same block in another precision.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        match &mut self {
            BlockShape::EmbeddingAndHead(head) => head.precision = precision,
            BlockShape::Attention(attention) => attention.precision = precision,
            BlockShape::Mlp(mlp) => mlp.precision = precision,
        }
        self
    }
}

impl fmt::Display for BlockShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockShape::EmbeddingAndHead(head) => match head.logit_rows {
                LogitRows::Last => write!(f, "embedding+head")?,
                LogitRows::All => write!(f, "embedding+head of all rows")?,
            },
            BlockShape::Attention(a) => write!(f, "attention {}/{} heads", a.heads, a.kv_heads)?,
            BlockShape::Mlp(m) => write!(f, "mlp {}", m.intermediate_size)?,
        }
        match self.precision() {
            Precision::F32 => Ok(()),
            precision => write!(f, " {precision}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_are_read_by_their_names_and_a_wrong_one_is_told_all() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        let message = "w8a9".parse::<Precision>().unwrap_err().to_string();
        let names = "f32, int8, w8a8, int4";
        assert_eq!(
            message,
            format!("`w8a9` is no precision: expected one of {names}")
        );
    }

    #[test]
    fn a_space_may_list_all_precisions_by_their_bits() {
        let bits = Precision::ALL.map(Precision::bits);
        assert!(bits.is_sorted_by(|a, b| a > b), "{bits:?}");
    }
}
