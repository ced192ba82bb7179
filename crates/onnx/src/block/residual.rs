use lathe_arch::ModelConfig;

use crate::graph::{GraphBuilder, MICROSOFT, float, integer};
use crate::weights::TensorRole;

/// The residual stream: what has been summed, and what the next norm has yet to add.
///
/// The addition belongs to the next norm, because ONNX Runtime does both in one operator.
pub(crate) struct Residual {
    pub root: String,
    pub skip: Option<String>,
    /// Constants that pruned blocks left since the last norm, added up.
    pub bias: Option<Vec<f32>>,
}

impl Residual {
    /// Adds a constant that the next norm will take in.
    pub fn add_bias(&mut self, bias: Option<Vec<f32>>) {
        let Some(new) = bias else { return };
        match &mut self.bias {
            Some(pending) => pending
                .iter_mut()
                .zip(new)
                .for_each(|(sum, new)| *sum += new),
            None => self.bias = Some(new),
        }
    }

    /// Takes in a block's output, and the constant for what was cut away from it. Where the model
    /// has norms behind its blocks, their sum passes the one of this name and gain first.
    pub fn add_output(
        &mut self,
        graph: &mut GraphBuilder,
        name: &str,
        output: String,
        bias: Option<Vec<f32>>,
        gain: TensorRole,
        model: &ModelConfig,
    ) {
        if !model.post_norms {
            self.skip = Some(output);
            return self.add_bias(bias);
        }
        let constant = name.trim_start_matches('/').replace('/', ".");
        let gain = graph.weight(format!("{constant}.weight"), gain, &[model.hidden_size]);
        let output = match bias {
            None => output,
            Some(values) => {
                let bias = graph.vector(format!("{constant}.bias"), values);
                graph.node(&format!("{name}/Add"), "Add", &[&output, &bias], vec![])
            }
        };
        let epsilon = model.rms_norm_eps as f32;
        self.skip = Some(plain_norm(graph, name, &output, &gain, epsilon));
    }

    /// Adds what is pending and normalises (RMSNorm, 1910.07467); returns the normalised stream.
    pub fn norm(
        &mut self,
        graph: &mut GraphBuilder,
        name: &str,
        gain: TensorRole,
        model: &ModelConfig,
    ) -> String {
        let constant = name.trim_start_matches('/').replace('/', ".");
        let gain = graph.weight(format!("{constant}.weight"), gain, &[model.hidden_size]);
        let bias = self.bias.take();
        let bias = bias.map(|values| graph.vector(format!("{constant}.bias"), values));
        let epsilon = model.rms_norm_eps as f32;
        match self.skip.take() {
            Some(skip) => self.skip_norm(graph, name, &skip, &gain, bias.as_deref(), epsilon),
            None => {
                if let Some(bias) = bias {
                    let inputs = [self.root.as_str(), &bias];
                    self.root = graph.node(&format!("{name}/Add"), "Add", &inputs, vec![]);
                }
                plain_norm(graph, name, &self.root, &gain, epsilon)
            }
        }
    }

    fn skip_norm(
        &mut self,
        graph: &mut GraphBuilder,
        name: &str,
        skip: &str,
        gain: &str,
        bias: Option<&str>,
        epsilon: f32,
    ) -> String {
        let (normed, sum) = (format!("{name}/output_0"), format!("{name}/output_3"));
        let mut inputs = vec![self.root.as_str(), skip, gain];
        inputs.extend(bias);
        let outputs = [normed.as_str(), "", "", &sum];
        let op = "SkipSimplifiedLayerNormalization";
        let attributes = vec![float("epsilon", epsilon)];
        graph.push(name, MICROSOFT, op, &inputs, &outputs, attributes);
        self.root = sum;
        normed
    }
}

/// RMSNorm where there is nothing to add, in ONNX's own operators: ONNX Runtime fuses them into
/// its SimplifiedLayerNormalization, which it keeps in ONNX's domain, where the checker of ONNX
/// refuses it.
pub(super) fn plain_norm(
    graph: &mut GraphBuilder,
    name: &str,
    input: &str,
    gain: &str,
    epsilon: f32,
) -> String {
    let part = |op: &str| format!("{name}/{op}");
    let two = graph.floats(&part("two"), &[], &[2.0]);
    let epsilon = graph.floats(&part("epsilon"), &[], &[epsilon]);
    let last_axis = graph.integers(&part("last_axis"), &[1], &[-1]);
    let keep = vec![integer("keepdims", 1)];
    let square = graph.node(&part("Pow"), "Pow", &[input, &two], vec![]);
    let mean = graph.node(
        &part("ReduceMean"),
        "ReduceMean",
        &[&square, &last_axis],
        keep,
    );
    let shifted = graph.node(&part("Shift"), "Add", &[&mean, &epsilon], vec![]);
    let scale = graph.node(&part("Sqrt"), "Sqrt", &[&shifted], vec![]);
    let unit = graph.node(&part("Div"), "Div", &[input, &scale], vec![]);
    graph.node(name, "Mul", &[&unit, gain], vec![])
}
