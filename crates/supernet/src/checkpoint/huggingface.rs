//! Hugging Face folders: `config.json`, safetensors in one file or in shards, `tokenizer.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use lathe_arch::Family;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::error::At;
use super::weights::{Role, TensorSource};
use super::{Checkpoint, CheckpointError, ModelWeights, Tokenizer, config_json};

/// Largest JSON file read whole.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Name of the embedding below the model's prefix.
const EMBEDDING: &str = "embed_tokens.weight";
/// What stands before the names of a language model's tensors, alone or inside a larger model.
const PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];

pub(super) fn load(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let config = config_json::read(&folder.join("config.json"))?;
    let mut tensors = Tensors::open(folder)?;
    tensors.has_post_norms = config.post_norms;
    tensors.gain_offset = gain_offset(config.family);
    let weights = ModelWeights::read(&mut tensors, &config)?;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"), config.vocab_size)?;
    Ok(Checkpoint {
        path: folder.to_owned(),
        config,
        weights,
        tokenizer,
    })
}

/// The tensors of a folder, one shard in memory at a time.
struct Tensors {
    shard_of: BTreeMap<String, PathBuf>,
    loaded: Option<(PathBuf, Vec<u8>)>,
    folder: PathBuf,
    prefix: &'static str,
    has_post_norms: bool,
    /// Added to every gain.
    gain_offset: f32,
}

impl Tensors {
    fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join("model.safetensors");
        let shard_of = if single.exists() {
            names_in(&single)?
        } else {
            read_index(folder)?
        };
        let has_embedding = |prefix: &&str| shard_of.contains_key(&format!("{prefix}{EMBEDDING}"));
        let prefix = PREFIXES.into_iter().find(has_embedding);
        Ok(Self {
            prefix: prefix.unwrap_or(PREFIXES[0]),
            shard_of,
            loaded: None,
            folder: folder.to_owned(),
            has_post_norms: false,
            gain_offset: 0.0,
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
        let name = tensor_name(self.prefix, role, self.has_post_norms);
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
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(at.tensor(&name, format!("value {index} is {}", values[index])));
        }
        if role.is_gain() && self.gain_offset != 0.0 {
            return Ok(values.iter().map(|gain| gain + self.gain_offset).collect());
        }
        Ok(values)
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

/// transformers calls Gemma's norm after attention as Llama's norm before the MLP.
pub(super) fn tensor_name(prefix: &str, role: Role, has_post_norms: bool) -> String {
    let layer = |layer: usize, rest: &str| format!("{prefix}layers.{layer}.{rest}");
    match role {
        Role::Embedding => format!("{prefix}{EMBEDDING}"),
        Role::FinalNorm => format!("{prefix}norm.weight"),
        Role::LmHead => "lm_head.weight".to_owned(),
        Role::InputNorm(l) => layer(l, "input_layernorm.weight"),
        Role::Query(l) => layer(l, "self_attn.q_proj.weight"),
        Role::Key(l) => layer(l, "self_attn.k_proj.weight"),
        Role::Value(l) => layer(l, "self_attn.v_proj.weight"),
        Role::Output(l) => layer(l, "self_attn.o_proj.weight"),
        Role::PostAttentionNorm(l) if has_post_norms => {
            layer(l, "pre_feedforward_layernorm.weight")
        }
        Role::PostAttentionNorm(l) => layer(l, "post_attention_layernorm.weight"),
        Role::Gate(l) => layer(l, "mlp.gate_proj.weight"),
        Role::Up(l) => layer(l, "mlp.up_proj.weight"),
        Role::Down(l) => layer(l, "mlp.down_proj.weight"),
        Role::QueryBias(l) => layer(l, "self_attn.q_proj.bias"),
        Role::KeyBias(l) => layer(l, "self_attn.k_proj.bias"),
        Role::ValueBias(l) => layer(l, "self_attn.v_proj.bias"),
        Role::QueryNorm(l) => layer(l, "self_attn.q_norm.weight"),
        Role::KeyNorm(l) => layer(l, "self_attn.k_norm.weight"),
        Role::AttentionPostNorm(l) => layer(l, "post_attention_layernorm.weight"),
        Role::MlpPostNorm(l) => layer(l, "post_feedforward_layernorm.weight"),
    }
}

/// What a folder's gains lack: Gemma's norms multiply by `1 + weight` (modeling_gemma3.py).
fn gain_offset(family: Family) -> f32 {
    match family {
        Family::Llama | Family::Qwen2 | Family::Qwen3 => 0.0,
        Family::Gemma3 => 1.0,
    }
}

/// Reads a file of JSON.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, CheckpointError> {
    let at = At(path);
    let len = fs::metadata(path).map_err(|source| at.io(source))?.len();
    if len > MAX_JSON_BYTES {
        return Err(at.damaged(format!("{len} bytes, at most {MAX_JSON_BYTES} are read")));
    }
    let bytes = fs::read(path).map_err(|source| at.io(source))?;
    serde_json::from_slice(&bytes).map_err(|error| at.damaged(error.to_string()))
}
