//! Hugging Face folders: `config.json`, safetensors in one file or in shards, `tokenizer.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use lathe_arch::{Family, ModelConfig, RopeScaling};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::error::At;
use super::weights::{Role, TensorSource};
use super::{Checkpoint, CheckpointError, ModelWeights, Tokenizer};

/// Largest JSON file read whole.
const MAX_JSON_BYTES: u64 = 64 << 20;

pub(super) fn load(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let config = read_config(&folder.join("config.json"))?;
    let mut tensors = Tensors::open(folder)?;
    let weights = ModelWeights::read(&mut tensors, &config)?;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"), config.vocab_size)?;
    Ok(Checkpoint {
        path: folder.to_owned(),
        config,
        weights,
        tokenizer,
    })
}

/// The fields of `config.json` that matter; transformers writes many more.
#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

pub(super) fn read_config(path: &Path) -> Result<ModelConfig, CheckpointError> {
    let at = At(path);
    let raw: RawConfig = read_json(path)?;
    let unsupported = |field: &str, found: &str, supported: &str| {
        Err(at.field(
            field,
            format!("`{found}` is not supported; supported: {supported}"),
        ))
    };
    if raw.model_type != "llama" {
        return unsupported("model_type", &raw.model_type, "llama");
    }
    if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != "silu") {
        return unsupported("hidden_act", act, "silu");
    }
    for (field, is_set) in [
        ("attention_bias", raw.attention_bias),
        ("mlp_bias", raw.mlp_bias),
    ] {
        if is_set {
            return unsupported(field, "true", "false");
        }
    }
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let default_head_dim = raw.hidden_size.checked_div(raw.num_attention_heads);
    let config = ModelConfig {
        family: Family::Llama,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: raw.num_attention_heads,
        num_key_value_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim: raw.head_dim.or(default_head_dim).unwrap_or(0),
        max_position_embeddings: raw.max_position_embeddings,
        rope_theta: raw
            .rope_theta
            .or(rope.and_then(|rope| rope.rope_theta))
            .unwrap_or(10_000.0),
        rope_scaling: rope_scaling(at, rope)?,
        rms_norm_eps: raw.rms_norm_eps,
        tie_word_embeddings: raw.tie_word_embeddings,
    };
    config.validate().map_err(|source| at.model(source))?;
    Ok(config)
}

fn rope_scaling(at: At<'_>, rope: Option<&RawRope>) -> Result<RopeScaling, CheckpointError> {
    let kind = rope.and_then(|rope| rope.rope_type.as_deref());
    let Some(rope) = rope.filter(|_| kind.is_some_and(|kind| kind != "default")) else {
        return Ok(RopeScaling::None);
    };
    if kind != Some("llama3") {
        let reason = format!(
            "`{}` is not supported; supported: default, llama3",
            kind.unwrap_or("")
        );
        return Err(at.field("rope_scaling.rope_type", reason));
    }
    let missing = |field: &'static str| at.field(field, "it is missing");
    Ok(RopeScaling::Llama3 {
        factor: rope.factor.ok_or_else(|| missing("rope_scaling.factor"))?,
        low_freq_factor: rope
            .low_freq_factor
            .ok_or_else(|| missing("rope_scaling.low_freq_factor"))?,
        high_freq_factor: rope
            .high_freq_factor
            .ok_or_else(|| missing("rope_scaling.high_freq_factor"))?,
        original_max_position_embeddings: rope
            .original_max_position_embeddings
            .ok_or_else(|| missing("rope_scaling.original_max_position_embeddings"))?,
    })
}

/// The tensors of a folder, one shard in memory at a time.
struct Tensors {
    shard_of: BTreeMap<String, PathBuf>,
    loaded: Option<(PathBuf, Vec<u8>)>,
    folder: PathBuf,
}

impl Tensors {
    fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join("model.safetensors");
        let shard_of = if single.exists() {
            names_in(&single)?
        } else {
            read_index(folder)?
        };
        Ok(Self {
            shard_of,
            loaded: None,
            folder: folder.to_owned(),
        })
    }
}

