//! The parameters of a sub-network of its own: what training changes, copied out of the
//! super-network, and other numbers that go with each of them (gradients, an optimiser's moments).
//!
//! The matrices at both ends stay the super-network's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use lathe_arch::{LayerConfig, ModelConfig, SubnetConfig};
use ndarray::Array2;

use crate::SupernetError;
use crate::checkpoint::QkvBias;
use crate::cut::{CutAttention, CutLayer, CutMlp, Matrix, QkGains, Subnet};
use crate::file::write_with;
use crate::numbers::Numbers;
use crate::supernet::{Supernet, slice, window};
use crate::tensor_file::TensorFile;
use crate::tensors::tensor;

/// A tensor of a layer of a sub-network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Gain of the norm before attention.
    AttentionNorm,
    /// `q_proj`
    Query,
    /// `k_proj`
    Key,
    /// `v_proj`
    Value,
    /// `o_proj`
    Output,
    /// Of queries, where the family has one.
    QueryBias,
    /// Of keys, likewise.
    KeyBias,
    /// Of values, likewise.
    ValueBias,
    /// Gain of the norm of every query head, where the family has one.
    QueryNorm,
    /// Of every key head, likewise.
    KeyNorm,
    /// Gain of the norm behind attention, where the family has one.
    AttentionPostNorm,
    /// What stands for the units that attention lost.
    AttentionBias,
    /// Gain of the norm before the MLP.
    MlpNorm,
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
    /// Gain of the norm behind the MLP, where the family has one.
    MlpPostNorm,
    /// What stands for the neurons that are gone.
    MlpBias,
}

/// A tensor of a sub-network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Of a layer, from 0.
    Layer(usize, Part),
    /// Gain of the final norm.
    FinalNorm,
}

impl Role {
    fn is_vector(self) -> bool {
        match self {
            Role::Layer(_, part) => part.is_vector(),
            Role::FinalNorm => true,
        }
    }
}

impl Part {
    /// Whether it is a gain or a bias.
    pub fn is_vector(self) -> bool {
        match self {
            Part::Query
            | Part::Key
            | Part::Value
            | Part::Output
            | Part::Gate
            | Part::Up
            | Part::Down => false,
            Part::AttentionNorm
            | Part::QueryBias
            | Part::KeyBias
            | Part::ValueBias
            | Part::QueryNorm
            | Part::KeyNorm
            | Part::AttentionPostNorm
            | Part::AttentionBias
            | Part::MlpNorm
            | Part::MlpPostNorm
            | Part::MlpBias => true,
        }
    }
}

/// The numbers of one tensor.
pub(crate) struct Values<N> {
    pub numbers: N,
    /// Whether it has more than a row: vectors do not decay.
    pub is_matrix: bool,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layer, part) = match self {
            Role::FinalNorm => return f.write_str("final_norm"),
            Role::Layer(layer, part) => (layer, part),
        };
        let name = match part {
            Part::AttentionNorm => "attention.norm",
            Part::Query => "attention.q",
            Part::Key => "attention.k",
            Part::Value => "attention.v",
            Part::Output => "attention.o",
            Part::QueryBias => "attention.q_bias",
            Part::KeyBias => "attention.k_bias",
            Part::ValueBias => "attention.v_bias",
            Part::QueryNorm => "attention.q_norm",
            Part::KeyNorm => "attention.k_norm",
            Part::AttentionPostNorm => "attention.post_norm",
            Part::AttentionBias => "attention.bias",
            Part::MlpNorm => "mlp.norm",
            Part::Gate => "mlp.gate",
            Part::Up => "mlp.up",
            Part::Down => "mlp.down",
            Part::MlpPostNorm => "mlp.post_norm",
            Part::MlpBias => "mlp.bias",
        };
        write!(f, "layers.{layer}.{name}")
    }
}

/// Numbers for every tensor of a sub-network that is trained, matrices `[in, out]`, vectors one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    tensors: BTreeMap<Role, Array2<f32>>,
}

