//! A whole sub-network, with the inputs and outputs that onnxruntime-genai expects.

use lathe_arch::{LogitRows, ModelConfig, SubnetConfig};

use crate::OnnxError;
use crate::block::{self, AttentionInputs, Residual};
use crate::graph::{BATCH, Dim, GraphBuilder, Plan, SEQUENCE, TOTAL};
use crate::head::Head;
use crate::proto::ElementType;
use crate::rotary::Rotary;
use crate::weights::{BlockKind, TensorRole, WeightSource};

/// A sub-network to be written.
///
/// The biases of pruned and removed blocks are added up into the next norm that runs, so a norm
/// has at most one, and a removed block costs nothing. Where norms stand behind the blocks, the
/// bias of a pruned block is added before its own.
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
    /// For which positions the LM head runs. With [`LogitRows::Last`] the logits are
    /// `[batch_size, 1, vocab_size]`, and sequences side by side must have the same length.
    pub logit_rows: LogitRows,
}

impl Network<'_> {
    pub(crate) fn plan(&self, data_file: &str) -> Result<Plan, OnnxError> {
        self.model.validate()?;
        self.subnet.check(self.model)?;
        let mut graph = GraphBuilder::new(data_file);
        let ids = graph.input("input_ids", ElementType::Int64, &[BATCH, SEQUENCE]);
        let shared = self.attention_inputs(&mut graph);
        self.declare_logits(&mut graph);
        let head = Head::new(
            &mut graph,
            self.model,
            self.subnet.head_precision,
            self.logit_rows,
        )?;
        let mut residual = Residual {
            root: head.embed(&mut graph, &ids),
            skip: None,
            bias: None,
        };
        self.layers(&mut graph, &mut residual, shared.as_ref())?;
        let layers = self.model.num_hidden_layers;
        let norm = format!("/model/layers.{layers}/final_norm_layernorm");
        let normed = residual.norm(&mut graph, &norm, TensorRole::FinalNorm, self.model);
        head.logits(&mut graph, &normed);
        let subnet = serde_json::to_string(self.subnet)
            .expect("a sub-network is numbers, words and lists, all of which JSON has");
        graph.finish(&[
            ("lathe.model", &self.subnet.model),
            ("lathe.subnet", &subnet),
        ])
    }

    /// The mask is declared even where no block reads it, because genai always feeds it.
    fn attention_inputs(&self, graph: &mut GraphBuilder) -> Option<AttentionInputs> {
        let layers = self.subnet.layers.iter().enumerate();
        let kept = layers.filter(|(_, layer)| layer.attention.is_some());
        let windows: Vec<_> = kept.map(|(index, _)| self.model.window(index)).collect();
        if !windows.is_empty() {
            let positions = self.model.max_position_embeddings;
            let rotary = Rotary::new(self.model, positions);
            let sliding = Rotary::sliding(self.model, positions);
            let sliding = sliding.filter(|_| windows.iter().any(Option::is_some));
            let place = GraphBuilder::rotary;
            let shared = AttentionInputs::new(graph, &rotary, sliding.as_ref(), place);
            return Some(shared);
        }
        graph.input("attention_mask", ElementType::Int64, &[BATCH, TOTAL]);
        None
    }

    /// The logits come first among the outputs, so the caches are declared after them.
    fn declare_logits(&self, graph: &mut GraphBuilder) {
        let rows = match self.logit_rows {
            LogitRows::All => SEQUENCE,
            LogitRows::Last => Dim::Fixed(1),
        };
        let shape = [BATCH, rows, Dim::Fixed(self.model.vocab_size)];
        graph.output("logits", ElementType::Float, &shape);
    }

    fn layers(
        &self,
        graph: &mut GraphBuilder,
        residual: &mut Residual,
        shared: Option<&AttentionInputs>,
    ) -> Result<(), OnnxError> {
        for (layer, blocks) in self.subnet.layers.iter().enumerate() {
            let (model, bias) = (self.model, self.bias(layer, BlockKind::Attention)?);
            match (blocks.attention, shared) {
                (Some(attention), Some(shared)) => {
                    block::attention(graph, residual, shared, model, layer, attention, bias);
                }
                (_, _) => residual.add_bias(bias),
            }
            let bias = self.bias(layer, BlockKind::Mlp)?;
            match blocks.mlp {
                Some(mlp) => block::mlp(graph, residual, model, layer, mlp, bias),
                None => residual.add_bias(bias),
            }
        }
        Ok(())
    }

    fn bias(&self, layer: usize, block: BlockKind) -> Result<Option<Vec<f32>>, OnnxError> {
        let bias = self.weights.output_bias(layer, block);
        let expected = self.model.hidden_size;
        match bias.as_ref().map(Vec::len) {
            Some(found) if found != expected => Err(OnnxError::BiasLength {
                layer,
                block,
                found,
                expected,
            }),
            Some(_) | None => Ok(bias),
        }
    }
}