fn names_in(path: &Path) -> Result<BTreeMap<String, PathBuf>, CheckpointError> {
    let bytes = fs::read(path).map_err(|source| At(path).io(source))?;
    let tensors = parse(path, &bytes)?;
    let names = tensors.names().into_iter();
    Ok(names
        .map(|name| (name.to_owned(), path.to_owned()))
        .collect())
}

/// `model.safetensors.index.json`: which shard holds which tensor.
fn read_index(folder: &Path) -> Result<BTreeMap<String, PathBuf>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join("model.safetensors.index.json");
    if !path.exists() {
        let reason = "it holds neither model.safetensors nor model.safetensors.index.json";
        return Err(At(folder).damaged(reason));
    }
    let index: Index = read_json(&path)?;
    let entries = index.weight_map.into_iter().map(|(name, shard)| {
        let mut parts = Path::new(&shard).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(file)), None) => Ok((name, folder.join(file))),
            _ => Err(At(&path).field(
                &format!("weight_map.{name}"),
                format!("`{shard}` is not a file of this folder"),
            )),
        }
    });
    entries.collect()
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CheckpointError> {
    SafeTensors::deserialize(bytes).map_err(|error| At(path).damaged(error.to_string()))
}

impl TensorSource for Tensors {
    fn read(&mut self, role: Role, rows: usize, cols: usize) -> Result<Vec<f32>, CheckpointError> {
        let name = tensor_name(role);
        let missing = || At(&self.folder).tensor(&name, "it is missing");
        let path = self.shard_of.get(&name).cloned().ok_or_else(missing)?;
        if self
            .loaded
            .as_ref()
            .is_none_or(|(loaded, _)| *loaded != path)
        {
            let bytes = fs::read(&path).map_err(|source| At(&path).io(source))?;
            self.loaded = Some((path.clone(), bytes));
        }
        let bytes = self.loaded.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let tensors = parse(&path, bytes)?;
        let at = At(&path);
        let view = tensors.tensor(&name);
        let view = view.map_err(|error| at.tensor(&name, error.to_string()))?;
        let expected: &[usize] = if rows == 1 { &[cols] } else { &[rows, cols] };
        if view.shape() != expected {
            let found = view.shape();
            let reason = format!("its shape is {found:?}, expected {expected:?}");
            return Err(at.tensor(&name, reason));
        }
        let values = to_f32(view.dtype(), view.data()).ok_or_else(|| {
            let dtype = view.dtype();
            at.tensor(
                &name,
                format!("{dtype:?} is not supported; supported: F32, F16, BF16"),
            )
        })?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(at.tensor(&name, format!("value {index} is {}", values[index]))),
            None => Ok(values),
        }
    }
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}

fn tensor_name(role: Role) -> String {
    let layer = |layer: usize, rest: &str| format!("model.layers.{layer}.{rest}.weight");
    match role {
        Role::Embedding => "model.embed_tokens.weight".to_owned(),
        Role::FinalNorm => "model.norm.weight".to_owned(),
        Role::LmHead => "lm_head.weight".to_owned(),
        Role::InputNorm(l) => layer(l, "input_layernorm"),
        Role::Query(l) => layer(l, "self_attn.q_proj"),
        Role::Key(l) => layer(l, "self_attn.k_proj"),
        Role::Value(l) => layer(l, "self_attn.v_proj"),
        Role::Output(l) => layer(l, "self_attn.o_proj"),
        Role::PostAttentionNorm(l) => layer(l, "post_attention_layernorm"),
        Role::Gate(l) => layer(l, "mlp.gate_proj"),
        Role::Up(l) => layer(l, "mlp.up_proj"),
        Role::Down(l) => layer(l, "mlp.down_proj"),
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, CheckpointError> {
    let at = At(path);
    let len = fs::metadata(path).map_err(|source| at.io(source))?.len();
    if len > MAX_JSON_BYTES {
        return Err(at.damaged(format!("{len} bytes, at most {MAX_JSON_BYTES} are read")));
    }
    let bytes = fs::read(path).map_err(|source| at.io(source))?;
    serde_json::from_slice(&bytes).map_err(|error| at.damaged(error.to_string()))
}
