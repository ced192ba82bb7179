//! The super-network: a checkpoint's weights, laid out so that every sub-network is a slice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lathe_arch::quantize::round_trip;
use lathe_arch::{LayerConfig, ModelConfig, Precision, SubnetConfig};
use ndarray::{Array1, Array2};
use rayon::prelude::*;

use crate::SupernetError;
use crate::absorption::absorbed_by;
use crate::calibration::Calibration;
use crate::checkpoint::{LayerWeights, ModelWeights, PostNorms, QkNorm, QkvBias};
use crate::cut::Subnet;
use crate::engine::matmul::Window;
use crate::importance::{ImportanceOrder, LayerOrder};
use crate::parameters::{Parameters, Part, Role};
use crate::recovery::{Absorbed, BlockRecovery, Recovered, Recovery};

/// A model's weights with the units of every block in order of importance.
///
/// The matrices of blocks are kept transposed, `[in, out]`, as the products read them. Permuting
/// units inside a block leaves the full model's function unchanged; afterwards "the first n" are
/// "the best n".
///
/// Refitted matrices are made when a choice is first cut and kept for the next time, the latest of
/// them: twice as many numbers as the last matrices of all blocks have, or as
/// [`Self::keep_refits`] says.
pub struct Supernet {
    model: ModelConfig,
    ends: Ends,
    quantized_ends: [OnceLock<Ends>; 2],
    final_norm: Vec<f32>,
    layers: Vec<SuperLayer>,
    order: ImportanceOrder,
    recovery: Option<Vec<LayerRecovery>>,
    refitted: Mutex<Refits>,
    /// The checkpoint's own weights, in the same order, where these were trained.
    teacher: Option<Parameters>,
}

/// The matrices at both ends, as they are in one precision.
pub(crate) struct Ends {
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: Array2<f32>,
    /// `[vocab_size, hidden_size]`; absent when it is the embedding.
    untied_head: Option<Array2<f32>>,
}

impl Ends {
    /// `[vocab_size, hidden_size]`: the logits are a product with its transpose.
    pub fn lm_head(&self) -> &Array2<f32> {
        self.untied_head.as_ref().unwrap_or(&self.embed_tokens)
    }
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
    pub qkv_bias: Option<QkvBias>,
    pub qk_norm: Option<QkNorm>,
    pub post_norms: Option<PostNorms>,
}

/// What makes up for removed units in one layer.
pub(crate) struct LayerRecovery {
    pub attention: BlockRecovery,
    pub mlp: BlockRecovery,
}

/// A block as counted through the model, what is kept of it (query heads and KV heads, or neurons
/// and 0), and how many removed blocks it stands in for.
pub(crate) type RefitKey = (usize, [usize; 2], usize);

impl Supernet {
    /// The checkpoint's weights in their own order. Only the full model can be cut from it.
    pub fn unordered(model: &ModelConfig, weights: ModelWeights) -> Self {
        Self::build(model, weights, ImportanceOrder::identity(model))
    }

    /// The checkpoint's weights in an order, without what recovers sub-networks. Only the full model can
    /// be cut from it.
    ///
    /// # Errors
    /// When the order was made for a model of other dimensions.
    pub fn in_order(
        model: &ModelConfig,
        weights: ModelWeights,
        order: &ImportanceOrder,
    ) -> Result<Self, SupernetError> {
        order.check(model)?;
        Ok(Self::build(model, weights, order.clone()))
    }

    /// The checkpoint's weights in an order of importance. What stands for removed units follows
    /// from `calibration` and `recovery`.
    ///
    /// # Errors
    /// When the calibration or the order was made for a model of other dimensions, or the
    /// calibration holds NaN or cannot be read.
    pub fn ordered(
        model: &ModelConfig,
        weights: ModelWeights,
        calibration: Calibration,
        order: &ImportanceOrder,
        recovery: Recovery,
    ) -> Result<Self, SupernetError> {
        calibration.check(model)?;
        order.check(model)?;
        let mut supernet = Self::build(model, weights, order.clone());
        // The moments of a layer are let go of when its factors are made.
        let layers = calibration.layers.into_par_iter().zip(&order.layers);
        let layers = layers.zip(&supernet.layers);
        let layers = layers.map(|((statistics, order), layer)| {
            let normed = statistics.normed_outputs.as_ref();
            let attention = BlockRecovery::new(
                &statistics.attention,
                &order.query_channels(model),
                &layer.o,
                recovery,
            )?;
            let mlp = BlockRecovery::new(&statistics.mlp, &order.neurons, &layer.down, recovery)?;
            Ok(LayerRecovery {
                attention: attention.with_normed_output(normed.map(|n| &n.attention[..])),
                mlp: mlp.with_normed_output(normed.map(|n| &n.mlp[..])),
            })
        });
        let layers: Result<_, SupernetError> = layers.collect();
        supernet.recovery = Some(layers?);
        Ok(supernet)
    }

