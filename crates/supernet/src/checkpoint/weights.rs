use lathe_arch::ModelConfig;
use ndarray::{Array1, Array2};

use super::CheckpointError;

/// All weights of a model in f32, matrices `[out, in]` as Hugging Face stores them, query and
/// key rows in half-rotation order.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelWeights {
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: Array2<f32>,
    /// One entry a layer.
    pub layers: Vec<LayerWeights>,
    /// Gain of the final norm, `[hidden_size]`.
    pub norm: Array1<f32>,
    /// `[vocab_size, hidden_size]`; absent when it is the embedding.
    pub lm_head: Option<Array2<f32>>,
}

/// The weights of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// Gain of the norm before attention, `[hidden_size]`.
    pub input_layernorm: Array1<f32>,
    /// `[heads * head_dim, hidden_size]`
    pub q_proj: Array2<f32>,
    /// `[kv_heads * head_dim, hidden_size]`
    pub k_proj: Array2<f32>,
    /// `[kv_heads * head_dim, hidden_size]`
    pub v_proj: Array2<f32>,
    /// `[hidden_size, heads * head_dim]`
    pub o_proj: Array2<f32>,
    /// Gain of the norm before the MLP, `[hidden_size]`.
    pub post_attention_layernorm: Array1<f32>,
    /// `[intermediate_size, hidden_size]`
    pub gate_proj: Array2<f32>,
    /// `[intermediate_size, hidden_size]`
    pub up_proj: Array2<f32>,
    /// `[hidden_size, intermediate_size]`
    pub down_proj: Array2<f32>,
    /// Where [`ModelConfig::qkv_bias`] says so.
    pub qkv_bias: Option<QkvBias>,
    /// Where [`ModelConfig::qk_norm`] says so.
    pub qk_norm: Option<QkNorm>,
    /// Where [`ModelConfig::post_norms`] says so.
    pub post_norms: Option<PostNorms>,
}

/// Biases of the projections into attention.
#[derive(Debug, Clone, PartialEq)]
pub struct QkvBias {
    /// `[heads * head_dim]`
    pub q: Vec<f32>,
    /// `[kv_heads * head_dim]`
    pub k: Vec<f32>,
    /// `[kv_heads * head_dim]`
    pub v: Vec<f32>,
}

/// Gains of the norms that every query and every key head passes before it is turned.
#[derive(Debug, Clone, PartialEq)]
pub struct QkNorm {
    /// `[head_dim]`
    pub q: Vec<f32>,
    /// `[head_dim]`
    pub k: Vec<f32>,
}

/// Gains of the norms that the blocks' outputs pass before they are added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct PostNorms {
    /// `[hidden_size]`
    pub attention: Vec<f32>,
    /// `[hidden_size]`
    pub mlp: Vec<f32>,
}

/// The tensors of a model by what they are; each format has its own names for them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Embedding,
    FinalNorm,
    LmHead,
    InputNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    Output(usize),
    PostAttentionNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
    QueryBias(usize),
    KeyBias(usize),
    ValueBias(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    AttentionPostNorm(usize),
    MlpPostNorm(usize),
}

impl Role {
    /// Whether it is the gain of a norm.
    pub fn is_gain(self) -> bool {
        match self {
            Role::FinalNorm
            | Role::InputNorm(_)
            | Role::PostAttentionNorm(_)
            | Role::QueryNorm(_)
            | Role::KeyNorm(_)
            | Role::AttentionPostNorm(_)
            | Role::MlpPostNorm(_) => true,
            Role::Embedding
            | Role::LmHead
            | Role::Query(_)
            | Role::Key(_)
            | Role::Value(_)
            | Role::Output(_)
            | Role::Gate(_)
            | Role::Up(_)
            | Role::Down(_)
            | Role::QueryBias(_)
            | Role::KeyBias(_)
            | Role::ValueBias(_) => false,
        }
    }
}

/// Where tensors come from.
pub(super) trait TensorSource {
    /// The tensor's values, `rows * cols` of them, row-major; `rows` is 1 for vectors.
    fn read(&mut self, role: Role, rows: usize, cols: usize) -> Result<Vec<f32>, CheckpointError>;
}

impl ModelWeights {
    /// Number of weights, a shared matrix counted once.
    pub fn parameters(&self) -> u64 {
        let head = self.lm_head.as_ref().map_or(0, Array2::len);
        let ends = self.embed_tokens.len() + self.norm.len() + head;
        let layers: usize = self.layers.iter().map(LayerWeights::parameters).sum();
        (ends + layers) as u64
    }

