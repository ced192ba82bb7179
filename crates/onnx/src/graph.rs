//! Puts a graph together and plans where its weights lie in the data file.

use lathe_arch::{Precision, QUANTIZATION_BLOCK};

use crate::OnnxError;
use crate::linear::Linear;
use crate::proto::{
    Attribute, Dimension, DimensionValue, ElementType, Graph, Model, Node, OperatorSetId, Shape,
    StringStringEntry, Tensor, TensorType, Type, ValueInfo,
};
use crate::rotary::RotaryTable;
use crate::weights::TensorRole;

/// Weights begin on multiples of this, so that a runtime can map them page by page.
const ALIGNMENT: u64 = 4096;
/// Offsets are signed 64-bit numbers in ONNX Runtime.
const MAX_DATA_BYTES: u64 = i64::MAX as u64;

/// A dimension of an input or output.
#[derive(Clone, Copy)]
pub(crate) enum Dim {
    Fixed(usize),
    Symbol(&'static str),
}

/// The symbolic dimensions, named as onnxruntime-genai names them.
pub(crate) const BATCH: Dim = Dim::Symbol("batch_size");
pub(crate) const SEQUENCE: Dim = Dim::Symbol("sequence_length");
pub(crate) const PAST: Dim = Dim::Symbol("past_sequence_length");
pub(crate) const TOTAL: Dim = Dim::Symbol("total_sequence_length");

/// What fills one stretch of the data file.
#[derive(Debug, Clone)]
pub(crate) enum External {
    /// The weight source's values.
    Weight(TensorRole),
    /// The weight source's values in integers: the weights, and from byte `scales` on the scales.
    Quantized {
        role: TensorRole,
        precision: Precision,
        inputs: usize,
        scales: u64,
    },
    /// A bias: these values.
    Values(Vec<f32>),
    /// A rotary table, which is no parameter.
    Rotary(RotaryTable),
}

/// One tensor in the data file.
#[derive(Debug, Clone)]
pub(crate) struct ExternalTensor {
    pub content: External,
    pub shape: Vec<usize>,
    /// First byte in the data file.
    pub offset: u64,
    /// Bytes of its values.
    pub bytes: u64,
}

/// Names of a quantised matrix's two tensors, and where its bytes begin.
pub(crate) struct QuantizedTensors {
    pub weights: String,
    pub scales: String,
    offset: u64,
}

/// A finished graph and the plan of its data file.
pub(crate) struct Plan {
    pub model: Model,
    pub external: Vec<ExternalTensor>,
    /// Bytes of the data file.
    pub data_bytes: u64,
}

pub(crate) struct GraphBuilder {
    graph: Graph,
    external: Vec<ExternalTensor>,
    data_file: String,
    /// End of the last tensor in the data file; `u64::MAX` when there are too many.
    data_bytes: u64,
}

impl GraphBuilder {
    /// A graph whose weights lie in `data_file`, beside the model.
    pub fn new(data_file: &str) -> Self {
        Self {
            graph: Graph {
                name: "main_graph".to_owned(),
                ..Graph::default()
            },
            external: Vec::new(),
            data_file: data_file.to_owned(),
            data_bytes: 0,
        }
    }

    pub fn input(&mut self, name: &str, element: ElementType, dims: &[Dim]) -> String {
        self.graph.input.push(value_info(name, element, dims));
        name.to_owned()
    }

    pub fn output(&mut self, name: &str, element: ElementType, dims: &[Dim]) {
        self.graph.output.push(value_info(name, element, dims));
    }

    /// A weight in the data file; its name is returned.
    pub fn weight(&mut self, name: String, role: TensorRole, shape: &[usize]) -> String {
        self.external(name, External::Weight(role), shape)
    }

    /// A vector in the data file.
    pub fn vector(&mut self, name: String, values: Vec<f32>) -> String {
        let shape = [values.len()];
        self.external(name, External::Values(values), &shape)
    }