    fn build(model: &ModelConfig, weights: ModelWeights, order: ImportanceOrder) -> Self {
        // A layer's own weights are let go of when they are laid out anew.
        let layers = weights.layers.into_par_iter().zip(&order.layers);
        let layers: Vec<SuperLayer> = layers
            .map(|(layer, order)| SuperLayer::new(model, layer, order))
            .collect();
        let last = layers.iter().map(|layer| layer.o.len() + layer.down.len());
        let refitted = Refits::new(2 * last.sum::<usize>());
        Self {
            model: model.clone(),
            ends: Ends {
                embed_tokens: in_standard_layout(weights.embed_tokens),
                untied_head: weights.lm_head.map(in_standard_layout),
            },
            quantized_ends: Default::default(),
            final_norm: weights.norm.to_vec(),
            layers,
            order,
            recovery: None,
            refitted: Mutex::new(refitted),
            teacher: None,
        }
    }

    /// The same super-network with weights that were trained ([`crate::Trainer::of_supernet`]). What
    /// recovers sub-networks stays that of the checkpoint's weights, as it was in training, and so do
    /// the full model that networks are held against and all that is told of removed blocks.
    ///
    /// # Errors
    /// When these are not the weights of the full model.
    pub fn with_weights(mut self, weights: &Parameters) -> Result<Self, SupernetError> {
        let full = self.full();
        weights.subnet(&self, full.config())?;
        let own = Parameters::of(&full);
        self.teacher = Some(self.teacher.take().unwrap_or(own));
        for (role, tensor) in weights.iter() {
            let values = slice(tensor);
            match role {
                Role::FinalNorm => self.final_norm = values.to_vec(),
                Role::Layer(layer, part) => self.layers[layer].set(part, tensor),
            }
        }
        let empty = Refits::new(self.refits().most_numbers);
        self.refitted = Mutex::new(empty);
        Ok(self)
    }

    /// The same super-network with the full model as it was trained for the one that networks are held
    /// against.
    pub fn taught_by_itself(mut self) -> Self {
        self.teacher = None;
        self
    }

    /// Lets refitted matrices take `bytes` where that is more than they are allowed already. A search
    /// that has cut most choices of every block once then cuts without solving anything.
    pub fn keep_refits(&mut self, bytes: u64) {
        let numbers = usize::try_from(bytes / size_of::<f32>() as u64).unwrap_or(usize::MAX);
        let mut refits = self.refits();
        refits.most_numbers = refits.most_numbers.max(numbers);
    }

    /// Whether its weights were trained.
    pub fn is_trained(&self) -> bool {
        self.teacher.is_some()
    }

