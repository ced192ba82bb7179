//! Writes ONNX graphs: one block, a chain of copies of a block, a whole sub-network.
//!
//! Graphs use opset 21 and ONNX Runtime's `com.microsoft` operators, with the names that
//! onnxruntime-genai's own builder gives, so that an exported folder runs there and the blocks
//! that are measured are the blocks that run. Weights lie in a file beside the graph.
//!
//! ```
//! use lathe_arch::{AttentionConfig, BlockShape, ModelConfig};
//! use lathe_onnx::{Chain, chain_data_bytes, write_chain, write_random_data};
//!
//! let model = ModelConfig::smollm2_135m();
//! let block = BlockShape::Attention(AttentionConfig::with_groups(&model, 1));
//! let chain = Chain { model: &model, block, copies: 2, positions: 64 };
//! let folder = tempfile::tempdir()?;
//! write_random_data(&folder.path().join("weights.data"), chain_data_bytes(&chain)?, 1)?;
//! write_chain(&folder.path().join("attention.onnx"), &chain, "weights.data")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod proto;

mod block;
mod chain;
mod error;
mod graph;
mod head;
mod linear;
mod network;
mod random;
mod rotary;
mod weights;
mod write;

pub use chain::Chain;
pub use error::OnnxError;
pub use lathe_arch::LogitRows;
pub use network::Network;
pub use random::{RandomWeights, random_weights};
pub use weights::{BlockKind, TensorRole, WeightSource};
pub use write::{
    Written, chain_data_bytes, write_chain, write_network, write_network_graph, write_random_data,
};

/// Name of the graph in a model folder.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the weights in a model folder.
pub const DATA_FILE: &str = "model.onnx.data";
