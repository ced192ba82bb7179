//! Sub-networks of weights that are being trained, and the way back of their gradients.
//!
//! A sub-network is what [`Supernet::cut`] makes of its choices: the first units of every block, the
//! last matrix refitted, and a bias. All of it is linear in the weights of the whole super-network
//! ([`RefitMap`]), with maps that follow from the calibration of the model before training.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lathe_arch::{FullShapes, LayerConfig, ModelConfig, SubnetConfig};
use ndarray::{Array2, s};
use rayon::prelude::*;

use crate::SupernetError;
use crate::cut::Surroundings;
use crate::parameters::{Parameters, Part, Role};
use crate::recovery::RefitMap;
use crate::supernet::{RefitKey, Supernet, slice};

/// Bytes of maps that are kept for the next step: as many as all widths of the default model take,
/// and what stands for removed blocks.
pub(super) const KEPT_BYTES: usize = 1 << 30;

/// Cuts sub-networks out of weights of the full model's shapes.
pub(super) struct Slicing<'a> {
    supernet: &'a Supernet,
    maps: BTreeMap<RefitKey, Arc<RefitMap>>,
    /// The oldest first.
    order: VecDeque<RefitKey>,
    bytes: usize,
}

/// How one sub-network is cut: for every layer what becomes of the last matrices of its blocks;
/// `None` where they stay as they are.
pub(super) struct Slices {
    config: SubnetConfig,
    maps: Vec<[Option<Arc<RefitMap>>; 2]>,
}

