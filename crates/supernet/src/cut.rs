//! Cutting: a sub-network as windows of the super-network's matrices, plus the biases that
//! stand for what was cut away.

use std::sync::Arc;

use lathe_arch::quantize::round_trip;
use lathe_arch::{AttentionConfig, FullShapes, LayerConfig, MlpConfig, Precision, SubnetConfig};
use ndarray::Array2;
use rayon::prelude::*;

use crate::SupernetError;
use crate::absorption::{REACH, is_kept};
use crate::checkpoint::{QkNorm, QkvBias};
use crate::engine::matmul::Window;
use crate::recovery::Recovered;
use crate::supernet::{Ends, SuperLayer, Supernet, slice, window};

/// A sub-network: a view of a [`Supernet`]. Its matrices are windows of the super-network's but
/// for those that were refitted or quantised.
pub struct Subnet<'a> {
    supernet: &'a Supernet,
    config: SubnetConfig,
    ends: &'a Ends,
    final_norm: &'a [f32],
    layers: Vec<CutLayer<'a>>,
    made: Made,
}

/// How a sub-network's weights came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// By its choices alone.
    Cut,
    /// These, corrected for drift.
    Corrected,
    /// They were trained.
    Trained,
}

/// The two blocks of a layer and their biases, which stand for what was cut away. The bias of a
/// block that is left is part of what the norm behind the block takes in, where there is one.
pub(crate) struct CutLayer<'a> {
    pub attention: Option<CutAttention<'a>>,
    pub attention_bias: Option<Vec<f32>>,
    pub mlp: Option<CutMlp<'a>>,
    pub mlp_bias: Option<Vec<f32>>,
}

/// A matrix of a sub-network.
pub(crate) enum Matrix<'a> {
    /// As the super-network has it.
    View(Window<'a>),
    /// Quantised, as what its integers stand for, or corrected.
    Own(Array2<f32>),
    /// Refitted.
    Refitted(Arc<Recovered>),
}

/// The kept part of an attention block. Where query heads are pruned inside groups, `q` and `o`
/// may be one window a group, else they are a single one.
pub(crate) struct CutAttention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub precision: Precision,
    pub norm: &'a [f32],
    pub q: Vec<Matrix<'a>>,
    pub k: Matrix<'a>,
    pub v: Matrix<'a>,
    pub o: Vec<Matrix<'a>>,
    pub qkv_bias: Option<QkvBias>,
    pub qk_norm: Option<QkGains<'a>>,
    /// Gain of the norm behind the block.
    pub post_norm: Option<&'a [f32]>,
}

/// Gains of the norms of query and key heads, `[head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct QkGains<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
}

/// The kept part of an MLP block.
pub(crate) struct CutMlp<'a> {
    pub precision: Precision,
    pub norm: &'a [f32],
    pub gate: Matrix<'a>,
    pub up: Matrix<'a>,
    pub down: Matrix<'a>,
    /// Gain of the norm behind the block.
    pub post_norm: Option<&'a [f32]>,
}

impl<'a> From<&'a QkNorm> for QkGains<'a> {
    fn from(gains: &'a QkNorm) -> Self {
        Self {
            q: &gains.q,
            k: &gains.k,
        }
    }
}

impl Matrix<'_> {
    /// The matrix's numbers.
    pub fn window(&self) -> Window<'_> {
        match self {
            Matrix::View(window) => *window,
            Matrix::Own(matrix) => window(matrix),
            Matrix::Refitted(recovered) => window(&recovered.matrix),
        }
    }

    /// The matrix as it is in `precision`.
    pub fn quantized(self, precision: Precision) -> Self {
        if precision == Precision::F32 {
            return self;
        }
        let window = self.window();
        let columns = window.col_count();
        let mut values = Vec::with_capacity(window.row_count() * columns);
        for row in 0..window.row_count() {
            values.extend_from_slice(window.row(row));
        }
        round_trip(&mut values, columns, precision);
        let matrix = Array2::from_shape_vec((window.row_count(), columns), values);
        Matrix::Own(matrix.expect("a window has as many numbers as rows times columns"))
    }
}