impl Parameters {
    /// The weights of a sub-network, copied.
    pub fn of(subnet: &Subnet<'_>) -> Self {
        let layers = 0..subnet.supernet().model().num_hidden_layers;
        let layers = layers.flat_map(|layer| {
            let tensors = subnet.layer_tensors(layer).into_iter();
            tensors.map(move |(part, tensor)| (Role::Layer(layer, part), tensor))
        });
        let mut tensors: BTreeMap<Role, Array2<f32>> = layers.collect();
        tensors.insert(Role::FinalNorm, tensor(1, subnet.final_norm()));
        Self { tensors }
    }

    /// As many zeros.
    pub fn zeros_like(other: &Self) -> Self {
        let tensors = other.tensors.iter();
        Self {
            tensors: tensors
                .map(|(role, tensor)| (*role, Array2::zeros(tensor.dim())))
                .collect(),
        }
    }

    pub(crate) fn from_tensors(tensors: BTreeMap<Role, Array2<f32>>) -> Self {
        Self { tensors }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Role, &Array2<f32>)> {
        self.tensors.iter().map(|(role, tensor)| (*role, tensor))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Role, &mut Array2<f32>)> {
        let tensors = self.tensors.iter_mut();
        tensors.map(|(role, tensor)| (*role, tensor))
    }

    /// A tensor, where there is one: a matrix `[in, out]`, or a vector in one row.
    pub fn get(&self, role: Role) -> Option<&Array2<f32>> {
        self.tensors.get(&role)
    }

    pub(crate) fn get_mut(&mut self, role: Role) -> Option<&mut Array2<f32>> {
        self.tensors.get_mut(&role)
    }

