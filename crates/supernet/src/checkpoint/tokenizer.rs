//! Text to token ids and back, on the `tokenizers` crate.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::CheckpointError;
use super::error::At;
use super::gguf::{Fields, Header, Value};
use super::sentencepiece::{self, Pieces};

/// GGUF's token types (llama.cpp, `llama_token_type`).
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// The splitting pattern of Llama 3.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The splitting pattern of Qwen2, which Qwen2.5 and Qwen3 have too.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A text that cannot be split into tokens.
#[derive(Debug, thiserror::Error)]
#[error("the text that begins with {start:?} cannot be tokenized: {reason}")]
pub struct TokenizeError {
    /// Where the text begins.
    pub start: String,
    /// What the tokenizer says.
    pub reason: String,
}

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    vocab_size: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    text_start: Option<u32>,
    chat_template: Option<String>,
}

impl Tokenizer {
    /// Token ids of `text`, without adding any special token.
    ///
    /// # Errors
    /// When the splitting pattern gives up on the text, as it may on pathological input, or the
    /// model has no row for a token of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let refused = |reason: String| TokenizeError {
            start: text.chars().take(40).collect(),
            reason,
        };
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| refused(error.to_string()))?;
        let ids = encoding.get_ids();
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids.to_vec()),
            Some(id) => {
                let size = self.vocab_size;
                let reason = format!("token id {id} is outside the model's vocabulary of {size}");
                Err(refused(reason))
            }
        }
    }

    /// The text of token ids, special tokens included.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// The token that begins a text, where the model has one.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The token that ends a text, where the model has one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// The token that the tokenizer puts before every text, where it does: Gemma has hardly seen a
    /// text without it.
    pub fn text_start(&self) -> Option<u32> {
        self.text_start
    }

    /// The text of one token as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The chat template (Jinja), where the checkpoint has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The contents of a `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The contents of a `tokenizer_config.json`, which goes with it.
    pub fn config(&self, model_max_length: usize) -> Json {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            "clean_up_tokenization_spaces": false,
        });
        let token = |id: Option<u32>| id.and_then(|id| self.token(id));
        // onnxruntime-genai refuses a null where it expects a text.
        for (field, value) in [
            ("bos_token", token(self.bos_token_id)),
            ("eos_token", token(self.eos_token_id)),
            ("chat_template", self.chat_template.clone()),
        ] {
            if let Some(value) = value {
                config[field] = json!(value);
            }
        }
        config
    }

    pub(super) fn from_file(path: &Path, vocab_size: usize) -> Result<Self, CheckpointError> {
        let json = std::fs::read_to_string(path).map_err(|source| At(path).io(source))?;
        let settings = read_settings(path)?;
        let special = |field: &str| match &settings[field] {
            Json::String(text) => Some(text.clone()),
            Json::Object(token) => token.get("content")?.as_str().map(str::to_owned),
            _ => None,
        };
        let mut tokenizer = Self::from_json(At(path), json, vocab_size)?;
        let id = |token: Option<String>| tokenizer.inner.token_to_id(&token?);
        (tokenizer.bos_token_id, tokenizer.eos_token_id) =
            (id(special("bos_token")), id(special("eos_token")));
        let nothing = tokenizer.inner.encode_fast("", true);
        let nothing = nothing.map_err(|error| At(path).damaged(error.to_string()))?;
        let start = tokenizer.bos_token_id;
        tokenizer.text_start = start.filter(|start| nothing.get_ids().first() == Some(start));
        tokenizer.chat_template = settings["chat_template"].as_str().map(str::to_owned);
        Ok(tokenizer)
    }

    pub(super) fn from_gguf(
        path: &Path,
        header: &Header,
        vocab_size: usize,
    ) -> Result<Self, CheckpointError> {
        let at = At(path);
        let fields = super::gguf::Fields::new(path, header);
        let tokens = fields.strings("tokenizer.ggml.tokens")?;
        let types = numbers(at, &fields, "tokenizer.ggml.token_type", tokens)?.unwrap_or(&[]);
        let json = match fields.text("tokenizer.ggml.model")? {
            "gpt2" => byte_level_json(at, &fields, tokens, types)?,
            "llama" => sentencepiece_json(at, &fields, tokens, types)?,
            other => {
                let supported = "gpt2 (byte-level BPE), llama (SentencePiece BPE)";
                let reason = format!("`{other}` is not supported; supported: {supported}");
                return Err(at.field("tokenizer.ggml.model", reason));
            }
        };
        let mut tokenizer = Self::from_json(at, json.to_string(), vocab_size)?;
        let id = |field: &str| match fields.get(field) {
            Some(Value::Unsigned(id)) if *id < vocab_size as u64 => Ok(Some(*id as u32)),
            None => Ok(None),
            Some(_) => Err(at.field(field, "expected a token id")),
        };
        tokenizer.bos_token_id = id("tokenizer.ggml.bos_token_id")?;
        tokenizer.eos_token_id = id("tokenizer.ggml.eos_token_id")?;
        let adds_start = fields.get("tokenizer.ggml.add_bos_token") == Some(&Value::Bool(true));
        tokenizer.text_start = tokenizer.bos_token_id.filter(|_| adds_start);
        if let Some(Value::String(template)) = fields.get("tokenizer.chat_template") {
            tokenizer.chat_template = Some(template.clone());
        }
        Ok(tokenizer)
    }

    fn from_json(at: At<'_>, json: String, vocab_size: usize) -> Result<Self, CheckpointError> {
        let checked = serde_json::from_str::<Checked>(&json);
        checked.map_err(|error| at.damaged(format!("tokenizer: {error}")))?;
        let inner = tokenizers::Tokenizer::from_bytes(&json);
        let inner = inner.map_err(|error| at.damaged(format!("tokenizer: {error}")))?;
        // Tokens that were added may lie outside: small Gemma models have no row for the one that
        // stands for images. A text with such a token is refused.
        let largest = inner.get_vocab(false).into_values().max().unwrap_or(0);
        if largest as usize >= vocab_size {
            let reason =
                format!("token id {largest} is outside the model's vocabulary of {vocab_size}");
            return Err(at.field("tokenizer", reason));
        }
        Ok(Self {
            inner,
            json,
            vocab_size,
            bos_token_id: None,
            eos_token_id: None,
            text_start: None,
            chat_template: None,
        })
    }
}

