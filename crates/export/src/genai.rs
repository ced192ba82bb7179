//! `genai_config.json` and `tokenizer_config.json`, as onnxruntime-genai reads them.

use lathe_arch::{Family, ModelConfig, SubnetConfig};
use lathe_supernet::checkpoint::Tokenizer;
use serde_json::{Value, json};

/// The configuration of the decoder. The number of KV heads here is the model's; genai takes
/// each layer's own from the graph's inputs.
pub fn config(model: &ModelConfig, subnet: &SubnetConfig, tokenizer: Option<&Tokenizer>) -> Value {
    let eos = tokenizer.and_then(Tokenizer::eos_token_id).unwrap_or(0);
    let bos = tokenizer.and_then(Tokenizer::bos_token_id).unwrap_or(eos);
    let mut inputs = json!({"input_ids": "input_ids", "attention_mask": "attention_mask"});
    let mut outputs = json!({"logits": "logits"});
    if subnet.layers.iter().any(|layer| layer.attention.is_some()) {
        inputs["past_key_names"] = json!("past_key_values.%d.key");
        inputs["past_value_names"] = json!("past_key_values.%d.value");
        outputs["present_key_names"] = json!("present.%d.key");
        outputs["present_value_names"] = json!("present.%d.value");
    }
    json!({
        "model": {
            "type": model_type(model.family),
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": eos,
            "vocab_size": model.vocab_size,
            "context_length": model.max_position_embeddings,
            "decoder": {
                "filename": lathe_onnx::MODEL_FILE,
                "head_size": model.head_dim,
                "hidden_size": model.hidden_size,
                "num_attention_heads": model.num_attention_heads,
                "num_key_value_heads": model.num_key_value_heads,
                "num_hidden_layers": model.num_hidden_layers,
                "inputs": inputs,
                "outputs": outputs,
                "session_options": {"provider_options": []},
            },
        },
        "search": {
            "do_sample": false,
            "max_length": model.max_position_embeddings,
            "num_beams": 1,
            "past_present_share_buffer": true,
        },
    })
}

/// genai's name of a family.
fn model_type(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 => "gemma3_text",
    }
}
