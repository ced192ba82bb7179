//! Turns a chosen sub-network into a model folder that runs.
//!
//! [`export_onnx`] writes a folder that onnxruntime-genai loads: the graph and its weights,
//! `genai_config.json`, the tokenizer, and `subnet.yaml` with the choices and the kept units.

mod error;
mod genai;
mod onnx;

pub use error::ExportError;
pub use onnx::{Exported, SubnetWeights, export_onnx};