    /// The full model as the checkpoint has it: what sub-networks are held against.
    pub fn teacher(&self) -> Subnet<'_> {
        let full = SubnetConfig::full(&self.model);
        match &self.teacher {
            Some(weights) => weights
                .subnet(self, &full)
                .expect("the full model's own weights fit it"),
            None => self.full(),
        }
    }

    /// Tells checkpoints apart by all their weights, as they stand in this order.
    pub fn weights_digest(&self) -> String {
        let teacher = self.teacher();
        let layers = Parameters::of(&teacher);
        let words = layers.values().flat_map(|values| values.numbers);
        let hash = fnv(words.map(|value| u64::from(value.to_bits())));
        format!("{}{hash:016x}", self.ends_digest())
    }

    /// The model's dimensions.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Which of the checkpoint's units stand where.
    pub fn order(&self) -> &ImportanceOrder {
        &self.order
    }

    /// Tells super-networks of one checkpoint apart: another order, recovery or calibration gives
    /// other sub-networks.
    pub fn digest(&self) -> u64 {
        let layers = self.order.layers.iter();
        let order = layers.flat_map(|layer| {
            let heads = layer.heads_in_group.iter().flatten();
            layer.kv_groups.iter().chain(heads).chain(&layer.neurons)
        });
        let recovery = self.recovery.iter().flatten();
        let recovery = recovery.flat_map(|layer| [layer.attention.digest(), layer.mlp.digest()]);
        let trained = self.teacher.as_ref().map(|_| Parameters::of(&self.full()));
        let trained = trained.iter().flat_map(Parameters::values);
        let trained = trained.flat_map(|values| values.numbers);
        let trained = trained.map(|value| u64::from(value.to_bits()));
        fnv(order
            .map(|index| *index as u64)
            .chain(recovery)
            .chain(trained))
    }

    /// Tells models apart by the matrices at their ends.
    pub(crate) fn ends_digest(&self) -> String {
        let ends = [
            Some(&self.ends.embed_tokens),
            self.ends.untied_head.as_ref(),
        ];
        let words = ends.into_iter().flatten().flat_map(slice);
        let hash = fnv(words.map(|value| u64::from(value.to_bits())));
        format!("{hash:016x}")
    }

    /// The sub-network that `config` describes, as a view of these weights.
    ///
    /// # Errors
    /// When `config` does not fit the model, or is smaller than the model and the super-network
    /// was not calibrated.
    pub fn cut(&self, config: &SubnetConfig) -> Result<Subnet<'_>, SupernetError> {
        Subnet::new(self, config)
    }

    /// Mean squared error of an attention block's output over the calibration text when the first
    /// `kv_heads` groups are kept and refitted; `None` without a least-squares recovery.
    pub fn attention_error(&self, layer: usize, kv_heads: usize) -> Option<f64> {
        let group = self.model.heads_per_group() * self.model.head_dim;
        self.recovery(layer)?.attention.error(kv_heads * group)
    }

    /// The same for the first `intermediate_size` neurons of an MLP block.
    pub fn mlp_error(&self, layer: usize, intermediate_size: usize) -> Option<f64> {
        self.recovery(layer)?.mlp.error(intermediate_size)
    }

    /// The full model.
    pub fn full(&self) -> Subnet<'_> {
        self.cut(&SubnetConfig::full(&self.model))
            .expect("the full model fits itself and needs no calibration")
    }

    pub(crate) fn layer(&self, layer: usize) -> &SuperLayer {
        &self.layers[layer]
    }

    /// Whether anything but the full model can be cut.
    pub(crate) fn is_calibrated(&self) -> bool {
        self.recovery.is_some()
    }

    /// The removed blocks that the kept `block`, counted through the model, stands in for in a
    /// network of `layers`.
    pub(crate) fn absorbed(&self, layers: &[LayerConfig], block: usize) -> usize {
        let recovery = self.recovery(block / 2).map(|layer| layer.block(block));
        let reach = recovery.map_or(0, BlockRecovery::reach);
        absorbed_by(layers, block).min(reach)
    }

    /// What the `count` blocks behind `block` give on average.
    pub(crate) fn absorbed_outputs(&self, block: usize, count: usize) -> Vec<Absorbed> {
        let absorbed = (0..count).map(|ahead| {
            let at = block + 1 + ahead;
            let (layer, is_attention) = (self.layer(at / 2), at.is_multiple_of(2));
            // What was measured behind a block is what the checkpoint's weights gave.
            let part = if is_attention {
                Part::Output
            } else {
                Part::Down
            };
            let of_teacher = self.teacher.as_ref();
            let of_teacher = of_teacher.and_then(|own| own.get(Role::Layer(at / 2, part)));
            let own = if is_attention { &layer.o } else { &layer.down };
            let matrix = of_teacher.unwrap_or(own);
            let recovery = self.recovery(at / 2).map(|layer| layer.block(at));
            let mean_output = recovery.and_then(|recovery| recovery.removed_block(matrix));
            Absorbed {
                ahead,
                mean_output: mean_output.unwrap_or_else(|| vec![0.0; matrix.ncols()]),
            }
        });
        absorbed.collect()
    }

    pub(crate) fn recovery(&self, layer: usize) -> Option<&LayerRecovery> {
        self.recovery.as_ref().map(|layers| &layers[layer])
    }

    /// The refitted matrix of `key`, made by `fit` where it has not been yet.
    pub(crate) fn refitted(
        &self,
        key: RefitKey,
        fit: impl FnOnce() -> Result<Option<Recovered>, SupernetError>,
    ) -> Result<Option<Arc<Recovered>>, SupernetError> {
        if let Some(found) = self.refits().matrices.get(&key) {
            return Ok(Some(found.clone()));
        }
        let Some(made) = fit()?.map(Arc::new) else {
            return Ok(None);
        };
        self.refits().keep(key, made.clone());
        Ok(Some(made))
    }

    fn refits(&self) -> MutexGuard<'_, Refits> {
        self.refitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The matrices at both ends. A quantised head brings a tied embedding with it; an untied one
    /// stays f32.
    pub(crate) fn ends(&self, precision: Precision) -> &Ends {
        let precision = precision.of_ends();
        let slot = match precision {
            Precision::F32 => return &self.ends,
            Precision::Int8 | Precision::W8A8 => &self.quantized_ends[0],
            Precision::Int4 => &self.quantized_ends[1],
        };
        slot.get_or_init(|| {
            // Quantised along the inputs, which are its columns.
            let mut lm_head = self.ends.lm_head().t().as_standard_layout().into_owned();
            let vocab_size = lm_head.ncols();
            if let Some(values) = lm_head.as_slice_mut() {
                round_trip(values, vocab_size, precision);
            }
            let lm_head = lm_head.t().as_standard_layout().into_owned();
            match self.ends.untied_head {
                Some(_) => Ends {
                    embed_tokens: self.ends.embed_tokens.clone(),
                    untied_head: Some(lm_head),
                },
                None => Ends {
                    embed_tokens: lm_head,
                    untied_head: None,
                },
            }
        })
    }

    pub(crate) fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }
}

