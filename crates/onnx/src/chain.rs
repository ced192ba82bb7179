//! Copies of one block in series, as they stand in a network: what a block is priced by.

use lathe_arch::{AttentionConfig, BlockShape, FullShapes, MlpConfig, ModelConfig};

use crate::OnnxError;
use crate::block::{self, AttentionInputs, Residual};
use crate::graph::{BATCH, Dim, GraphBuilder, Plan, SEQUENCE};
use crate::proto::ElementType;
use crate::rotary::{Rotary, RotaryTable};

/// Rotary tables stand inside a chain's graph, and a protobuf message holds less than 2 GiB.
const MAX_ROTARY_BYTES: u64 = 1 << 30;

/// `copies` copies of one block with weights of their own, one after another.
///
/// Inputs are `root` and `skip` `[batch_size, sequence_length, hidden_size]` (the two halves of
/// the residual stream) and, for attention, `attention_mask` and for every copy `i`
/// `past_key_values.{i}.key` and `.value`; outputs are `root_out`, `skip_out` and
/// `present.{i}.key` and `.value`. The weights lie in a data file that chains share; see
/// [`crate::write_random_data`].
///
/// A block that is smaller than the model's carries its bias, which the norm of the next copy
/// adds: each copy more adds one bias, the last copy's is left out. Where norms stand behind the
/// blocks, each copy has its bias before its own.
///
/// Attention is that of a layer that sees all tokens. A layer that sees a window costs the same up
/// to a context of that window; beyond it, ONNX Runtime's CPU kernel still multiplies by all keys
/// and values and saves a part of the softmax alone (gqa_attention_base.h).
pub struct Chain<'a> {
    /// The model whose block it is.
    pub model: &'a ModelConfig,
    /// The block: attention or MLP.
    pub block: BlockShape,
    /// Number of copies.
    pub copies: usize,
    /// Longest context that will be run, in tokens.
    pub positions: usize,
}

impl Chain<'_> {
    pub(crate) fn plan(&self, data_file: &str) -> Result<Plan, OnnxError> {
        self.model.validate()?;
        let model = ModelConfig {
            sliding_window: None,
            ..self.model.clone()
        };
        let mut graph = GraphBuilder::new(data_file);
        let stream = [BATCH, SEQUENCE, Dim::Fixed(model.hidden_size)];
        let mut residual = Residual {
            root: graph.input("root", ElementType::Float, &stream),
            skip: Some(graph.input("skip", ElementType::Float, &stream)),
            bias: None,
        };
        // Declared before the caches, so that they come first among the outputs.
        for name in ["root_out", "skip_out"] {
            graph.output(name, ElementType::Float, &stream);
        }
        match self.block {
            BlockShape::Attention(shape) if self.copies > 0 => {
                self.attention(&mut graph, &mut residual, &model, shape)?;
            }
            BlockShape::Mlp(shape) if self.copies > 0 => {
                self.mlp(&mut graph, &mut residual, &model, shape);
            }
            BlockShape::Attention(_) | BlockShape::Mlp(_) | BlockShape::EmbeddingAndHead(_) => {
                return Err(OnnxError::EmptyChain {
                    copies: self.copies,
                    block: self.block.to_string(),
                });
            }
        }
        graph.rename(&residual.root, "root_out");
        if let Some(skip) = residual.skip {
            graph.rename(&skip, "skip_out");
        }
        graph.finish(&[("lathe.block", &self.block.to_string())])
    }

    fn attention(
        &self,
        graph: &mut GraphBuilder,
        residual: &mut Residual,
        model: &ModelConfig,
        shape: AttentionConfig,
    ) -> Result<(), OnnxError> {
        let rotary = Rotary::new(model, self.positions);
        self.check_rotary_bytes()?;
        let shared = AttentionInputs::new(graph, &rotary, None, inline);
        let is_pruned = FullShapes::of(model).is_attention_pruned(Some(shape));
        for copy in 0..self.copies {
            let bias = self.placeholder_bias(is_pruned);
            block::attention(graph, residual, &shared, model, copy, shape, bias);
        }
        Ok(())
    }

    fn mlp(
        &self,
        graph: &mut GraphBuilder,
        residual: &mut Residual,
        model: &ModelConfig,
        shape: MlpConfig,
    ) {
        let is_pruned = FullShapes::of(model).is_mlp_pruned(Some(shape));
        for copy in 0..self.copies {
            let bias = self.placeholder_bias(is_pruned);
            block::mlp(graph, residual, model, copy, shape, bias);
        }
    }

    fn check_rotary_bytes(&self) -> Result<(), OnnxError> {
        let bytes = (self.positions as u64).saturating_mul(4 * self.model.head_dim as u64);
        if bytes > MAX_ROTARY_BYTES {
            return Err(OnnxError::TooLarge {
                what: "the rotary tables of a chain",
                bytes,
                limit: MAX_ROTARY_BYTES,
            });
        }
        Ok(())
    }

    /// Room for a bias in the data file, whose numbers the chain takes as they are.
    fn placeholder_bias(&self, is_pruned: bool) -> Option<Vec<f32>> {
        is_pruned.then(|| vec![0.0; self.model.hidden_size])
    }
}

/// A chain's rotary tables cannot lie in its data file, which is random.
fn inline(graph: &mut GraphBuilder, name: &str, table: RotaryTable) -> String {
    let values: Vec<f32> = table.rows().flatten().collect();
    graph.floats(name, &table.shape(), &values)
}
