//! The full model's answers: its last hidden states, from which the logits follow.

use crate::SupernetError;
use crate::cut::Subnet;
use crate::engine::forward;
use crate::network::{Engine, Network};
use crate::supernet::Supernet;
use crate::text::TokenWindows;

/// Bytes of answers that are kept for the next pass over the text: 230,000 tokens of 576 channels.
pub(super) const KEPT_BYTES: usize = 512 << 20;

/// The full model, and what it said.
pub(super) struct Teacher<'a> {
    net: Subnet<'a>,
    kept: Vec<Option<Vec<f32>>>,
    free_bytes: usize,
}

impl<'a> Teacher<'a> {
    pub fn new(supernet: &'a Supernet, windows: usize) -> Self {
        Self {
            net: supernet.teacher(),
            kept: vec![None; windows],
            free_bytes: KEPT_BYTES,
        }
    }

    /// Its last hidden states after the final norm on some windows, `[tokens, hidden]`.
    pub fn answers(
        &mut self,
        engine: &dyn Engine,
        text: &TokenWindows,
        windows: &[usize],
    ) -> Result<Vec<f32>, SupernetError> {
        let network = engine.teacher()?;
        let mut answers = Vec::new();
        for &window in windows {
            if let Some(kept) = &self.kept[window] {
                answers.extend_from_slice(kept);
                continue;
            }
            // A window alone, so that its numbers do not depend on what it stands beside.
            let answer = self.answer(&*network, text, window)?;
            answers.extend_from_slice(&answer);
            let bytes = 4 * answer.len();
            if bytes <= self.free_bytes {
                self.free_bytes -= bytes;
                self.kept[window] = Some(answer);
            }
        }
        Ok(answers)
    }

    fn answer(
        &self,
        network: &dyn Network,
        text: &TokenWindows,
        window: usize,
    ) -> Result<Vec<f32>, SupernetError> {
        let embedded = forward::embed(&self.net, &text.batch(&[window]).inputs);
        network.run_from(0, embedded, text.window_len(), None)
    }
}
