//! Safetensors files: a header of JSON, then the numbers.

use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{bytes, changed, one_in, tree};

/// Largest file that is made longer to hold the tensors that its header speaks of.
const MAX_BYTES: u64 = 1 << 20;

/// Changes the header, its length, or the numbers.
pub fn mutate(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let (length, rest) = input.split_at_checked(8)?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let (header, data) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let (mut header, mut data) = (header.to_vec(), data.to_vec());
    if one_in(rng, 8) {
        data = bytes(&data, rng);
    } else {
        header = tree::json(&header, rng)?;
    }
    if one_in(rng, 2) {
        lay_out(&mut header, &mut data);
    }
    let mut length = header.len() as u64;
    if one_in(rng, 12) {
        length = changed(rng, length);
    }
    Some([&length.to_le_bytes()[..], &header, &data].concat())
}

/// Gives each tensor as many bytes as its shape calls for, one after the other.
fn lay_out(header: &mut Vec<u8>, data: &mut Vec<u8>) {
    let Ok(Value::Object(mut tensors)) = serde_json::from_slice(header) else {
        return;
    };
    let mut end = 0u64;
    for (_, info) in tensors
        .iter_mut()
        .filter(|(name, _)| *name != "__metadata__")
    {
        let width = match info["dtype"].as_str() {
            Some("F64" | "I64" | "U64") => 8,
            Some("F32" | "I32" | "U32") => 4,
            Some("F16" | "BF16" | "I16" | "U16") => 2,
            _ => 1,
        };
        let sizes = info["shape"].as_array().into_iter().flatten();
        let bytes = sizes.fold(width, |product: u64, size| {
            product.saturating_mul(size.as_u64().unwrap_or(1))
        });
        let next = end.saturating_add(bytes);
        if next > MAX_BYTES || !info.is_object() {
            return;
        }
        info["data_offsets"] = json!([end, next]);
        end = next;
    }
    data.resize(end as usize, 0);
    if let Ok(text) = serde_json::to_vec(&tensors) {
        *header = text;
    }
}