/// What has to be sound JSON before the tokenizers crate reads it: it does not expect otherwise of a
/// decoder, and panics.
#[derive(Deserialize)]
struct Checked {
    #[serde(rename = "decoder", default)]
    _decoder: Json,
}

/// `tokenizer_config.json` beside `tokenizer.json`, where there is one.
fn read_settings(tokenizer: &Path) -> Result<Json, CheckpointError> {
    let path = tokenizer.with_file_name("tokenizer_config.json");
    if !path.exists() {
        return Ok(Json::Null);
    }
    let at = At(&path);
    let text = std::fs::read_to_string(&path).map_err(|source| at.io(source))?;
    serde_json::from_str(&text).map_err(|error| at.damaged(error.to_string()))
}

/// A list with one number a token, where there is one.
fn numbers<'a>(
    at: At<'_>,
    fields: &Fields<'a>,
    field: &str,
    tokens: &[String],
) -> Result<Option<&'a [f64]>, CheckpointError> {
    match fields.get(field) {
        Some(Value::Numbers(numbers)) if numbers.len() == tokens.len() => Ok(Some(numbers)),
        Some(_) => Err(at.field(field, "expected one number a token")),
        None => Ok(None),
    }
}

/// The `tokenizer.json` of a byte-level BPE tokenizer.
fn byte_level_json(
    at: At<'_>,
    fields: &Fields<'_>,
    tokens: &[String],
    types: &[f64],
) -> Result<Json, CheckpointError> {
    let merges = fields.strings("tokenizer.ggml.merges")?;
    let pre = match fields.get("tokenizer.ggml.pre") {
        Some(_) => fields.text("tokenizer.ggml.pre")?,
        None => "default",
    };
    let (pre_tokenizer, ignore_merges) = pre_tokenizer(at, pre)?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(tokens, types),
        "normalizer": normalizer(pre),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": ignore_merges,
            "vocab": vocabulary(at, tokens)?,
            "merges": merges,
        },
    }))
}

/// The `tokenizer.json` of a SentencePiece tokenizer.
fn sentencepiece_json(
    at: At<'_>,
    fields: &Fields<'_>,
    tokens: &[String],
    types: &[f64],
) -> Result<Json, CheckpointError> {
    let field = "tokenizer.ggml.scores";
    let scores = numbers(at, fields, field, tokens)?;
    let scores = scores.ok_or_else(|| at.field(field, "it is missing"))?;
    let pieces = Pieces {
        tokens,
        scores,
        types,
    };
    let adds_prefix = fields.get("tokenizer.ggml.add_space_prefix") != Some(&Value::Bool(false));
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(tokens, types),
        "normalizer": sentencepiece::normalizer(adds_prefix),
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": sentencepiece::decoder(),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": pieces.unknown(),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary(at, tokens)?,
            "merges": pieces.merges(),
        },
    }))
}

/// How text is split before merging, by llama.cpp's name (llama-vocab.cpp), and whether a whole
/// piece that is in the vocabulary is taken without merging.
fn pre_tokenizer(at: At<'_>, name: &str) -> Result<(Json, bool), CheckpointError> {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let sequence = |parts: Json| json!({"type": "Sequence", "pretokenizers": parts});
    Ok(match name {
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (sequence(json!([digits, byte_level(true)])), false)
        }
        "gpt-2" | "default" => (byte_level(true), false),
        "llama-bpe" | "llama3" | "llama-v3" => {
            let split = split(LLAMA3_PATTERN);
            (sequence(json!([split, byte_level(false)])), true)
        }
        "qwen2" => {
            let split = split(QWEN2_PATTERN);
            (sequence(json!([split, byte_level(false)])), false)
        }
        other => {
            let reason = format!(
                "`{other}` is not supported; supported: smollm, gpt-2, default, llama-bpe, qwen2"
            );
            return Err(at.field("tokenizer.ggml.pre", reason));
        }
    })
}

/// What is done to a text before it is split, by llama.cpp's name of the splitting.
fn normalizer(pre: &str) -> Json {
    match pre {
        "qwen2" => json!({"type": "NFC"}),
        _ => Json::Null,
    }
}

fn vocabulary(at: At<'_>, tokens: &[String]) -> Result<Json, CheckpointError> {
    let mut vocabulary = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert(token.clone(), json!(id)).is_some() {
            let reason = format!("token {id}, {token:?}, stands twice");
            return Err(at.field("tokenizer.ggml.tokens", reason));
        }
    }
    Ok(Json::Object(vocabulary))
}

/// Control tokens and the user's own are matched in the text before it is split.
fn added_tokens(tokens: &[String], types: &[f64]) -> Vec<Json> {
    let added = tokens.iter().zip(types).enumerate();
    added
        .filter(|(_, (_, kind))| **kind == CONTROL || **kind == USER_DEFINED)
        .map(|(id, (token, kind))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *kind == CONTROL,
            })
        })
        .collect()
}
