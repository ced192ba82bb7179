//! GGUF, llama.cpp's single-file format (ggml/docs/gguf.md).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use lathe_arch::{Family, ModelConfig};

mod config;
mod dequantize;
mod header;

pub use dequantize::TensorType;
pub use header::{Header, TensorInfo, Value};

use super::error::At;
use super::weights::{Role, TensorSource};
use super::{Checkpoint, CheckpointError, ModelWeights, Tokenizer};

pub(super) fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let (header, file) = open(path)?;
    let mut tensors = Tensors::new(path, file, &header);
    let config = config::model_config(path, &header, &mut tensors)?;
    tensors.model = Some(config.clone());
    let weights = ModelWeights::read(&mut tensors, &config)?;
    let tokenizer = Tokenizer::from_gguf(path, &header, config.vocab_size)?;
    Ok(Checkpoint {
        path: path.to_owned(),
        config,
        weights,
        tokenizer,
    })
}

pub(super) fn read_config(path: &Path) -> Result<ModelConfig, CheckpointError> {
    let (header, file) = open(path)?;
    config::model_config(path, &header, &mut Tensors::new(path, file, &header))
}

fn open(path: &Path) -> Result<(Header, File), CheckpointError> {
    let at = At(path);
    let file = File::open(path).map_err(|source| at.io(source))?;
    let size = file.metadata().map_err(|source| at.io(source))?.len();
    let mut reader = BufReader::new(file);
    let header = Header::read(&mut reader, size).map_err(|reason| at.damaged(reason))?;
    Ok((header, reader.into_inner()))
}

/// Metadata fields by name, with errors that name them.
pub(super) struct Fields<'a> {
    at: At<'a>,
    header: &'a Header,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, header: &'a Header) -> Self {
        Self {
            at: At(path),
            header,
        }
    }

    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.header.metadata.get(field)
    }

    pub fn text(&self, field: &str) -> Result<&'a str, CheckpointError> {
        match self.get(field) {
            Some(Value::String(text)) => Ok(text),
            found => Err(self.wrong(field, "a string", found)),
        }
    }

    pub fn strings(&self, field: &str) -> Result<&'a [String], CheckpointError> {
        match self.get(field) {
            Some(Value::Strings(strings)) => Ok(strings),
            found => Err(self.wrong(field, "a list of strings", found)),
        }
    }

    pub fn size(&self, field: &str) -> Result<usize, CheckpointError> {
        let found = self.get(field);
        let number = match found {
            Some(Value::Unsigned(n)) => usize::try_from(*n).ok(),
            Some(Value::Signed(n)) => usize::try_from(*n).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong(field, "a whole number", found))
    }

    pub fn size_or(&self, field: &str, default: usize) -> Result<usize, CheckpointError> {
        match self.get(field) {
            Some(_) => self.size(field),
            None => Ok(default),
        }
    }

    pub fn float(&self, field: &str) -> Result<f64, CheckpointError> {
        match self.get(field) {
            Some(Value::Float(x)) => Ok(*x),
            found => Err(self.wrong(field, "a floating point number", found)),
        }
    }

    fn wrong(&self, field: &str, expected: &str, found: Option<&Value>) -> CheckpointError {
        let found = found.map_or("it is missing", Value::kind);
        self.at
            .field(field, format!("expected {expected}, but {found}"))
    }
}

/// The tensors of one file.
struct Tensors<'a> {
    at: At<'a>,
    file: File,
    by_name: BTreeMap<&'a str, &'a TensorInfo>,
    model: Option<ModelConfig>,
}

impl<'a> Tensors<'a> {
    fn new(path: &'a Path, file: File, header: &'a Header) -> Self {
        let tensors = header.tensors.iter();
        Self {
            at: At(path),
            file,
            by_name: tensors.map(|info| (info.name.as_str(), info)).collect(),
            model: None,
        }
    }

