//! A whole sub-network, with the inputs and outputs that onnxruntime-genai expects.

use lathe_arch::{ModelConfig, SubnetConfig};

use crate::block::{self, AttentionInputs, Residual};
use crate::graph::{BATCH, Dim, GraphBuilder, Plan, SEQUENCE, integer};
use crate::proto::ElementType;
use crate::weights::{BlockKind, TensorRole, WeightSource};
use crate::{DATA_FILE, OnnxError};

/// For which positions the LM head runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// Every position: `[batch_size, sequence_length, vocab_size]`.
    All,
    /// Only the last, all that generation needs: `[batch_size, 1, vocab_size]`.
    Last,
}

/// A sub-network to be written.
///
/// Inputs are `input_ids` and `attention_mask` (i64), and `past_key_values.{i}.key` and `.value`
/// `[batch, kv_heads_i, past, head_dim]` for every layer `i` that has attention; outputs are
/// `logits` and `present.{i}.key` and `.value`.
pub struct Network<'a> {
    /// The model it was cut from.
    pub model: &'a ModelConfig,
    /// Its blocks.
    pub subnet: &'a SubnetConfig,
    /// Its weights.
    pub weights: &'a dyn WeightSource,
    /// For which positions the LM head runs.
    pub logit_rows: LogitRows,
}

impl Network<'_> {
    pub(crate) fn plan(&self) -> Result<Plan, OnnxError> {
        self.subnet.check(self.model)?;
        let model = self.model;
        let mut graph = GraphBuilder::new(DATA_FILE);
        let ids = graph.input("input_ids", ElementType::Int64, &[BATCH, SEQUENCE]);
        let has_attention = self.subnet.layers.iter().any(|l| l.attention.is_some());
        let positions = model.max_position_embeddings;
        let shared = has_attention.then(|| AttentionInputs::new(&mut graph, model, positions));
        if shared.is_none() {
            // genai always feeds the mask.
            graph.input(
                "attention_mask",
                ElementType::Int64,
                &[BATCH, crate::graph::TOTAL],
            );
        }
        // The logits come first among the outputs, so the caches are declared after them.
        let rows = match self.logit_rows {
            LogitRows::All => SEQUENCE,
            LogitRows::Last => Dim::Fixed(1),
        };
        graph.output(
            "logits",
            ElementType::Float,
            &[BATCH, rows, Dim::Fixed(model.vocab_size)],
        );
        let shape = [model.vocab_size, model.hidden_size];
        let name = "model.embed_tokens.weight".to_owned();
        let embedding = graph.weight(name, TensorRole::Embedding, &shape);
        let node = "/model/embed_tokens/Gather";
        let mut residual = Residual {
            root: graph.node(node, "Gather", &[&embedding, &ids], vec![]),
            skip: None,
            bias: None,
        };
        for (layer, blocks) in self.subnet.layers.iter().enumerate() {
            if let (Some(attention), Some(shared)) = (blocks.attention, &shared) {
                block::attention(&mut graph, &mut residual, shared, model, layer, attention);
            }
            residual.add_bias(self.weights.output_bias(layer, BlockKind::Attention));
            if let Some(mlp) = blocks.mlp {
                block::mlp(&mut graph, &mut residual, model, layer, mlp);
            }
            residual.add_bias(self.weights.output_bias(layer, BlockKind::Mlp));
        }
        let norm = format!(
            "/model/layers.{}/final_norm_layernorm",
            model.num_hidden_layers
        );
        let normed = residual.norm(&mut graph, &norm, TensorRole::FinalNorm, model);
        self.head(&mut graph, &normed, &embedding);
        let subnet = serde_json::to_string(self.subnet).unwrap_or_default();
        Ok(graph.finish(&[
            ("lathe.model", &self.subnet.model),
            ("lathe.subnet", &subnet),
        ]))
    }

    fn head(&self, graph: &mut GraphBuilder, normed: &str, embedding: &str) {
        let rows = match self.logit_rows {
            LogitRows::All => normed.to_owned(),
            LogitRows::Last => {
                let last = graph.integers("/lm_head/constants/last", &[], &[-1]);
                let axis = vec![integer("axis", 1)];
                graph.node("/lm_head/Gather", "Gather", &[normed, &last], axis)
            }
        };
        let tied = self.model.tie_word_embeddings;
        let logits = match (tied, self.logit_rows) {
            // One copy of the matrix serves both ends.
            (true, LogitRows::Last) => {
                let transposed = vec![integer("transB", 1)];
                graph.node("/lm_head/Gemm", "Gemm", &[&rows, embedding], transposed)
            }
            (true, LogitRows::All) => {
                let head = graph.node("/lm_head/Transpose", "Transpose", &[embedding], vec![]);
                graph.node("/lm_head/MatMul", "MatMul", &[&rows, &head], vec![])
            }
            (false, _) => {
                let shape = [self.model.hidden_size, self.model.vocab_size];
                let head = graph.weight(
                    "lm_head.MatMul.weight".to_owned(),
                    TensorRole::LmHead,
                    &shape,
                );
                graph.node("/lm_head/MatMul", "MatMul", &[&rows, &head], vec![])
            }
        };
        match self.logit_rows {
            LogitRows::All => {
                graph.push(
                    "/lm_head/Identity",
                    "",
                    "Identity",
                    &[&logits],
                    &["logits"],
                    vec![],
                );
            }
            LogitRows::Last => {
                let axis = graph.integers("/lm_head/constants/axis", &[1], &[1]);
                let inputs = [logits.as_str(), axis.as_str()];
                graph.push(
                    "/lm_head/Unsqueeze",
                    "",
                    "Unsqueeze",
                    &inputs,
                    &["logits"],
                    vec![],
                );
            }
        }
    }
}
