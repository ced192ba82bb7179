//! A SentencePiece BPE tokenizer (1808.06226) from its pieces and scores, as GGUF files of Gemma
//! hold it, put together as in Gemma's own `tokenizer.json`.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

/// GGUF's token types (llama.cpp, `llama_token_type`) whose pieces are made by merging.
const NORMAL: f64 = 1.0;
const USER_DEFINED: f64 = 4.0;
/// The token type of what has no piece.
const UNKNOWN: f64 = 2.0;
/// Longest piece that merges are looked for.
const MAX_MERGED_BYTES: usize = 256;
/// What stands for a space in pieces.
const SPACE: &str = "\u{2581}";

/// A vocabulary with scores: of two neighbours that could be merged, those go first whose piece has
/// the higher score.
pub(super) struct Pieces<'a> {
    pub tokens: &'a [String],
    /// One a token.
    pub scores: &'a [f64],
    /// One a token, or none: then all are normal.
    pub types: &'a [f64],
}

impl Pieces<'_> {
    /// The merges of all pieces that fall into two others, the first first.
    pub fn merges(&self) -> Vec<[&str; 2]> {
        let known: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if !self.is_merged(id) || token.len() > MAX_MERGED_BYTES {
                continue;
            }
            let splits = token.char_indices().skip(1);
            let splits = splits.map(|(at, _)| token.split_at(at));
            let pairs =
                splits.filter(|(left, right)| known.contains(left) && known.contains(right));
            // The longest left part first, as transformers has it (tokenization_utils_base.py).
            let mut pairs: Vec<(usize, [&str; 2])> = pairs.map(|(l, r)| (id, [l, r])).collect();
            pairs.reverse();
            merges.extend(pairs);
        }
        merges.sort_by(|(a, _), (b, _)| self.scores[*b].total_cmp(&self.scores[*a]));
        merges.into_iter().map(|(_, merge)| merge).collect()
    }

    fn is_merged(&self, id: usize) -> bool {
        let kind = self.types.get(id).copied().unwrap_or(NORMAL);
        kind == NORMAL || kind == USER_DEFINED
    }

    /// The piece for what the vocabulary does not have.
    pub fn unknown(&self) -> Option<&str> {
        let at = self.types.iter().position(|kind| *kind == UNKNOWN)?;
        Some(&self.tokens[at])
    }
}

/// Spaces become pieces of their own, one more before the text where `adds_prefix`.
pub(super) fn normalizer(adds_prefix: bool) -> Json {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    match adds_prefix {
        true => json!({"type": "Sequence", "normalizers": [prepend, replace]}),
        false => replace,
    }
}

/// Pieces back to text; bytes without a piece stand as `<0x0A>`.
pub(super) fn decoder() -> Json {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_scores() {
        let tokens = ["<unk>", "a", "b", "ab", "aab", "aa"].map(str::to_owned);
        let pieces = Pieces {
            tokens: &tokens,
            scores: &[0.0, -1.0, -2.0, -5.0, -4.0, -3.0],
            types: &[2.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        };
        let want = [["a", "a"], ["aa", "b"], ["a", "ab"], ["a", "b"]];
        assert_eq!(pieces.merges(), want);
        assert_eq!(pieces.unknown(), Some("<unk>"));
    }
}