/// Refitted matrices, the oldest first to go.
struct Refits {
    matrices: BTreeMap<RefitKey, Arc<Recovered>>,
    order: VecDeque<RefitKey>,
    numbers: usize,
    most_numbers: usize,
}

impl Refits {
    fn new(most_numbers: usize) -> Self {
        Self {
            matrices: BTreeMap::new(),
            order: VecDeque::new(),
            numbers: 0,
            most_numbers,
        }
    }

    fn keep(&mut self, key: RefitKey, refitted: Arc<Recovered>) {
        self.numbers += refitted.matrix.len();
        self.order.push_back(key);
        if let Some(twin) = self.matrices.insert(key, refitted) {
            self.numbers -= twin.matrix.len();
        }
        while self.numbers > self.most_numbers
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.matrices.remove(&oldest);
            self.numbers -= gone.map_or(0, |gone| gone.matrix.len());
        }
    }
}

impl LayerRecovery {
    /// The block of this layer that is counted as `block` through the model.
    pub fn block(&self, block: usize) -> &BlockRecovery {
        if block.is_multiple_of(2) {
            &self.attention
        } else {
            &self.mlp
        }
    }
}

impl SuperLayer {
    /// Takes over one tensor, of the same shape.
    fn set(&mut self, part: Part, tensor: &Array2<f32>) {
        let vector = |values: &mut Vec<f32>| values.clone_from(&slice(tensor).to_vec());
        let bias = self.qkv_bias.as_mut();
        let gains = self.qk_norm.as_mut();
        let post = self.post_norms.as_mut();
        match part {
            Part::Query => self.q.assign(tensor),
            Part::Key => self.k.assign(tensor),
            Part::Value => self.v.assign(tensor),
            Part::Output => self.o.assign(tensor),
            Part::Gate => self.gate.assign(tensor),
            Part::Up => self.up.assign(tensor),
            Part::Down => self.down.assign(tensor),
            Part::AttentionNorm => vector(&mut self.input_norm),
            Part::MlpNorm => vector(&mut self.post_attention_norm),
            Part::QueryBias => bias.into_iter().for_each(|bias| vector(&mut bias.q)),
            Part::KeyBias => bias.into_iter().for_each(|bias| vector(&mut bias.k)),
            Part::ValueBias => bias.into_iter().for_each(|bias| vector(&mut bias.v)),
            Part::QueryNorm => gains.into_iter().for_each(|gains| vector(&mut gains.q)),
            Part::KeyNorm => gains.into_iter().for_each(|gains| vector(&mut gains.k)),
            Part::AttentionPostNorm => post.into_iter().for_each(|p| vector(&mut p.attention)),
            Part::MlpPostNorm => post.into_iter().for_each(|p| vector(&mut p.mlp)),
            // The full model has nothing that stands for lost units.
            Part::AttentionBias | Part::MlpBias => {}
        }
    }

    fn new(model: &ModelConfig, weights: LayerWeights, order: &LayerOrder) -> Self {
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
            qkv_bias: weights.qkv_bias.as_ref().map(|bias| QkvBias {
                q: picked(&bias.q, &query),
                k: picked(&bias.k, &kv),
                v: picked(&bias.v, &kv),
            }),
            qk_norm: weights.qk_norm,
            post_norms: weights.post_norms,
        }
    }
}

/// FNV-1a: stable across versions of the standard library.
fn fnv(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The window of a whole matrix.
pub(crate) fn window(matrix: &Array2<f32>) -> Window<'_> {
    Window::whole(slice(matrix), matrix.nrows(), matrix.ncols())
}

pub(crate) fn slice(matrix: &Array2<f32>) -> &[f32] {
    matrix
        .as_slice()
        .expect("the super-network keeps its matrices in standard layout")
}

fn in_standard_layout(matrix: Array2<f32>) -> Array2<f32> {
    if matrix.is_standard_layout() {
        return matrix;
    }
    matrix.as_standard_layout().into_owned()
}

fn gains(gains: &Array1<f32>) -> Vec<f32> {
    gains.to_vec()
}

fn picked(values: &[f32], order: &[usize]) -> Vec<f32> {
    order.iter().map(|&index| values[index]).collect()
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
