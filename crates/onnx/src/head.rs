//! Both ends of a network: the embedding and the LM head, which may share their matrix.

use lathe_arch::{LogitRows, ModelConfig, Precision, QUANTIZATION_BLOCK};

use crate::OnnxError;
use crate::graph::{GraphBuilder, MICROSOFT, QuantizedTensors, integer};
use crate::linear::Linear;
use crate::weights::TensorRole;

/// The embedding and the LM head of one network.
pub(crate) struct Head<'a> {
    model: &'a ModelConfig,
    precision: Precision,
    logit_rows: LogitRows,
    embedding: Embedding,
}

/// The embedding's matrix in the graph.
enum Embedding {
    F32(String),
    /// Tied to a quantised head, with a view of the weights for the lookup.
    Quantized(QuantizedTensors, String),
}

impl<'a> Head<'a> {
    /// Puts the embedding's matrix into the graph. An untied embedding stays f32: a lookup reads
    /// one row of it.
    pub fn new(
        graph: &mut GraphBuilder,
        model: &'a ModelConfig,
        precision: Precision,
        logit_rows: LogitRows,
    ) -> Result<Self, OnnxError> {
        let precision = precision.of_ends();
        let (vocab, hidden) = (model.vocab_size, model.hidden_size);
        let embedding = if precision == Precision::F32 || !model.tie_word_embeddings {
            let name = "model.embed_tokens.weight".to_owned();
            Embedding::F32(graph.weight(name, TensorRole::Embedding, &[vocab, hidden]))
        } else {
            if !hidden.is_multiple_of(QUANTIZATION_BLOCK) {
                return Err(OnnxError::PartialBlock {
                    precision,
                    hidden_size: hidden,
                    block: QUANTIZATION_BLOCK,
                });
            }
            let tensors = graph.quantized(&lm_head(model, precision, TensorRole::Embedding));
            let rows = [vocab, hidden * precision.bits() / 8];
            let view = graph.view("model.embed_tokens.qweight", &tensors, &rows);
            Embedding::Quantized(tensors, view)
        };
        Ok(Self {
            model,
            precision,
            logit_rows,
            embedding,
        })
    }

    /// Looks up the tokens `ids`, and scales what is found where the model does.
    pub fn embed(&self, graph: &mut GraphBuilder, ids: &str) -> String {
        let rows = self.rows(graph, ids);
        let Some(scale) = self.model.embedding_scale else {
            return rows;
        };
        let scale = graph.floats("/model/embed_tokens/scale", &[], &[scale as f32]);
        graph.node("/model/embed_tokens/Mul", "Mul", &[&rows, &scale], vec![])
    }

    fn rows(&self, graph: &mut GraphBuilder, ids: &str) -> String {
        let node = "/model/embed_tokens/Gather";
        match &self.embedding {
            Embedding::F32(matrix) => graph.node(node, "Gather", &[matrix, ids], vec![]),
            Embedding::Quantized(tensors, view) => {
                let attributes = vec![
                    integer("bits", self.precision.bits() as i64),
                    integer("block_size", QUANTIZATION_BLOCK as i64),
                    integer("gather_axis", 0),
                    integer("quantize_axis", 1),
                ];
                let output = format!("{node}/output_0");
                let inputs = [view.as_str(), ids, &tensors.scales];
                let op = "GatherBlockQuantized";
                graph.push(node, MICROSOFT, op, &inputs, &[&output], attributes);
                output
            }
        }
    }

    /// The logits of the normalised stream, under the name `logits`.
    pub fn logits(&self, graph: &mut GraphBuilder, normed: &str) {
        let rows = match self.logit_rows {
            LogitRows::All => normed.to_owned(),
            LogitRows::Last => {
                let last = graph.integers("/lm_head/constants/last", &[], &[-1]);
                let axis = vec![integer("axis", 1)];
                graph.node("/lm_head/Gather", "Gather", &[normed, &last], axis)
            }
        };
        let logits = self.project(graph, &rows);
        let logits = match self.logit_rows {
            LogitRows::All => logits,
            LogitRows::Last => {
                let axis = graph.integers("/lm_head/constants/axis", &[1], &[1]);
                let node = "/lm_head/Unsqueeze";
                graph.node(node, "Unsqueeze", &[&logits, &axis], vec![])
            }
        };
        graph.rename(&logits, "logits");
    }

    /// The product with the head's matrix. A tied f32 matrix is stored once: `Gemm` reads it as
    /// it is, which at one row costs what `MatMul` costs. `Gemm` has two dimensions and the
    /// reshaping around it costs 5 % at 128 rows, so many rows take a transposed copy, which
    /// ONNX Runtime makes once, when it loads the model.
    fn project(&self, graph: &mut GraphBuilder, rows: &str) -> String {
        let node = "/lm_head/MatMul";
        match &self.embedding {
            Embedding::Quantized(tensors, _) => {
                let linear = lm_head(self.model, self.precision, TensorRole::Embedding);
                linear.quantized_product(graph, node, rows, tensors)
            }
            Embedding::F32(matrix) if self.model.tie_word_embeddings => match self.logit_rows {
                LogitRows::Last => {
                    let transposed = vec![integer("transB", 1)];
                    graph.node("/lm_head/Gemm", "Gemm", &[rows, matrix], transposed)
                }
                LogitRows::All => {
                    let head = graph.node("/lm_head/Transpose", "Transpose", &[matrix], vec![]);
                    graph.node(node, "MatMul", &[rows, &head], vec![])
                }
            },
            Embedding::F32(_) => {
                lm_head(self.model, self.precision, TensorRole::LmHead).apply(graph, node, rows)
            }
        }
    }
}

fn lm_head(model: &ModelConfig, precision: Precision, role: TensorRole) -> Linear {
    Linear {
        weight: "lm_head.MatMul".to_owned(),
        role,
        inputs: model.hidden_size,
        outputs: model.vocab_size,
        precision,
    }
}
