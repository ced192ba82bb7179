//! One layer of a network, forwards. What is differentiated is this.

use candle_core::{DType, Result, Tensor};
use lathe_arch::{Activation, AttentionConfig, LayerConfig, MlpConfig, ModelConfig};
use lathe_supernet::Part;

use crate::attention::{attention, rotate};
use crate::norm::rms_norm;
use crate::product::matmul;
use crate::rounding::rounded;
use crate::sequences::Sequences;
use crate::weights::LayerWeights;

/// A layer over sequences.
pub struct Layer<'l> {
    pub model: &'l ModelConfig,
    pub index: usize,
    pub config: &'l LayerConfig,
    pub weights: &'l LayerWeights,
    pub sequences: &'l Sequences,
    pub dtype: DType,
}

impl Layer<'_> {
    /// The residual stream behind the layer, of that before it, both `[tokens, hidden]`.
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        let x = match self.config.attention {
            Some(config) => (x + self.attention(config, x)?)?,
            None => self.add_vector(x, Part::AttentionBias)?,
        };
        match self.config.mlp {
            Some(config) => &x + self.mlp(config, &x)?,
            None => self.add_vector(&x, Part::MlpBias),
        }
    }

    fn attention(&self, config: AttentionConfig, x: &Tensor) -> Result<Tensor> {
        let normed = rounded(&self.norm(x, Part::AttentionNorm)?, config.precision)?;
        let head_dim = self.model.head_dim;
        let heads = |matrix: Part, bias: Part, heads: usize| {
            let rows = self.add_vector(&self.product(&normed, matrix)?, bias)?;
            let seq_len = self.sequences.seq_len;
            rows.reshape((rows.dim(0)? / seq_len, seq_len, heads, head_dim))
        };
        let q = heads(Part::Query, Part::QueryBias, config.heads)?;
        let k = heads(Part::Key, Part::KeyBias, config.kv_heads)?;
        let v = heads(Part::Value, Part::ValueBias, config.kv_heads)?;
        let view = self.sequences.view(self.model.layer_type(self.index));
        let q = rotate(&self.norm_where_there(&q, Part::QueryNorm)?, view)?;
        let k = rotate(&self.norm_where_there(&k, Part::KeyNorm)?, view)?;
        let scale = self.model.attention_scale();
        let mixed = attention([q, k, v], &view.mask, scale, self.dtype)?;
        let mixed = rounded(&mixed, config.precision)?;
        let output = self.product(&mixed, Part::Output)?;
        let output = self.add_vector(&output, Part::AttentionBias)?;
        self.norm_where_there(&output, Part::AttentionPostNorm)
    }

    fn mlp(&self, config: MlpConfig, x: &Tensor) -> Result<Tensor> {
        let normed = rounded(&self.norm(x, Part::MlpNorm)?, config.precision)?;
        let gate = self.product(&normed, Part::Gate)?;
        let gate = match self.model.hidden_act {
            Activation::Silu => gate.silu()?,
            Activation::GeluPytorchTanh => gate.gelu()?,
        };
        let neurons = (gate * self.product(&normed, Part::Up)?)?;
        let neurons = rounded(&neurons, config.precision)?;
        let output = self.product(&neurons, Part::Down)?;
        let output = self.add_vector(&output, Part::MlpBias)?;
        self.norm_where_there(&output, Part::MlpPostNorm)
    }

    fn product(&self, x: &Tensor, matrix: Part) -> Result<Tensor> {
        matmul(x, self.tensor(matrix)?, self.dtype)
    }

    fn norm(&self, x: &Tensor, gain: Part) -> Result<Tensor> {
        rms_norm(x, self.tensor(gain)?, self.model.rms_norm_eps)
    }

    fn norm_where_there(&self, x: &Tensor, gain: Part) -> Result<Tensor> {
        match self.weights.contains_key(&gain) {
            true => self.norm(x, gain),
            false => Ok(x.clone()),
        }
    }

    /// Adds a vector to every row, where the layer has it.
    fn add_vector(&self, rows: &Tensor, vector: Part) -> Result<Tensor> {
        match self.weights.get(&vector) {
            Some(vector) => rows.broadcast_add(vector),
            None => Ok(rows.clone()),
        }
    }

    fn tensor(&self, part: Part) -> Result<&Tensor> {
        let index = self.index;
        let missing = || candle_core::Error::msg(format!("layer {index} has no {part:?}"));
        self.weights.get(&part).ok_or_else(missing)
    }
}
