//! Cutting: a sub-network as windows of the super-network's matrices, plus the biases that
//! stand for what was cut away.

use lathe_arch::{AttentionConfig, FullShapes, MlpConfig, SubnetConfig};
use ndarray::Array2;
use rayon::prelude::*;

use crate::SupernetError;
use crate::engine::matmul::Window;
use crate::supernet::{SuperLayer, Supernet, window};

/// A sub-network: a view of a [`Supernet`], without copies of its matrices.
pub struct Subnet<'a> {
    supernet: &'a Supernet,
    config: SubnetConfig,
    layers: Vec<CutLayer<'a>>,
}

/// The two blocks of a layer and their biases.
///
/// A bias stands for the mean output of the removed units: `sum_j mean(x_j) W_j` over removed
/// channels `j` (bias compensation, 2312.11983). Blocks of full size have none.
pub(crate) struct CutLayer<'a> {
    pub attention: Option<CutAttention<'a>>,
    pub attention_bias: Option<Vec<f32>>,
    pub mlp: Option<CutMlp<'a>>,
    pub mlp_bias: Option<Vec<f32>>,
}

/// The kept part of an attention block. Where query heads are pruned inside groups, `q` and `o`
/// are one window a group, else a single one.
pub(crate) struct CutAttention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub norm: &'a [f32],
    pub q: Vec<Window<'a>>,
    pub k: Window<'a>,
    pub v: Window<'a>,
    pub o: Vec<Window<'a>>,
}

/// The kept part of an MLP block.
pub(crate) struct CutMlp<'a> {
    pub norm: &'a [f32],
    pub gate: Window<'a>,
    pub up: Window<'a>,
    pub down: Window<'a>,
}

impl<'a> Subnet<'a> {
    pub(crate) fn new(
        supernet: &'a Supernet,
        config: &SubnetConfig,
    ) -> Result<Self, SupernetError> {
        let model = supernet.model();
        config.check(model)?;
        let layers = config.layers.par_iter().enumerate();
        let layers = layers.map(|(index, layer)| {
            let weights = supernet.layer(index);
            CutLayer {
                attention: layer.attention.map(|a| cut_attention(supernet, weights, a)),
                attention_bias: attention_bias(supernet, index, layer.attention),
                mlp: layer.mlp.map(|m| cut_mlp(weights, m)),
                mlp_bias: mlp_bias(supernet, index, layer.mlp),
            }
        });
        let subnet = Self {
            supernet,
            config: config.clone(),
            layers: layers.collect(),
        };
        if subnet.first_pruned_layer().is_some() && supernet.means(0).is_none() {
            return Err(SupernetError::NotCalibrated);
        }
        Ok(subnet)
    }

    /// The choices it was cut with.
    pub fn config(&self) -> &SubnetConfig {
        &self.config
    }

    /// The super-network it is a view of.
    pub fn supernet(&self) -> &'a Supernet {
        self.supernet
    }

    /// The first layer that differs from the full model's.
    pub(crate) fn first_pruned_layer(&self) -> Option<usize> {
        let full = FullShapes::of(self.supernet.model());
        let mut layers = self.config.layers.iter();
        layers.position(|l| full.is_attention_pruned(l.attention) || full.is_mlp_pruned(l.mlp))
    }

    pub(crate) fn layer(&self, layer: usize) -> &CutLayer<'a> {
        &self.layers[layer]
    }
}

fn cut_attention<'a>(
    supernet: &Supernet,
    weights: &'a SuperLayer,
    attention: AttentionConfig,
) -> CutAttention<'a> {
    let model = supernet.model();
    let group = model.heads_per_group() * model.head_dim;
    let kept = attention.heads_per_group() * model.head_dim;
    let kv = attention.kv_heads * model.head_dim;
    let (q, o) = (window(&weights.q), window(&weights.o));
    let groups = 0..attention.kv_heads;
    let (q, o) = if kept == group {
        let width = attention.kv_heads * group;
        (vec![q.columns(0, width)], vec![o.rows(0, width)])
    } else {
        (
            groups.clone().map(|g| q.columns(g * group, kept)).collect(),
            groups.map(|g| o.rows(g * group, kept)).collect(),
        )
    };
    CutAttention {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        norm: &weights.input_norm,
        q,
        k: window(&weights.k).columns(0, kv),
        v: window(&weights.v).columns(0, kv),
        o,
    }
}

fn cut_mlp(weights: &SuperLayer, mlp: MlpConfig) -> CutMlp<'_> {
    let width = mlp.intermediate_size;
    CutMlp {
        norm: &weights.post_attention_norm,
        gate: window(&weights.gate).columns(0, width),
        up: window(&weights.up).columns(0, width),
        down: window(&weights.down).rows(0, width),
    }
}

fn attention_bias(
    supernet: &Supernet,
    layer: usize,
    kept: Option<AttentionConfig>,
) -> Option<Vec<f32>> {
    let model = supernet.model();
    if !FullShapes::of(model).is_attention_pruned(kept) {
        return None;
    }
    let group = model.heads_per_group() * model.head_dim;
    let is_kept = |channel: usize| {
        kept.is_some_and(|kept| {
            channel / group < kept.kv_heads
                && channel % group < kept.heads_per_group() * model.head_dim
        })
    };
    let removed = (0..model.num_attention_heads * model.head_dim).filter(|c| !is_kept(*c));
    let means = &supernet.means(layer)?.attention;
    Some(mean_output(&supernet.layer(layer).o, means, removed))
}

fn mlp_bias(supernet: &Supernet, layer: usize, kept: Option<MlpConfig>) -> Option<Vec<f32>> {
    let model = supernet.model();
    if !FullShapes::of(model).is_mlp_pruned(kept) {
        return None;
    }
    let removed = kept.map_or(0, |kept| kept.intermediate_size)..model.intermediate_size;
    let means = &supernet.means(layer)?.mlp;
    Some(mean_output(&supernet.layer(layer).down, means, removed))
}

/// `sum_j means[j] * matrix[j, :]` over the removed channels, summed in f64.
fn mean_output(
    matrix: &Array2<f32>,
    means: &[f32],
    removed: impl Iterator<Item = usize>,
) -> Vec<f32> {
    let mut bias = vec![0.0f64; matrix.ncols()];
    for channel in removed {
        let mean = f64::from(means[channel]);
        for (bias, weight) in bias.iter_mut().zip(matrix.row(channel)) {
            *bias += mean * f64::from(*weight);
        }
    }
    bias.into_iter().map(|value| value as f32).collect()
}