    /// A rotary table in the data file.
    pub fn rotary(&mut self, name: &str, table: RotaryTable) -> String {
        let shape = table.shape();
        self.external(name.to_owned(), External::Rotary(table), &shape)
    }

    /// A quantised matrix in the data file: weights
    /// `[outputs, blocks, QUANTIZATION_BLOCK * bits / 8]` and scales `[outputs, blocks]`, in W8A8 weights
    /// `[inputs, outputs]` and scales `[outputs]`.
    pub fn quantized(&mut self, linear: &Linear) -> QuantizedTensors {
        let (inputs, outputs) = (linear.inputs, linear.outputs);
        let (element, weight_shape, scale_shape) = match linear.precision {
            Precision::W8A8 => (ElementType::Int8, vec![inputs, outputs], vec![outputs]),
            precision => {
                let blocks = inputs.div_ceil(QUANTIZATION_BLOCK);
                let block_bytes = QUANTIZATION_BLOCK * precision.bits() / 8;
                let weights = vec![outputs, blocks, block_bytes];
                (ElementType::Uint8, weights, vec![outputs, blocks])
            }
        };
        let weight_bytes = float_bytes(&weight_shape) / 4;
        let aligned = weight_bytes.checked_next_multiple_of(ALIGNMENT);
        let scales = aligned.unwrap_or(u64::MAX);
        let offset = self.next_offset();
        let tensors = QuantizedTensors {
            weights: format!("{}.qweight", linear.weight),
            scales: format!("{}.scales", linear.weight),
            offset,
        };
        self.initializer(&tensors.weights, element, &weight_shape, offset);
        let scale_offset = offset.saturating_add(scales);
        self.initializer(
            &tensors.scales,
            ElementType::Float,
            &scale_shape,
            scale_offset,
        );
        let content = External::Quantized {
            role: linear.role,
            precision: linear.precision,
            inputs,
            scales,
        };
        let bytes = scales.saturating_add(float_bytes(&scale_shape));
        self.reserve(content, vec![inputs, outputs], offset, bytes);
        tensors
    }

    /// The weights of `tensors` once more in another shape, over the same bytes.
    pub fn view(&mut self, name: &str, tensors: &QuantizedTensors, shape: &[usize]) -> String {
        self.initializer(name, ElementType::Uint8, shape, tensors.offset);
        name.to_owned()
    }

    fn external(&mut self, name: String, content: External, shape: &[usize]) -> String {
        let offset = self.next_offset();
        self.initializer(&name, ElementType::Float, shape, offset);
        self.reserve(content, shape.to_vec(), offset, float_bytes(shape));
        name
    }

    fn next_offset(&self) -> u64 {
        let offset = self.data_bytes.checked_next_multiple_of(ALIGNMENT);
        offset.unwrap_or(u64::MAX)
    }

    fn reserve(&mut self, content: External, shape: Vec<usize>, offset: u64, bytes: u64) {
        self.external.push(ExternalTensor {
            content,
            shape,
            offset,
            bytes,
        });
        self.data_bytes = offset.saturating_add(bytes);
    }

    /// A constant whose bytes lie at `offset` of the data file.
    fn initializer(&mut self, name: &str, element: ElementType, shape: &[usize], offset: u64) {
        let length = match element {
            ElementType::Uint8 | ElementType::Int8 => float_bytes(shape) / 4,
            ElementType::Float | ElementType::Int32 | ElementType::Int64 => float_bytes(shape),
        };
        let entry = |key: &str, value: String| StringStringEntry {
            key: key.to_owned(),
            value,
        };
        self.graph.initializer.push(Tensor {
            dims: dims(shape),
            data_type: element as i32,
            name: name.to_owned(),
            raw_data: Vec::new(),
            external_data: vec![
                entry("location", self.data_file.clone()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: 1,
        });
    }

    /// A small integer constant inside the model file.
    pub fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.inline(name, ElementType::Int64, shape, bytes.collect())
    }

    /// Floats inside the model file.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.inline(name, ElementType::Float, shape, bytes.collect())
    }