impl<'a> Slicing<'a> {
    pub fn new(supernet: &'a Supernet) -> Self {
        Self {
            supernet,
            maps: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// How the sub-network of `config` is cut.
    ///
    /// # Errors
    /// When it does not fit the model, or is smaller and the super-network was not calibrated.
    pub fn slices(&mut self, config: &SubnetConfig) -> Result<Slices, SupernetError> {
        let supernet = self.supernet;
        let model = supernet.model();
        config.check(model)?;
        let full = FullShapes::of(model);
        let mut keys = Vec::new();
        for (index, layer) in config.layers.iter().enumerate() {
            let around =
                [0, 1].map(|at| Surroundings::of(supernet, &config.layers, 2 * index + at));
            let attention = layer.attention.map_or([0, 0], |a| [a.heads, a.kv_heads]);
            let mlp = layer.mlp.map_or([0, 0], |m| [m.intermediate_size, 0]);
            let is_pruned = [
                full.is_attention_pruned(layer.attention),
                full.is_mlp_pruned(layer.mlp),
            ];
            for (at, kept) in [attention, mlp].into_iter().enumerate() {
                let is_changed = is_pruned[at] || kept[0] > 0 && around[at].absorbed > 0;
                // A removed block that another stands in for leaves nothing.
                let is_left = kept[0] > 0 || !around[at].is_absorbed;
                let key = (2 * index + at, kept, around[at].absorbed);
                keys.push((is_changed && is_left).then_some(key));
            }
        }
        if keys.iter().any(Option::is_some) && !supernet.is_calibrated() {
            return Err(SupernetError::NotCalibrated);
        }
        let missing = keys.iter().flatten();
        let missing = missing.filter(|key| !self.maps.contains_key(*key));
        let missing: Vec<RefitKey> = missing.copied().collect();
        let made = missing.par_iter().map(|key| map(supernet, *key));
        let made: Vec<RefitMap> = made.collect::<Result<_, _>>()?;
        for (key, map) in missing.into_iter().zip(made) {
            self.bytes += 4 * map.len();
            self.maps.insert(key, Arc::new(map));
            self.order.push_back(key);
        }
        let of = |key: &Option<RefitKey>| key.and_then(|key| self.maps.get(&key).cloned());
        let maps = keys
            .chunks_exact(2)
            .map(|pair| [of(&pair[0]), of(&pair[1])]);
        let slices = Slices {
            config: config.clone(),
            maps: maps.collect(),
        };
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.maps.remove(&oldest);
            self.bytes -= gone.map_or(0, |map| 4 * map.len());
        }
        Ok(slices)
    }
}

fn map(supernet: &Supernet, (block, kept, absorbed): RefitKey) -> Result<RefitMap, SupernetError> {
    let model = supernet.model();
    let layer = supernet.recovery(block / 2);
    let recovery = layer.ok_or(SupernetError::NotCalibrated)?.block(block);
    let (channels, kept) = match block % 2 {
        0 => {
            let all = model.num_attention_heads * model.head_dim;
            (all, query_channels(model, kept))
        }
        _ => (model.intermediate_size, (0..kept[0]).collect()),
    };
    if kept.is_empty() {
        return Ok(recovery.map_of_removed(channels));
    }
    let absorbed = supernet.absorbed_outputs(block, absorbed);
    recovery.map(channels, kept, &absorbed)
}

/// The query channels that `heads` of `kv_heads` groups have, in rising order.
fn query_channels(model: &ModelConfig, [heads, kv_heads]: [usize; 2]) -> Vec<usize> {
    let group = model.heads_per_group() * model.head_dim;
    let in_group = heads.checked_div(kv_heads).unwrap_or(0) * model.head_dim;
    let groups = (0..kv_heads).map(|index| index * group);
    groups.flat_map(|start| start..start + in_group).collect()
}

impl Slices {
    /// The sub-network's own weights.
    pub fn cut(&self, model: &ModelConfig, whole: &Parameters) -> Parameters {
        let layers = self.config.layers.par_iter().zip(&self.maps).enumerate();
        let layers = layers.map(|(index, (layer, maps))| {
            let of = |part| whole.get(Role::Layer(index, part));
            let mut tensors = Vec::new();
            for columns in columns(model, layer) {
                if let Some(matrix) = of(columns.part) {
                    tensors.push((columns.part, gather(matrix, &columns.kept)));
                }
            }
            for part in gains(layer) {
                if let Some(gain) = of(part) {
                    tensors.push((part, gain.clone()));
                }
            }
            for (map, block) in maps.iter().zip(BLOCKS) {
                let is_kept = block.is_in(layer);
                let Some(matrix) = of(block.last) else {
                    continue;
                };
                let Some(map) = map else {
                    tensors.extend(is_kept.then(|| (block.last, matrix.clone())));
                    continue;
                };
                let (kept, bias) = map.apply(matrix);
                tensors.extend(is_kept.then_some((block.last, kept)));
                let bias = bias.and_then(|bias| Array2::from_shape_vec((1, bias.len()), bias).ok());
                tensors.extend(bias.map(|bias| (block.bias, bias)));
            }
            let of_layer = |(part, tensor)| (Role::Layer(index, part), tensor);
            tensors.into_iter().map(of_layer).collect::<Vec<_>>()
        });
        let mut tensors: BTreeMap<Role, Array2<f32>> = layers.flatten().collect();
        if let Some(gain) = whole.get(Role::FinalNorm) {
            tensors.insert(Role::FinalNorm, gain.clone());
        }
        Parameters::from_tensors(tensors)
    }

