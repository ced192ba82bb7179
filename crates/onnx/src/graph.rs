//! Puts a graph together and plans where its weights lie in the data file.

use crate::proto::{
    Attribute, Dimension, DimensionValue, ElementType, Graph, Model, Node, OperatorSetId, Shape,
    StringStringEntry, Tensor, TensorType, Type, ValueInfo,
};
use crate::weights::TensorRole;

/// Weights begin on multiples of this, so that a runtime can map them page by page.
const ALIGNMENT: u64 = 4096;

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
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum External {
    /// The weight source's values.
    Weight(TensorRole),
    /// These values.
    Values(Vec<f32>),
}

/// One tensor in the data file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExternalTensor {
    pub content: External,
    pub shape: Vec<usize>,
    /// First byte in the data file.
    pub offset: u64,
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
    next_offset: u64,
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
            next_offset: 0,
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

    fn external(&mut self, name: String, content: External, shape: &[usize]) -> String {
        let offset = self.next_offset.next_multiple_of(ALIGNMENT);
        let length = 4 * shape.iter().product::<usize>() as u64;
        let entry = |key: &str, value: String| StringStringEntry {
            key: key.to_owned(),
            value,
        };
        self.graph.initializer.push(Tensor {
            dims: dims(shape),
            data_type: ElementType::Float as i32,
            name: name.clone(),
            raw_data: Vec::new(),
            external_data: vec![
                entry("location", self.data_file.clone()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: 1,
        });
        self.external.push(ExternalTensor {
            content,
            shape: shape.to_vec(),
            offset,
        });
        self.next_offset = offset + length;
        name
    }

    /// A small integer constant inside the model file.
    pub fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.inline(name, ElementType::Int64, shape, bytes.collect())
    }

    /// A table of floats inside the model file.
    pub fn table(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.inline(name, ElementType::Float, shape, bytes.collect())
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

    pub fn finish(self, metadata: &[(&str, &str)]) -> Plan {
        let opset = |domain: &str, version| OperatorSetId {
            domain: domain.to_owned(),
            version,
        };
        let entry = |(key, value): &(&str, &str)| StringStringEntry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        Plan {
            model: Model {
                ir_version: 10,
                producer_name: "lathe".to_owned(),
                producer_version: env!("CARGO_PKG_VERSION").to_owned(),
                graph: Some(self.graph),
                opset_import: vec![opset("", 21), opset(MICROSOFT, 1)],
                metadata_props: metadata.iter().map(entry).collect(),
            },
            external: self.external,
            data_bytes: self.next_offset,
        }
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
