//! What a model and its sub-networks are: pure data and exact arithmetic, no I/O.
//!
//! A [`ModelConfig`] mirrors a checkpoint's `config.json`. A [`SubnetConfig`] makes one choice
//! for every block of that model (KV groups and query heads of an attention block, width of an
//! MLP block, or the block removed), and a [`SearchSpace`] lists the choices a search may make.
//! Counts of parameters, FLOPs and bytes are exact.
//!
//! ```
//! use lathe_arch::{ModelConfig, SubnetConfig};
//!
//! let model = ModelConfig::smollm2_135m();
//! let mut subnet = SubnetConfig::full(&model);
//! assert_eq!(subnet.parameters(&model), 134_515_008);
//! subnet.layers[12].attention = None;
//! subnet.check(&model)?;
//! assert!(subnet.parameters(&model) < 134_515_008);
//! # Ok::<(), lathe_arch::ArchError>(())
//! ```

mod block;
mod count;
mod error;
mod model;
pub mod quantize;
mod sliding;
mod space;
mod subnet;
mod workload;

pub use block::{BlockShape, HeadConfig, LogitRows, Precision, QUANTIZATION_BLOCK};
pub use count::FullShapes;
pub use error::ArchError;
pub use model::{Activation, Family, ModelConfig, RopeScaling};
pub use sliding::{LayerType, SlidingWindow};
pub use space::{Granularity, SearchSpace, SpaceSpec};
pub use subnet::{AttentionConfig, LayerConfig, MlpConfig, SUBNET_VERSION, SubnetConfig};
pub use workload::{Phase, Workload};
