//! Copies of one block in series, as they stand in a network: what a block is priced by.

use lathe_arch::{BlockShape, FullShapes, ModelConfig};

use crate::OnnxError;
use crate::block::{self, AttentionInputs, Residual};
use crate::graph::{BATCH, Dim, GraphBuilder, Plan, SEQUENCE};
use crate::proto::ElementType;

/// `copies` copies of one block with weights of their own, one after another.
///
/// Inputs are `root` and `skip` `[batch_size, sequence_length, hidden_size]` (the two halves of
/// the residual stream) and, for attention, `attention_mask` and the copies' KV caches. The
/// weights lie in a data file that chains share; see [`crate::write_random_data`].
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
        let model = self.model;
        let mut graph = GraphBuilder::new(data_file);
        let stream = [BATCH, SEQUENCE, Dim::Fixed(model.hidden_size)];
        let mut residual = Residual {
            root: graph.input("root", ElementType::Float, &stream),
            skip: Some(graph.input("skip", ElementType::Float, &stream)),
            bias: None,
        };
        let full = FullShapes::of(model);
        match self.block {
            BlockShape::Attention(shape) if self.copies > 0 => {
                let shared = AttentionInputs::new(&mut graph, model, self.positions);
                for copy in 0..self.copies {
                    block::attention(&mut graph, &mut residual, &shared, model, copy, shape);
                    residual.add_bias(pruned_bias(model, shape != full.attention));
                }
            }
            BlockShape::Mlp(shape) if self.copies > 0 => {
                for copy in 0..self.copies {
                    block::mlp(&mut graph, &mut residual, model, copy, shape);
                    residual.add_bias(pruned_bias(model, shape != full.mlp));
                }
            }
            BlockShape::Attention(_) | BlockShape::Mlp(_) | BlockShape::EmbeddingAndHead => {
                return Err(OnnxError::EmptyChain {
                    copies: self.copies,
                    block: self.block.to_string(),
                });
            }
        }
        let outputs = [Some(residual.root), residual.skip];
        for (name, value) in ["root_out", "skip_out"]
            .iter()
            .zip(outputs.into_iter().flatten())
        {
            graph.output(name, ElementType::Float, &stream);
            graph.push(
                &format!("/{name}"),
                "",
                "Identity",
                &[&value],
                &[name],
                vec![],
            );
        }
        Ok(graph.finish(&[]))
    }
}

/// A pruned block is priced with its bias.
fn pruned_bias(model: &ModelConfig, is_pruned: bool) -> Option<Vec<f32>> {
    is_pruned.then(|| vec![0.01; model.hidden_size])
}
