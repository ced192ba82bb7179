//! The super-network: a checkpoint's weights, laid out so that every sub-network is a slice.

use lathe_arch::{ModelConfig, SubnetConfig};
use ndarray::{Array1, Array2};
use rayon::prelude::*;

use crate::SupernetError;
use crate::calibration::Calibration;
use crate::checkpoint::{LayerWeights, ModelWeights};
use crate::cut::Subnet;
use crate::engine::matmul::Window;
use crate::order::{ImportanceOrder, LayerOrder};

/// A model's weights with the units of every block in order of importance.
///
/// Matrices are kept transposed, `[in, out]`, as the products read them. Permuting units inside
/// a block leaves the full model's function unchanged; afterwards "the first n" are "the best n".
pub struct Supernet {
    model: ModelConfig,
    embed_tokens: Array2<f32>,
    lm_head: Array2<f32>,
    final_norm: Vec<f32>,
    layers: Vec<SuperLayer>,
    order: ImportanceOrder,
    means: Option<Vec<LayerMeans>>,
}

/// One layer's matrices `[in, out]` and norm gains, units in order of importance.
pub(crate) struct SuperLayer {
    pub input_norm: Vec<f32>,
    pub q: Array2<f32>,
    pub k: Array2<f32>,
    pub v: Array2<f32>,
    pub o: Array2<f32>,
    pub post_attention_norm: Vec<f32>,
    pub gate: Array2<f32>,
    pub up: Array2<f32>,
    pub down: Array2<f32>,
}

/// Mean input of each block's last matrix, in order of importance: what a removed unit
/// contributes on average, kept as a bias.
pub(crate) struct LayerMeans {
    /// `[heads * head_dim]`
    pub attention: Vec<f32>,
    /// `[intermediate_size]`
    pub mlp: Vec<f32>,
}

impl Supernet {
    /// The checkpoint's weights in their own order. Only the full model can be cut from it, until
    /// it has been calibrated.
    pub fn unordered(model: &ModelConfig, weights: &ModelWeights) -> Self {
        let order = ImportanceOrder::identity(model);
        Self::build(model, weights, order, None)
    }

    /// The checkpoint's weights in the order of importance that `calibration` gives.
    ///
    /// # Errors
    /// When the calibration was made for a model of other dimensions or holds NaN.
    pub fn ordered(
        model: &ModelConfig,
        weights: &ModelWeights,
        calibration: &Calibration,
    ) -> Result<Self, SupernetError> {
        calibration.check(model)?;
        let order = ImportanceOrder::by_activation(model, weights, calibration);
        let means = means_in_order(model, calibration, &order);
        Ok(Self::build(model, weights, order, Some(means)))
    }

    fn build(
        model: &ModelConfig,
        weights: &ModelWeights,
        order: ImportanceOrder,
        means: Option<Vec<LayerMeans>>,
    ) -> Self {
        let layers = weights
            .layers
            .par_iter()
            .zip(&order.layers)
            .map(|(layer, order)| SuperLayer::new(model, layer, order))
            .collect();
        let head = weights.lm_head.as_ref().unwrap_or(&weights.embed_tokens);
        Self {
            model: model.clone(),
            embed_tokens: weights.embed_tokens.as_standard_layout().into_owned(),
            lm_head: head.t().as_standard_layout().into_owned(),
            final_norm: weights.norm.to_vec(),
            layers,
            order,
            means,
        }
    }

    /// The model's dimensions.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Which of the checkpoint's units stand where.
    pub fn order(&self) -> &ImportanceOrder {
        &self.order
    }

    /// The sub-network that `config` describes, as a view of these weights.
    ///
    /// # Errors
    /// When `config` does not fit the model, or is smaller than the model and the super-network
    /// was not calibrated.
    pub fn cut(&self, config: &SubnetConfig) -> Result<Subnet<'_>, SupernetError> {
        Subnet::new(self, config)
    }

    /// The full model.
    pub fn full(&self) -> Subnet<'_> {
        self.cut(&SubnetConfig::full(&self.model))
            .expect("the full model fits itself and needs no calibration")
    }

    pub(crate) fn layer(&self, layer: usize) -> &SuperLayer {
        &self.layers[layer]
    }

    pub(crate) fn means(&self, layer: usize) -> Option<&LayerMeans> {
        self.means.as_ref().map(|means| &means[layer])
    }

    pub(crate) fn embedding(&self) -> &[f32] {
        slice(&self.embed_tokens)
    }

    pub(crate) fn embedding_row(&self, token: usize) -> &[f32] {
        &self.embedding()[token * self.model.hidden_size..][..self.model.hidden_size]
    }

    pub(crate) fn lm_head(&self) -> Window<'_> {
        window(&self.lm_head)
    }

    pub(crate) fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }
}

impl SuperLayer {
    fn new(model: &ModelConfig, weights: &LayerWeights, order: &LayerOrder) -> Self {
        let query = order.query_channels(model);
        let kv = order.kv_channels(model);
        Self {
            input_norm: gains(&weights.input_layernorm),
            q: transposed_rows(&weights.q_proj, &query),
            k: transposed_rows(&weights.k_proj, &kv),
            v: transposed_rows(&weights.v_proj, &kv),
            o: transposed_columns(&weights.o_proj, &query),
            post_attention_norm: gains(&weights.post_attention_layernorm),
            gate: transposed_rows(&weights.gate_proj, &order.neurons),
            up: transposed_rows(&weights.up_proj, &order.neurons),
            down: transposed_columns(&weights.down_proj, &order.neurons),
        }
    }
}

/// The window of a whole matrix.
pub(crate) fn window(matrix: &Array2<f32>) -> Window<'_> {
    Window::whole(slice(matrix), matrix.nrows(), matrix.ncols())
}

fn slice(matrix: &Array2<f32>) -> &[f32] {
    matrix
        .as_slice()
        .expect("the super-network keeps its matrices in standard layout")
}

fn gains(gains: &Array1<f32>) -> Vec<f32> {
    gains.to_vec()
}

/// `[out, in]` with its rows picked in `order`, as `[in, out]`.
fn transposed_rows(matrix: &Array2<f32>, order: &[usize]) -> Array2<f32> {
    Array2::from_shape_fn((matrix.ncols(), order.len()), |(i, o)| {
        matrix[[order[o], i]]
    })
}

/// `[out, in]` with its columns picked in `order`, as `[in, out]`.
fn transposed_columns(matrix: &Array2<f32>, order: &[usize]) -> Array2<f32> {
    Array2::from_shape_fn((order.len(), matrix.nrows()), |(i, o)| {
        matrix[[o, order[i]]]
    })
}

fn means_in_order(
    model: &ModelConfig,
    calibration: &Calibration,
    order: &ImportanceOrder,
) -> Vec<LayerMeans> {
    let pick = |means: &[f64], order: &[usize]| order.iter().map(|&i| means[i] as f32).collect();
    let layers = calibration.layers.iter().zip(&order.layers);
    layers
        .map(|(statistics, order)| LayerMeans {
            attention: pick(&statistics.attention.mean, &order.query_channels(model)),
            mlp: pick(&statistics.mlp.mean, &order.neurons),
        })
        .collect()
}
