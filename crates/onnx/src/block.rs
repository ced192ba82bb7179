//! The two blocks of a layer and the residual stream between them, node by node as
//! onnxruntime-genai's model builder writes them.

mod attention;
mod mlp;
mod residual;

pub(crate) use attention::{AttentionInputs, attention};
pub(crate) use mlp::mlp;
pub(crate) use residual::Residual;
