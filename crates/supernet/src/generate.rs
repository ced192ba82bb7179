//! Logits of a text, and greedy generation with a KV cache.

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward::{self, LayerCache};
use crate::engine::head;
use crate::engine::rope::RopeTable;
use crate::evaluate::check_tokens;

/// Logits at every position of one sequence, `[tokens, vocab]`.
///
/// # Errors
/// When a token lies outside the vocabulary or the sequence is longer than the context.
pub fn logits(subnet: &Subnet<'_>, tokens: &[u32]) -> Result<Vec<f32>, SupernetError> {
    check_tokens(subnet.supernet(), tokens, tokens.len())?;
    let model = subnet.supernet().model();
    let rope = RopeTable::new(model, tokens.len());
    let mut x = forward::embed(subnet, tokens);
    for layer in 0..model.num_hidden_layers {
        forward::layer(subnet, layer, &mut x, tokens.len(), &rope);
    }
    Ok(head::logits(subnet, &head::final_norm(subnet, &x)))
}

/// One sequence under generation: feeds tokens and keeps the keys and values of the past.
pub struct Decoder<'a, 'b> {
    subnet: &'b Subnet<'a>,
    caches: Vec<LayerCache>,
    past_len: usize,
    rope: RopeTable,
}

impl<'a, 'b> Decoder<'a, 'b> {
    /// A decoder for up to `max_tokens` tokens in all.
    ///
    /// # Errors
    /// When that is more than the model's context.
    pub fn new(subnet: &'b Subnet<'a>, max_tokens: usize) -> Result<Self, SupernetError> {
        check_tokens(subnet.supernet(), &[], max_tokens)?;
        let model = subnet.supernet().model();
        let caches = std::iter::repeat_with(LayerCache::default);
        Ok(Self {
            subnet,
            caches: caches.take(model.num_hidden_layers).collect(),
            past_len: 0,
            rope: RopeTable::new(model, max_tokens),
        })
    }

    /// Feeds the next tokens and returns the logits after the last of them, `[vocab]`.
    ///
    /// # Errors
    /// When `tokens` is empty, a token lies outside the vocabulary, or the decoder is full.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, SupernetError> {
        check_tokens(self.subnet.supernet(), tokens, tokens.len())?;
        if tokens.is_empty() || self.past_len + tokens.len() > self.rope.positions() {
            return Err(SupernetError::TooLong {
                tokens: self.past_len + tokens.len(),
                context: self.rope.positions(),
            });
        }
        let mut x = forward::embed(self.subnet, tokens);
        for (layer, cache) in self.caches.iter_mut().enumerate() {
            let past_len = self.past_len;
            forward::layer_with_cache(self.subnet, layer, &mut x, cache, past_len, &self.rope);
        }
        self.past_len += tokens.len();
        let hidden = self.subnet.supernet().model().hidden_size;
        let last = &x[x.len() - hidden..];
        Ok(head::logits(
            self.subnet,
            &head::final_norm(self.subnet, last),
        ))
    }
}

/// The `max_new_tokens` most likely next tokens after `prompt`, one at a time.
///
/// # Errors
/// As for [`Decoder::feed`].
pub fn greedy(
    subnet: &Subnet<'_>,
    prompt: &[u32],
    max_new_tokens: usize,
) -> Result<Vec<u32>, SupernetError> {
    let mut decoder = Decoder::new(subnet, prompt.len() + max_new_tokens)?;
    let mut generated = Vec::with_capacity(max_new_tokens);
    let mut next = prompt.to_vec();
    while generated.len() < max_new_tokens {
        let token = largest(&decoder.feed(&next)?);
        generated.push(token);
        next = vec![token];
    }
    Ok(generated)
}

/// Index of the largest logit; the first of equals.
fn largest(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
    best.map_or(0, |index| index as u32)
}