    fn info(&self, name: &str) -> Result<&'a TensorInfo, CheckpointError> {
        let info = self.by_name.get(name).copied();
        info.ok_or_else(|| self.at.tensor(name, "it is missing"))
    }

    fn embedding_rows(&self) -> Result<usize, CheckpointError> {
        let info = self.info("token_embd.weight")?;
        match info.dimensions[..] {
            [_, rows] => Ok(rows),
            _ => Err(self.at.tensor(&info.name, "expected two dimensions")),
        }
    }

    fn values(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        let info = self.info(name)?;
        let expected: &[usize] = if rows == 1 { &[cols] } else { &[cols, rows] };
        if info.dimensions != expected {
            let found = &info.dimensions;
            let reason = format!("its dimensions are {found:?}, expected {expected:?}");
            return Err(self.at.tensor(name, reason));
        }
        let mut bytes = vec![0; info.byte_len];
        let read = self
            .file
            .seek(SeekFrom::Start(info.position))
            .and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| self.at.io(source))?;
        let values = info.tensor_type.dequantize(&bytes);
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let reason = format!("value {index} is {}", values[index]);
                Err(self.at.tensor(name, reason))
            }
            None => Ok(values),
        }
    }
}

impl TensorSource for Tensors<'_> {
    fn read(&mut self, role: Role, rows: usize, cols: usize) -> Result<Vec<f32>, CheckpointError> {
        let values = self.values(&tensor_name(role), rows, cols)?;
        let interleaved = self.model.as_ref().filter(|model| match model.family {
            Family::Llama => matches!(role, Role::Query(_) | Role::Key(_)),
            Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => false,
        });
        Ok(match interleaved {
            Some(model) => half_rotation_order(&values, model.head_dim, cols),
            None => values,
        })
    }
}

fn tensor_name(role: Role) -> String {
    match role {
        Role::Embedding => "token_embd.weight".to_owned(),
        Role::FinalNorm => "output_norm.weight".to_owned(),
        Role::LmHead => "output.weight".to_owned(),
        Role::InputNorm(layer) => format!("blk.{layer}.attn_norm.weight"),
        Role::Query(layer) => format!("blk.{layer}.attn_q.weight"),
        Role::Key(layer) => format!("blk.{layer}.attn_k.weight"),
        Role::Value(layer) => format!("blk.{layer}.attn_v.weight"),
        Role::Output(layer) => format!("blk.{layer}.attn_output.weight"),
        Role::PostAttentionNorm(layer) => format!("blk.{layer}.ffn_norm.weight"),
        Role::Gate(layer) => format!("blk.{layer}.ffn_gate.weight"),
        Role::Up(layer) => format!("blk.{layer}.ffn_up.weight"),
        Role::Down(layer) => format!("blk.{layer}.ffn_down.weight"),
        Role::QueryBias(layer) => format!("blk.{layer}.attn_q.bias"),
        Role::KeyBias(layer) => format!("blk.{layer}.attn_k.bias"),
        Role::ValueBias(layer) => format!("blk.{layer}.attn_v.bias"),
        Role::QueryNorm(layer) => format!("blk.{layer}.attn_q_norm.weight"),
        Role::KeyNorm(layer) => format!("blk.{layer}.attn_k_norm.weight"),
        Role::AttentionPostNorm(layer) => format!("blk.{layer}.post_attention_norm.weight"),
        Role::MlpPostNorm(layer) => format!("blk.{layer}.post_ffw_norm.weight"),
    }
}

/// llama.cpp turns neighbouring rows `(2i, 2i + 1)` of a Llama's head together, Hugging Face rows
/// `(i, i + head_dim / 2)`, as llama.cpp does in other architectures: puts the former's order into the latter's.
fn half_rotation_order(values: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * cols) {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                out.extend_from_slice(&head[(2 * i + half) * cols..][..cols]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_rows_come_before_odd_rows() {
        let rows: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let want = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        assert_eq!(half_rotation_order(&rows, 4, 1), want);
    }
}