impl<'a> Subnet<'a> {
    pub(crate) fn new(
        supernet: &'a Supernet,
        config: &SubnetConfig,
    ) -> Result<Self, SupernetError> {
        let model = supernet.model();
        config.check(model)?;
        let full = FullShapes::of(model);
        let is_pruned = config
            .layers
            .iter()
            .any(|l| full.is_attention_pruned(l.attention) || full.is_mlp_pruned(l.mlp));
        if is_pruned && !supernet.is_calibrated() {
            return Err(SupernetError::NotCalibrated);
        }
        let layers = config.layers.par_iter().enumerate();
        let layers = layers.map(|(index, layer)| -> Result<_, SupernetError> {
            let block = |block| Surroundings::of(supernet, &config.layers, block);
            let (attention, attention_bias) =
                cut_attention(supernet, index, layer.attention, block(2 * index))?;
            let (mlp, mlp_bias) = cut_mlp(supernet, index, layer.mlp, block(2 * index + 1))?;
            Ok(CutLayer {
                attention,
                attention_bias,
                mlp,
                mlp_bias,
            })
        });
        Ok(Self {
            supernet,
            ends: supernet.ends(config.head_precision),
            config: config.clone(),
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: supernet.final_norm(),
            made: Made::Cut,
        })
    }

    /// The choices it was cut with.
    pub fn config(&self) -> &SubnetConfig {
        &self.config
    }

    /// The super-network it is a view of.
    pub fn supernet(&self) -> &'a Supernet {
        self.supernet
    }

    /// Whether it was corrected for drift ([`Self::correct_drift`]): another network then than the one
    /// that its choices alone give.
    pub fn is_corrected(&self) -> bool {
        self.made == Made::Corrected
    }

    /// Whether its weights were trained ([`crate::Parameters`]): another network, likewise.
    pub fn is_trained(&self) -> bool {
        self.made == Made::Trained
    }

    /// Whether its choices alone give it.
    pub(crate) fn is_only_cut(&self) -> bool {
        self.made == Made::Cut
    }

    pub(crate) fn set_corrected(&mut self) {
        self.made = Made::Corrected;
    }

    /// A sub-network of weights that were trained.
    pub(crate) fn trained(
        supernet: &'a Supernet,
        config: &SubnetConfig,
        layers: Vec<CutLayer<'a>>,
        final_norm: &'a [f32],
    ) -> Self {
        Self {
            supernet,
            ends: supernet.ends(config.head_precision),
            config: config.clone(),
            final_norm,
            layers,
            made: Made::Trained,
        }
    }

    /// Gain of the final norm, `[hidden]`.
    pub(crate) fn final_gain(&self) -> &'a [f32] {
        self.final_norm
    }

    pub(crate) fn ends(&self) -> &'a Ends {
        self.ends
    }

    pub(crate) fn embedding_row(&self, token: usize) -> &'a [f32] {
        let hidden = self.supernet.model().hidden_size;
        &slice(&self.ends.embed_tokens)[token * hidden..][..hidden]
    }

    pub(crate) fn layer(&self, layer: usize) -> &CutLayer<'a> {
        &self.layers[layer]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut CutLayer<'a> {
        &mut self.layers[layer]
    }
}

/// What a block has to do with the removed blocks around it.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings {
    /// Blocks right behind it that it stands in for, if it is kept.
    pub absorbed: usize,
    /// Whether an earlier block stands in for it, if it is removed.
    pub is_absorbed: bool,
}

impl Surroundings {
    pub fn of(supernet: &Supernet, layers: &[LayerConfig], block: usize) -> Self {
        let mut before = (0..block).rev().take(REACH);
        let kept = before.find(|&at| is_kept(layers, at));
        Self {
            absorbed: supernet.absorbed(layers, block),
            is_absorbed: kept.is_some_and(|at| at + supernet.absorbed(layers, at) >= block),
        }
    }
}

type Cut<T> = Result<(Option<T>, Option<Vec<f32>>), SupernetError>;