    /// Every tensor's numbers, in a fixed order.
    pub(crate) fn values(&self) -> impl Iterator<Item = Values<&[f32]>> {
        self.tensors.values().map(|tensor| Values {
            numbers: slice(tensor),
            is_matrix: tensor.nrows() > 1,
        })
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = Values<&mut [f32]>> {
        let laid_out = "a tensor that was made row by row is laid out so";
        self.tensors.values_mut().map(move |tensor| Values {
            is_matrix: tensor.nrows() > 1,
            numbers: tensor.as_slice_mut().expect(laid_out),
        })
    }

    /// The tensors that are no matrices.
    pub(crate) fn vectors(&self) -> Self {
        let vectors = self.tensors.iter().filter(|(role, _)| role.is_vector());
        Self {
            tensors: vectors
                .map(|(role, tensor)| (*role, tensor.clone()))
                .collect(),
        }
    }

    /// Takes over the tensors that `other` has, of the same shapes.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        for (role, from) in &other.tensors {
            if let Some(to) = self.tensors.get_mut(role) {
                to.assign(from);
            }
        }
    }

    pub(crate) fn fill_zero(&mut self) {
        self.values_mut()
            .for_each(|values| values.numbers.fill(0.0));
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.tensors.values().map(Array2::len).sum()
    }

    /// The sub-network of `config` with these weights in `supernet`'s place, in the precisions that
    /// `config` says.
    ///
    /// # Errors
    /// When `config` does not fit the model, or these are not the weights of such a sub-network.
    pub fn subnet<'a>(
        &'a self,
        supernet: &'a Supernet,
        config: &SubnetConfig,
    ) -> Result<Subnet<'a>, SupernetError> {
        let model = supernet.model();
        config.check(model)?;
        self.check(model, config)?;
        let layers = config.layers.iter().enumerate();
        let layers = layers.map(|(index, layer)| self.layer(model, index, layer));
        let (layers, final_norm) = (layers.collect(), self.vector(Role::FinalNorm));
        let final_norm = final_norm.unwrap_or_default();
        Ok(Subnet::trained(supernet, config, layers, final_norm))
    }

    fn vector(&self, role: Role) -> Option<&[f32]> {
        self.get(role).map(slice)
    }

    fn layer<'a>(&'a self, model: &ModelConfig, index: usize, layer: &LayerConfig) -> CutLayer<'a> {
        let vector = |part| self.vector(Role::Layer(index, part));
        let gain = |part| vector(part).unwrap_or_default();
        let matrix = |part, precision| {
            let tensor = self.get(Role::Layer(index, part));
            let tensor = tensor.expect("the tensors were held against the configuration");
            Matrix::View(window(tensor)).quantized(precision)
        };
        let owned = |part| vector(part).map(<[f32]>::to_vec);
        CutLayer {
            attention: layer.attention.map(|block| CutAttention {
                heads: block.heads,
                kv_heads: block.kv_heads,
                precision: block.precision,
                norm: gain(Part::AttentionNorm),
                q: vec![matrix(Part::Query, block.precision)],
                k: matrix(Part::Key, block.precision),
                v: matrix(Part::Value, block.precision),
                o: vec![matrix(Part::Output, block.precision)],
                qkv_bias: model.qkv_bias.then(|| QkvBias {
                    q: gain(Part::QueryBias).to_vec(),
                    k: gain(Part::KeyBias).to_vec(),
                    v: gain(Part::ValueBias).to_vec(),
                }),
                qk_norm: model.qk_norm.then(|| QkGains {
                    q: gain(Part::QueryNorm),
                    k: gain(Part::KeyNorm),
                }),
                post_norm: vector(Part::AttentionPostNorm),
            }),
            attention_bias: owned(Part::AttentionBias),
            mlp: layer.mlp.map(|block| CutMlp {
                precision: block.precision,
                norm: gain(Part::MlpNorm),
                gate: matrix(Part::Gate, block.precision),
                up: matrix(Part::Up, block.precision),
                down: matrix(Part::Down, block.precision),
                post_norm: vector(Part::MlpPostNorm),
            }),
            mlp_bias: owned(Part::MlpBias),
        }
    }

    /// Whether these are the tensors of a sub-network.
    fn check(&self, model: &ModelConfig, config: &SubnetConfig) -> Result<(), SupernetError> {
        let expected = shapes(model, config);
        for (role, expected) in &expected {
            let found = self.get(*role).map(Array2::dim);
            if found != Some(expected.shape) && (found.is_some() || expected.is_required) {
                return Err(SupernetError::Parameter {
                    name: role.to_string(),
                    found,
                    expected: expected.shape,
                });
            }
        }
        match self
            .tensors
            .keys()
            .find(|role| !expected.contains_key(role))
        {
            Some(role) => Err(SupernetError::Parameter {
                name: role.to_string(),
                found: self.get(*role).map(Array2::dim),
                expected: (0, 0),
            }),
            None => Ok(()),
        }
    }

    /// Their tensors by name, for a file; `prefix` comes before every name.
    pub(crate) fn named(&self, prefix: &str) -> Vec<(String, Numbers<'_>)> {
        let tensors = self.tensors.iter();
        tensors
            .map(|(role, tensor)| (format!("{prefix}{role}"), Numbers::borrowed(tensor)))
            .collect()
    }

    /// Reads what [`Self::named`] gave to a file, of a sub-network of `config`.
    pub(crate) fn read(
        file: &TensorFile,
        prefix: &str,
        model: &ModelConfig,
        config: &SubnetConfig,
    ) -> Result<Self, SupernetError> {
        Self::read_some(file, prefix, model, config, |_| true)
    }

    /// The same of what [`Self::vectors`] gave.
    pub(crate) fn read_vectors(
        file: &TensorFile,
        prefix: &str,
        model: &ModelConfig,
        config: &SubnetConfig,
    ) -> Result<Self, SupernetError> {
        Self::read_some(file, prefix, model, config, Role::is_vector)
    }

    fn read_some(
        file: &TensorFile,
        prefix: &str,
        model: &ModelConfig,
        config: &SubnetConfig,
        is_wanted: impl Fn(Role) -> bool,
    ) -> Result<Self, SupernetError> {
        config.check(model)?;
        let mut tensors = BTreeMap::new();
        for (role, expected) in shapes(model, config) {
            if !is_wanted(role) {
                continue;
            }
            let name = format!("{prefix}{role}");
            if expected.is_required || file.has(&name) {
                tensors.insert(role, file.matrix_of(&name, expected.shape)?);
            }
        }
        Ok(Self { tensors })
    }

    /// Writes the weights as a safetensors file, whole or not at all. `supernet` is what they belong
    /// to: its matrices at both ends are not in the file, but told by their digest.
    ///
    /// # Errors
    /// When the disk does not take the file.
    pub fn save(&self, path: &Path, supernet: &Supernet) -> Result<(), SupernetError> {
        // A single field: several would stand in another order every time.
        let format = format!("{PRESENT_FORMAT}{}", supernet.ends_digest());
        let metadata = HashMap::from([(FORMAT.to_owned(), format)]);
        write_with(path, |temporary| {
            safetensors::serialize_to_file(self.named(""), Some(metadata), temporary)
                .map_err(std::io::Error::other)
        })
    }

    /// Reads the weights of a sub-network of `config` that [`Self::save`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read, does not hold such weights, or belongs to another model.
    pub fn load(
        path: &Path,
        supernet: &Supernet,
        config: &SubnetConfig,
    ) -> Result<Self, SupernetError> {
        let file = TensorFile::open(path)?;
        let fields = file.fields();
        let format = fields.get(FORMAT);
        let Some(ends) = format.and_then(|format| format.strip_prefix(PRESENT_FORMAT)) else {
            return Err(file.format("these are no weights of a trained sub-network"));
        };
        if ends != supernet.ends_digest() {
            return Err(file.format(
                "the weights were trained with another model's embedding: give the same --model",
            ));
        }
        Self::read(&file, "", supernet.model(), config)
    }
}

