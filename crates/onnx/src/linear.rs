//! A product with a weight matrix, in any precision.

use lathe_arch::{Precision, QUANTIZATION_BLOCK};

use crate::graph::{GraphBuilder, MICROSOFT, QuantizedTensors, integer};
use crate::weights::TensorRole;

/// Activations are quantised to 8 bits too, which is what makes the product fast on a CPU.
const ACCURACY_LEVEL: i64 = 4;

/// Unsigned integer that stands for 0 in the rows of a product in W8A8, whose largest magnitudes are
/// 127 steps from it.
const ZERO: u8 = 128;
const STEP: f32 = 1.0 / 127.0;

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
            Precision::W8A8 => self.integer_product(graph, node, input),
            Precision::Int8 | Precision::Int4 => {
                let tensors = graph.quantized(self);
                self.quantized_product(graph, node, input, &tensors)
            }
        }
    }

    /// The product of integers, times the scale of its column and that of its row.
    fn integer_product(&self, graph: &mut GraphBuilder, node: &str, input: &str) -> String {
        let [integers, largest] = quantized_rows(graph, input);
        let tensors = graph.quantized(self);
        let (step, zero) = (step(graph), zero(graph));
        let op = "MatMulIntegerToFloat";
        let name = format!("{node}/{op}");
        let product = format!("{name}/output_0");
        let inputs = [
            integers.as_str(),
            &tensors.weights,
            &step,
            &tensors.scales,
            &zero,
        ];
        graph.push(&name, MICROSOFT, op, &inputs, &[&product], vec![]);
        graph.node(node, "Mul", &[&product, &largest], vec![])
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

/// Every row of `input` in integers, and its largest magnitude; made once for all products with it.
///
/// A row of zeros is divided by zero. Whatever integers NaN becomes, they are multiplied with the row's
/// largest magnitude, which is 0.
fn quantized_rows(graph: &mut GraphBuilder, input: &str) -> [String; 2] {
    let part = |name: &str| format!("{input}/w8a8/{name}");
    if !graph.has_node(&part("QuantizeLinear")) {
        let last = "/model/constants/w8a8/last";
        let last = graph.once(last, |graph, name| graph.integers(name, &[1], &[-1]));
        let (step, zero) = (step(graph), zero(graph));
        let magnitudes = graph.node(&part("Abs"), "Abs", &[input], vec![]);
        let inputs = [magnitudes.as_str(), &last];
        let keep = vec![integer("keepdims", 1)];
        let largest = graph.node(&part("ReduceMax"), "ReduceMax", &inputs, keep);
        let shares = graph.node(&part("Div"), "Div", &[input, &largest], vec![]);
        let inputs = [shares.as_str(), &step, &zero];
        graph.node(&part("QuantizeLinear"), "QuantizeLinear", &inputs, vec![]);
    }
    ["QuantizeLinear", "ReduceMax"].map(|name| format!("{}/output_0", part(name)))
}

fn step(graph: &mut GraphBuilder) -> String {
    let name = "/model/constants/w8a8/step";
    graph.once(name, |graph, name| graph.floats(name, &[], &[STEP]))
}

fn zero(graph: &mut GraphBuilder) -> String {
    let name = "/model/constants/w8a8/zero";
    graph.once(name, |graph, name| graph.byte(name, ZERO))
}
