use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ArchError;

/// Longest prompt or generation accepted, in tokens.
const MAX_TOKENS: usize = 1 << 24;

/// One forward pass as the runtime sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// `seq_len` new tokens and no past.
    Prefill {
        /// Sequences side by side.
        batch: usize,
        /// New tokens per sequence.
        seq_len: usize,
    },
    /// One new token after `past_len` past tokens.
    Decode {
        /// Sequences side by side.
        batch: usize,
        /// Tokens in the KV cache before this step.
        past_len: usize,
    },
}

impl Phase {
    /// Sequences side by side.
    pub fn batch(&self) -> usize {
        match *self {
            Phase::Prefill { batch, .. } | Phase::Decode { batch, .. } => batch,
        }
    }

    /// New tokens per sequence.
    pub fn new_tokens(&self) -> usize {
        match *self {
            Phase::Prefill { seq_len, .. } => seq_len,
            Phase::Decode { .. } => 1,
        }
    }

    /// Tokens in the KV cache before the pass.
    pub fn past_tokens(&self) -> usize {
        match *self {
            Phase::Prefill { .. } => 0,
            Phase::Decode { past_len, .. } => past_len,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Prefill { batch: 1, seq_len } => write!(f, "prefill S={seq_len}"),
            Phase::Prefill { batch, seq_len } => write!(f, "prefill B={batch} S={seq_len}"),
            Phase::Decode { batch: 1, past_len } => write!(f, "decode T={past_len}"),
            Phase::Decode { batch, past_len } => write!(f, "decode B={batch} T={past_len}"),
        }
    }
}

/// What a user asks of the model: a prompt, then generated tokens. Written `P+G`, or `BxP+G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated after it.
    pub generated_tokens: usize,
}

impl Default for Workload {
    /// 128 tokens of prompt and 128 generated.
    fn default() -> Self {
        Self {
            batch: 1,
            prompt_tokens: 128,
            generated_tokens: 128,
        }
    }
}

impl Workload {
    /// Mean number of past tokens over the decode steps. The first generated token comes out of
    /// the prefill, so `generated_tokens - 1` steps follow, at past lengths `P, P + 1, ...`.
    pub fn mean_past_len(&self) -> f64 {
        let steps = self.decode_steps();
        self.prompt_tokens as f64 + (steps.max(1) - 1) as f64 / 2.0
    }

    /// Decode steps after the prefill.
    pub fn decode_steps(&self) -> usize {
        self.generated_tokens.saturating_sub(1)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.batch != 1 {
            write!(f, "{}x", self.batch)?;
        }
        write!(f, "{}+{}", self.prompt_tokens, self.generated_tokens)
    }
}

impl FromStr for Workload {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        let wrong = |reason| ArchError::Workload {
            text: text.to_owned(),
            reason,
        };
        let number = |part: &str| {
            part.trim()
                .parse::<usize>()
                .ok()
                .filter(|n| (1..=MAX_TOKENS).contains(n))
                .ok_or_else(|| {
                    wrong("expected PROMPT+GENERATED in tokens, such as 128+128 or 4x128+128")
                })
        };
        let (batch, rest) = match text.split_once('x') {
            Some((batch, rest)) => (number(batch)?, rest),
            None => (1, text),
        };
        let (prompt, generated) = rest
            .split_once('+')
            .ok_or_else(|| wrong("expected PROMPT+GENERATED in tokens, such as 128+128"))?;
        Ok(Self {
            batch,
            prompt_tokens: number(prompt)?,
            generated_tokens: number(generated)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_round_trip() {
        for text in ["128+64", "4x1+1"] {
            assert_eq!(text.parse::<Workload>().unwrap().to_string(), text);
        }
        for text in ["", "128", "0+4", "4+", "1e3+2", "99999999999999999999+1"] {
            assert!(text.parse::<Workload>().is_err(), "{text}");
        }
    }

    #[test]
    fn mean_past_is_the_middle_of_the_generated_span() {
        let workload: Workload = "10+5".parse().unwrap();
        // steps at past 10, 11, 12, 13
        assert_eq!(workload.mean_past_len(), 11.5);
        assert_eq!("10+1".parse::<Workload>().unwrap().mean_past_len(), 10.0);
    }
}