    pub(super) fn read(
        source: &mut dyn TensorSource,
        model: &ModelConfig,
    ) -> Result<Self, CheckpointError> {
        let (vocab, hidden) = (model.vocab_size, model.hidden_size);
        let embed_tokens = matrix(source, Role::Embedding, vocab, hidden)?;
        let lm_head = match model.tie_word_embeddings {
            true => None,
            false => Some(matrix(source, Role::LmHead, vocab, hidden)?),
        };
        let layers = 0..model.num_hidden_layers;
        Ok(Self {
            embed_tokens,
            layers: layers
                .map(|layer| LayerWeights::read(source, model, layer))
                .collect::<Result<_, _>>()?,
            norm: vector(source, Role::FinalNorm, hidden)?,
            lm_head,
        })
    }
}

impl LayerWeights {
    fn parameters(&self) -> usize {
        let matrices = [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ];
        let matrices: usize = matrices.iter().map(|m| m.len()).sum();
        let biases = self.qkv_bias.iter().flat_map(|b| [&b.q, &b.k, &b.v]);
        let heads = self.qk_norm.iter().flat_map(|norm| [&norm.q, &norm.k]);
        let outputs = self.post_norms.iter().flat_map(|n| [&n.attention, &n.mlp]);
        let vectors: usize = biases.chain(heads).chain(outputs).map(Vec::len).sum();
        matrices + vectors + self.input_layernorm.len() + self.post_attention_layernorm.len()
    }

    fn read(
        source: &mut dyn TensorSource,
        model: &ModelConfig,
        layer: usize,
    ) -> Result<Self, CheckpointError> {
        let hidden = model.hidden_size;
        let width = model.num_attention_heads * model.head_dim;
        let kv_width = model.num_key_value_heads * model.head_dim;
        let intermediate = model.intermediate_size;
        Ok(Self {
            input_layernorm: vector(source, Role::InputNorm(layer), hidden)?,
            q_proj: matrix(source, Role::Query(layer), width, hidden)?,
            k_proj: matrix(source, Role::Key(layer), kv_width, hidden)?,
            v_proj: matrix(source, Role::Value(layer), kv_width, hidden)?,
            o_proj: matrix(source, Role::Output(layer), hidden, width)?,
            post_attention_layernorm: vector(source, Role::PostAttentionNorm(layer), hidden)?,
            gate_proj: matrix(source, Role::Gate(layer), intermediate, hidden)?,
            up_proj: matrix(source, Role::Up(layer), intermediate, hidden)?,
            down_proj: matrix(source, Role::Down(layer), hidden, intermediate)?,
            qkv_bias: when(model.qkv_bias, || {
                Ok(QkvBias {
                    q: source.read(Role::QueryBias(layer), 1, width)?,
                    k: source.read(Role::KeyBias(layer), 1, kv_width)?,
                    v: source.read(Role::ValueBias(layer), 1, kv_width)?,
                })
            })?,
            qk_norm: when(model.qk_norm, || {
                Ok(QkNorm {
                    q: source.read(Role::QueryNorm(layer), 1, model.head_dim)?,
                    k: source.read(Role::KeyNorm(layer), 1, model.head_dim)?,
                })
            })?,
            post_norms: when(model.post_norms, || {
                Ok(PostNorms {
                    attention: source.read(Role::AttentionPostNorm(layer), 1, hidden)?,
                    mlp: source.read(Role::MlpPostNorm(layer), 1, hidden)?,
                })
            })?,
        })
    }
}

/// What `read` gives where the model has it.
fn when<T>(
    has: bool,
    read: impl FnOnce() -> Result<T, CheckpointError>,
) -> Result<Option<T>, CheckpointError> {
    has.then(read).transpose()
}

fn vector(
    source: &mut dyn TensorSource,
    role: Role,
    len: usize,
) -> Result<Array1<f32>, CheckpointError> {
    Ok(Array1::from_vec(source.read(role, 1, len)?))
}

fn matrix(
    source: &mut dyn TensorSource,
    role: Role,
    rows: usize,
    cols: usize,
) -> Result<Array2<f32>, CheckpointError> {
    let values = source.read(role, rows, cols)?;
    Ok(Array2::from_shape_vec((rows, cols), values)
        .expect("a tensor source gives rows x cols values"))
}
