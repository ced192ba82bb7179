//! A product with a weight matrix, in any precision.

use lathe_arch::{Precision, QUANTIZATION_BLOCK};

use crate::graph::{GraphBuilder, MICROSOFT, QuantizedTensors, integer};
use crate::weights::TensorRole;

/// Activations are quantised to 8 bits too, which is what makes the product fast on a CPU.
const ACCURACY_LEVEL: i64 = 4;

/// A weight matrix `[inputs, outputs]` and where it stands.
pub(crate) struct Linear {
    /// Name of the matrix without its ending, such as `model.layers.0.mlp.up_proj.MatMul`.
    pub weight: String,
    pub role: TensorRole,
    pub inputs: usize,
    pub outputs: usize,
    pub precision: Precision,
}

/// The projections of one block.
pub(crate) struct Projections {
    pub layer: usize,
    /// `attn` or `mlp`.
    pub block: &'static str,
    pub precision: Precision,
}

impl Projections {
    /// Adds the product of `input` with the block's matrix `part`, `[inputs, outputs]`.
    pub fn apply(
        &self,
        graph: &mut GraphBuilder,
        part: &str,
        role: TensorRole,
        [inputs, outputs]: [usize; 2],
        input: &str,
    ) -> String {
        let Self { layer, block, .. } = self;
        let linear = Linear {
            weight: format!("model.layers.{layer}.{block}.{part}.MatMul"),
            role,
            inputs,
            outputs,
            precision: self.precision,
        };
        let node = format!("/model/layers.{layer}/{block}/{part}/MatMul");
        linear.apply(graph, &node, input)
    }
}

impl Linear {
    /// Adds the product of `input` with the matrix under the name `node`; returns its output.
    pub fn apply(&self, graph: &mut GraphBuilder, node: &str, input: &str) -> String {
        match self.precision {
            Precision::F32 => {
                let name = format!("{}.weight", self.weight);
                let matrix = graph.weight(name, self.role, &[self.inputs, self.outputs]);
                graph.node(node, "MatMul", &[input, &matrix], vec![])
            }
            Precision::Int8 | Precision::Int4 => {
                let tensors = graph.quantized(self);
                self.quantized_product(graph, node, input, &tensors)
            }
        }
    }

    /// The product with a matrix that is in the graph already.
    pub fn quantized_product(
        &self,
        graph: &mut GraphBuilder,
        node: &str,
        input: &str,
        tensors: &QuantizedTensors,
    ) -> String {
        let attributes = vec![
            integer("K", self.inputs as i64),
            integer("N", self.outputs as i64),
            integer("bits", self.precision.bits() as i64),
            integer("block_size", QUANTIZATION_BLOCK as i64),
            integer("accuracy_level", ACCURACY_LEVEL),
        ];
        let output = format!("{node}/output_0");
        let inputs = [input, &tensors.weights, &tensors.scales];
        graph.push(
            node,
            MICROSOFT,
            "MatMulNBits",
            &inputs,
            &[&output],
            attributes,
        );
        output
    }
}