/// Name of the metadata field that says what a file is.
const FORMAT: &str = "format";
/// Weights of a sub-network of its own; the digest of the model's embedding and LM head follows.
const PRESENT_FORMAT: &str = "lathe sub-network 1, ends ";

/// What is known of a tensor beforehand.
pub(crate) struct Expected {
    pub shape: (usize, usize),
    pub is_required: bool,
}

/// The tensors of a sub-network. The biases that stand for what was cut away may be absent.
pub(crate) fn shapes(model: &ModelConfig, config: &SubnetConfig) -> BTreeMap<Role, Expected> {
    let mut shapes = BTreeMap::new();
    let mut add = |role, rows, columns, is_required| {
        let shape = (rows, columns);
        shapes.insert(role, Expected { shape, is_required });
    };
    let (hidden, head_dim) = (model.hidden_size, model.head_dim);
    for (index, layer) in config.layers.iter().enumerate() {
        let role = |part| Role::Layer(index, part);
        if let Some(block) = layer.attention {
            let (width, kv_width) = (block.heads * head_dim, block.kv_heads * head_dim);
            add(role(Part::AttentionNorm), 1, hidden, true);
            add(role(Part::Query), hidden, width, true);
            add(role(Part::Key), hidden, kv_width, true);
            add(role(Part::Value), hidden, kv_width, true);
            add(role(Part::Output), width, hidden, true);
            if model.qkv_bias {
                add(role(Part::QueryBias), 1, width, true);
                add(role(Part::KeyBias), 1, kv_width, true);
                add(role(Part::ValueBias), 1, kv_width, true);
            }
            if model.qk_norm {
                add(role(Part::QueryNorm), 1, head_dim, true);
                add(role(Part::KeyNorm), 1, head_dim, true);
            }
            if model.post_norms {
                add(role(Part::AttentionPostNorm), 1, hidden, true);
            }
        }
        add(role(Part::AttentionBias), 1, hidden, false);
        if let Some(block) = layer.mlp {
            add(role(Part::MlpNorm), 1, hidden, true);
            add(role(Part::Gate), hidden, block.intermediate_size, true);
            add(role(Part::Up), hidden, block.intermediate_size, true);
            add(role(Part::Down), block.intermediate_size, hidden, true);
            if model.post_norms {
                add(role(Part::MlpPostNorm), 1, hidden, true);
            }
        }
        add(role(Part::MlpBias), 1, hidden, false);
    }
    add(Role::FinalNorm, 1, hidden, true);
    shapes
}