    /// A number of one byte inside the model file.
    pub fn byte(&mut self, name: &str, value: u8) -> String {
        self.inline(name, ElementType::Uint8, &[], vec![value])
    }

    /// A constant that the graph has once: `make` adds it the first time.
    pub fn once(&mut self, name: &str, make: impl FnOnce(&mut Self, &str) -> String) -> String {
        match self.graph.initializer.iter().any(|made| made.name == name) {
            true => name.to_owned(),
            false => make(self, name),
        }
    }

    fn inline(
        &mut self,
        name: &str,
        element: ElementType,
        shape: &[usize],
        raw: Vec<u8>,
    ) -> String {
        self.graph.initializer.push(Tensor {
            dims: dims(shape),
            data_type: element as i32,
            name: name.to_owned(),
            raw_data: raw,
            external_data: Vec::new(),
            data_location: 0,
        });
        name.to_owned()
    }

    /// Whether there is an operator of this name.
    pub fn has_node(&self, name: &str) -> bool {
        self.graph.node.iter().any(|node| node.name == name)
    }

    /// An operator of ONNX itself with one output, whose name is returned.
    pub fn node(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> String {
        let output = format!("{name}/output_0");
        self.push(name, "", op, inputs, &[&output], attributes);
        output
    }

    /// Any operator.
    pub fn push(
        &mut self,
        name: &str,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<Attribute>,
    ) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.graph.node.push(Node {
            input: owned(inputs),
            output: owned(outputs),
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes,
            domain: domain.to_owned(),
        });
    }

    /// Gives the value `from` another name.
    pub fn rename(&mut self, from: &str, to: &str) {
        let nodes = self.graph.node.iter_mut();
        let names = nodes.flat_map(|node| node.input.iter_mut().chain(&mut node.output));
        for name in names.filter(|name| *name == from) {
            to.clone_into(name);
        }
    }

    /// The finished graph.
    ///
    /// # Errors
    /// When the data file is too long to have offsets.
    pub fn finish(self, metadata: &[(&str, &str)]) -> Result<Plan, OnnxError> {
        if self.data_bytes > MAX_DATA_BYTES {
            return Err(OnnxError::TooLarge {
                what: "the weights",
                bytes: self.data_bytes,
                limit: MAX_DATA_BYTES,
            });
        }
        let opset = |domain: &str, version| OperatorSetId {
            domain: domain.to_owned(),
            version,
        };
        let entry = |(key, value): &(&str, &str)| StringStringEntry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        Ok(Plan {
            model: Model {
                ir_version: 10,
                producer_name: "lathe".to_owned(),
                producer_version: env!("CARGO_PKG_VERSION").to_owned(),
                graph: Some(self.graph),
                opset_import: vec![opset("", 21), opset(MICROSOFT, 1)],
                metadata_props: metadata.iter().map(entry).collect(),
            },
            external: self.external,
            data_bytes: self.data_bytes,
        })
    }
}

/// Domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

pub(crate) fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f: value,
        r#type: 1,
        ..Attribute::default()
    }
}

pub(crate) fn integer(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: value,
        r#type: 2,
        ..Attribute::default()
    }
}

/// Bytes of a float tensor, `u64::MAX` when there are more.
fn float_bytes(shape: &[usize]) -> u64 {
    shape
        .iter()
        .fold(4, |bytes: u64, dim| bytes.saturating_mul(*dim as u64))
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|dim| *dim as i64).collect()
}

fn value_info(name: &str, element: ElementType, dims: &[Dim]) -> ValueInfo {
    let dim = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Fixed(size) => DimensionValue::Fixed(*size as i64),
            Dim::Symbol(symbol) => DimensionValue::Symbol((*symbol).to_owned()),
        }),
    };
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: element as i32,
                shape: Some(Shape {
                    dim: dims.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}