fn cut_attention<'a>(
    supernet: &'a Supernet,
    layer: usize,
    kept: Option<AttentionConfig>,
    around: Surroundings,
) -> Cut<CutAttention<'a>> {
    let model = supernet.model();
    let weights = supernet.layer(layer);
    let group = model.heads_per_group() * model.head_dim;
    let in_group = kept.map_or(0, |kept| kept.heads_per_group() * model.head_dim);
    let groups = kept.map_or(0, |kept| kept.kv_heads);
    let is_kept = |channel: &usize| channel / group < groups && channel % group < in_group;
    let channels = 0..model.num_attention_heads * model.head_dim;
    let (mut bias, mut refitted) = (None, None);
    let recovery = supernet.recovery(layer).map(|layer| &layer.attention);
    let is_changed =
        FullShapes::of(model).is_attention_pruned(kept) || kept.is_some() && around.absorbed > 0;
    if let Some(recovery) = recovery.filter(|_| is_changed) {
        let removed = channels.clone().filter(|channel| !is_kept(channel));
        if let Some(kept) = kept.filter(|_| recovery.is_refitted()) {
            let key = (2 * layer, [kept.heads, kept.kv_heads], around.absorbed);
            refitted = supernet.refitted(key, || {
                let kept: Vec<usize> = channels.filter(is_kept).collect();
                let absorbed = supernet.absorbed_outputs(2 * layer, around.absorbed);
                recovery.refit(&weights.o, &kept, &absorbed)
            })?;
        }
        bias = refitted.as_ref().map(|refitted| refitted.bias.clone());
        bias = bias.or_else(|| match kept {
            Some(_) => recovery.mean_output(&weights.o, removed),
            None if around.is_absorbed => None,
            None => recovery.removed_block(&weights.o),
        });
    }
    let attention = kept.map(|kept| {
        let (q, o) = (window(&weights.q), window(&weights.o));
        let whole = || vec![(0, groups * group)];
        let spans: Vec<(usize, usize)> = match in_group == group {
            true => whole(),
            false => (0..groups).map(|g| (g * group, in_group)).collect(),
        };
        let views = |spans: &[(usize, usize)], view: &dyn Fn(usize, usize) -> Window<'a>| {
            let views = spans.iter().map(|(start, width)| view(*start, *width));
            let matrices = views.map(|view| Matrix::View(view).quantized(kept.precision));
            matrices.collect::<Vec<_>>()
        };
        let cut = |matrix| Matrix::View(window(matrix).columns(0, groups * model.head_dim));
        CutAttention {
            heads: kept.heads,
            kv_heads: groups,
            precision: kept.precision,
            norm: &weights.input_norm,
            q: views(&spans, &|start, width| q.columns(start, width)),
            k: cut(&weights.k).quantized(kept.precision),
            v: cut(&weights.v).quantized(kept.precision),
            o: match refitted {
                Some(refitted) => vec![Matrix::Refitted(refitted).quantized(kept.precision)],
                None => views(&spans, &|start, width| o.rows(start, width)),
            },
            qkv_bias: weights.qkv_bias.as_ref().map(|bias| QkvBias {
                q: of_spans(&bias.q, &spans),
                k: bias.k[..groups * model.head_dim].to_vec(),
                v: bias.v[..groups * model.head_dim].to_vec(),
            }),
            qk_norm: weights.qk_norm.as_ref().map(QkGains::from),
            post_norm: weights
                .post_norms
                .as_ref()
                .map(|gains| &gains.attention[..]),
        }
    });
    Ok((attention, bias))
}

/// The stretches of `values` that begin and are as long as `spans` say.
fn of_spans(values: &[f32], spans: &[(usize, usize)]) -> Vec<f32> {
    let parts = spans
        .iter()
        .map(|(start, width)| &values[*start..][..*width]);
    parts.flatten().copied().collect()
}

fn cut_mlp<'a>(
    supernet: &'a Supernet,
    layer: usize,
    kept: Option<MlpConfig>,
    around: Surroundings,
) -> Cut<CutMlp<'a>> {
    let model = supernet.model();
    let weights: &SuperLayer = supernet.layer(layer);
    let width = kept.map_or(0, |kept| kept.intermediate_size);
    let (mut bias, mut refitted) = (None, None);
    let recovery = supernet.recovery(layer).map(|layer| &layer.mlp);
    let is_changed =
        FullShapes::of(model).is_mlp_pruned(kept) || kept.is_some() && around.absorbed > 0;
    if let Some(recovery) = recovery.filter(|_| is_changed) {
        if kept.is_some() && recovery.is_refitted() {
            let block = 2 * layer + 1;
            refitted = supernet.refitted((block, [width, 0], around.absorbed), || {
                let kept: Vec<usize> = (0..width).collect();
                let absorbed = supernet.absorbed_outputs(block, around.absorbed);
                recovery.refit(&weights.down, &kept, &absorbed)
            })?;
        }
        bias = refitted.as_ref().map(|refitted| refitted.bias.clone());
        bias = bias.or_else(|| match kept {
            Some(_) => recovery.mean_output(&weights.down, width..model.intermediate_size),
            None if around.is_absorbed => None,
            None => recovery.removed_block(&weights.down),
        });
    }
    let mlp = kept.map(|kept| {
        let columns = |matrix| Matrix::View(window(matrix).columns(0, width));
        let down = match refitted {
            Some(refitted) => Matrix::Refitted(refitted),
            None => Matrix::View(window(&weights.down).rows(0, width)),
        };
        CutMlp {
            precision: kept.precision,
            norm: &weights.post_attention_norm,
            gate: columns(&weights.gate).quantized(kept.precision),
            up: columns(&weights.up).quantized(kept.precision),
            down: down.quantized(kept.precision),
            post_norm: weights.post_norms.as_ref().map(|gains| &gains.mlp[..]),
        }
    });
    Ok((mlp, bias))
}