    /// Adds `scale` times the gradient of the whole weights to `sum`, from that of the sub-network's.
    pub fn add_back(
        &self,
        model: &ModelConfig,
        gradient: &Parameters,
        scale: f32,
        sum: &mut Parameters,
    ) {
        let mut by_layer: Vec<Vec<(Part, &mut Array2<f32>)>> = Vec::new();
        by_layer.resize_with(self.config.layers.len(), Vec::new);
        for (role, tensor) in sum.iter_mut() {
            match role {
                Role::Layer(layer, part) => by_layer[layer].push((part, tensor)),
                Role::FinalNorm => {
                    if let Some(d) = gradient.get(role) {
                        tensor.scaled_add(scale, d);
                    }
                }
            }
        }
        let layers = by_layer.into_par_iter().zip(&self.config.layers);
        let layers = layers.zip(&self.maps).enumerate();
        layers.for_each(|(index, ((mut sums, layer), maps))| {
            let of = |part| gradient.get(Role::Layer(index, part));
            let columns = columns(model, layer);
            for (part, sum) in &mut sums {
                if let Some(at) = BLOCKS.iter().position(|block| block.last == *part) {
                    let bias = of(BLOCKS[at].bias).map(slice);
                    match (&maps[at], of(*part)) {
                        (Some(map), matrix) => map.add_back(matrix, bias, scale, sum),
                        (None, Some(matrix)) => sum.scaled_add(scale, matrix),
                        (None, None) => {}
                    }
                    continue;
                }
                let Some(d) = of(*part) else { continue };
                match columns.iter().find(|columns| columns.part == *part) {
                    Some(columns) => scatter(sum, d, &columns.kept, scale),
                    None => sum.scaled_add(scale, d),
                }
            }
        });
    }
}

/// `matrix[.., columns]`, laid out row by row.
fn gather(matrix: &Array2<f32>, columns: &[usize]) -> Array2<f32> {
    let is_prefix = columns.iter().enumerate().all(|(at, column)| at == *column);
    let mut numbers = Vec::with_capacity(matrix.nrows() * columns.len());
    for row in slice(matrix).chunks_exact(matrix.ncols()) {
        match is_prefix {
            true => numbers.extend_from_slice(&row[..columns.len()]),
            false => numbers.extend(columns.iter().map(|&column| row[column])),
        }
    }
    let cut = Array2::from_shape_vec((matrix.nrows(), columns.len()), numbers);
    cut.expect("every row gives as many numbers as there are columns")
}

/// `sum[.., columns] += scale d`
fn scatter(sum: &mut Array2<f32>, d: &Array2<f32>, columns: &[usize], scale: f32) {
    let is_prefix = columns.iter().enumerate().all(|(at, column)| at == *column);
    if is_prefix {
        sum.slice_mut(s![.., ..columns.len()]).scaled_add(scale, d);
        return;
    }
    for (mut sums, d) in sum.rows_mut().into_iter().zip(d.rows()) {
        for (&column, d) in columns.iter().zip(d) {
            sums[column] += scale * d;
        }
    }
}

/// Columns of a matrix, or of a vector that goes with it.
struct Columns {
    part: Part,
    kept: Vec<usize>,
}

/// The columns that a layer keeps of all that is cut so.
fn columns(model: &ModelConfig, layer: &LayerConfig) -> Vec<Columns> {
    let mut all = Vec::new();
    if let Some(block) = layer.attention {
        let queries = query_channels(model, [block.heads, block.kv_heads]);
        let keys: Vec<usize> = (0..block.kv_heads * model.head_dim).collect();
        let parts = [
            (Part::Query, &queries),
            (Part::QueryBias, &queries),
            (Part::Key, &keys),
            (Part::KeyBias, &keys),
            (Part::Value, &keys),
            (Part::ValueBias, &keys),
        ];
        all.extend(parts.map(|(part, kept)| Columns {
            part,
            kept: kept.clone(),
        }));
    }
    if let Some(block) = layer.mlp {
        let kept: Vec<usize> = (0..block.intermediate_size).collect();
        all.extend([Part::Gate, Part::Up].map(|part| Columns {
            part,
            kept: kept.clone(),
        }));
    }
    all
}

/// The gains of a layer, which stay as they are.
fn gains(layer: &LayerConfig) -> Vec<Part> {
    let attention = [
        Part::AttentionNorm,
        Part::QueryNorm,
        Part::KeyNorm,
        Part::AttentionPostNorm,
    ];
    let mlp = [Part::MlpNorm, Part::MlpPostNorm];
    let attention = layer.attention.map(|_| &attention[..]).into_iter();
    let parts = attention.chain(layer.mlp.map(|_| &mlp[..]));
    parts.flatten().copied().collect()
}

/// The last matrix of a block and the bias that stands for what it lost.
struct Block {
    last: Part,
    bias: Part,
}

const BLOCKS: [Block; 2] = [
    Block {
        last: Part::Output,
        bias: Part::AttentionBias,
    },
    Block {
        last: Part::Down,
        bias: Part::MlpBias,
    },
];

impl Block {
    fn is_in(&self, layer: &LayerConfig) -> bool {
        match self.last {
            Part::Output => layer.attention.is_some(),
            _ => layer.mlp.is_some(),
        }
    }
}
