//! Text for calibration, for the search and for the final score, and more of it for trainings: parts
//! that share no passage.

use std::collections::BTreeSet;
use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::SupernetError;
use crate::checkpoint::Tokenizer;

/// Bytes of text that are reported on at least, where 40 % of the passages have as many: 30,000 tokens.
const LEAST_TEST_BYTES: usize = 128 << 10;

/// Passages of a corpus in disjoint parts, drawn by passage with a fixed seed.
pub struct TextSplits {
    /// What trainings alone read, then the parts of calibration, search and test.
    passages: Vec<String>,
    /// Number of those for trainings alone.
    spare: usize,
    /// Trained on instead.
    training: Option<Vec<String>>,
}

/// The parts and their shares of the passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For importance and recovery, which no text is too long for: 45 %.
    Calibration,
    /// For training: the calibration's and what the test leaves, or a text of its own.
    Training,
    /// What the search minimises: 15 %.
    Search,
    /// What is reported: 10 %, and more of a short text, up to 40 %.
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Calibration => "calibration",
            Split::Training => "training",
            Split::Search => "search",
            Split::Test => "test",
        }
    }
}

impl TextSplits {
    /// Shuffles the passages with `seed`. Empty and repeated passages are dropped first, so that
    /// no passage can stand in two parts.
    pub fn new(passages: impl IntoIterator<Item = String>, seed: u64) -> Self {
        let mut passages: Vec<String> = passages
            .into_iter()
            .map(|passage| passage.trim().to_owned())
            .filter(|passage| !passage.is_empty())
            .collect();
        passages.sort();
        passages.dedup();
        passages.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let spare = passages.len() - test_end(&passages);
        passages.rotate_right(spare);
        Self {
            passages,
            spare,
            training: None,
        }
    }

    /// Has trainings read `passages` instead. What is searched or tested with is left out.
    pub fn train_on(&mut self, passages: impl IntoIterator<Item = String>) {
        let held_out = [Split::Search, Split::Test].map(|split| self.passages(split));
        let held_out: BTreeSet<&String> = held_out.into_iter().flatten().collect();
        let passages = passages.into_iter().map(|text| text.trim().to_owned());
        let passages = passages.filter(|text| !text.is_empty() && !held_out.contains(text));
        self.training = Some(passages.collect());
    }

    /// The passages of one part.
    pub fn passages(&self, split: Split) -> &[String] {
        if let (Split::Training, Some(training)) = (split, &self.training) {
            return training;
        }
        &self.passages[self.range(split)]
    }

    fn range(&self, split: Split) -> Range<usize> {
        let (spare, all) = (self.spare, self.passages.len());
        let (calibration, search) = (spare + all * 9 / 20, spare + all * 6 / 10);
        match split {
            Split::Calibration => spare..calibration,
            Split::Training => 0..calibration,
            Split::Search => calibration..search,
            Split::Test => search..all,
        }
    }

    /// The first `windows` windows of `window_len` tokens of one part, passages joined by blank
    /// lines. Each window begins with [`Tokenizer::text_start`], where there is one. A larger number
    /// of windows contains the smaller.
    ///
    /// # Errors
    /// When the part has too little text.
    pub fn windows(
        &self,
        split: Split,
        tokenizer: &Tokenizer,
        windows: usize,
        window_len: usize,
    ) -> Result<TokenWindows, SupernetError> {
        let found = self.windows_up_to(split, tokenizer, windows, window_len)?;
        let count = found.tokens.len() / (window_len + 1);
        if count < windows {
            return Err(SupernetError::TooLittleText {
                split: split.name(),
                found: count,
                window: window_len,
                wanted: windows,
            });
        }
        Ok(found)
    }

    /// The same, or as many windows as there are: at least one.
    ///
    /// # Errors
    /// When the part does not fill a single window.
    pub fn windows_up_to(
        &self,
        split: Split,
        tokenizer: &Tokenizer,
        windows: usize,
        window_len: usize,
    ) -> Result<TokenWindows, SupernetError> {
        let start = tokenizer.text_start().filter(|_| window_len > 0);
        // Tokens of a window that are text.
        let text_len = window_len + 1 - usize::from(start.is_some());
        let wanted = windows * text_len;
        let mut tokens = Vec::with_capacity(wanted);
        for passage in self.passages(split) {
            if tokens.len() >= wanted {
                break;
            }
            tokens.extend(tokenizer.encode(&format!("{passage}\n\n"))?);
        }
        let found = tokens.len() / text_len;
        if found == 0 {
            return Err(SupernetError::TooLittleText {
                split: split.name(),
                found,
                window: window_len,
                wanted: windows,
            });
        }
        tokens.truncate(found.min(windows) * text_len);
        let windows = tokens.chunks_exact(text_len);
        let windows = windows.flat_map(|text| start.into_iter().chain(text.iter().copied()));
        Ok(TokenWindows {
            tokens: windows.collect(),
            window_len,
        })
    }
}

/// Where the test ends among passages of which it begins after 60 %.
fn test_end(passages: &[String]) -> usize {
    let all = passages.len();
    let begin = all * 6 / 10;
    let least = begin + all / 10;
    let mut bytes: usize = passages[begin..least].iter().map(String::len).sum();
    let more = passages[least..].iter().take_while(|passage| {
        let is_wanted = bytes < LEAST_TEST_BYTES;
        bytes += passage.len();
        is_wanted
    });
    least + more.count()
}

/// Windows of text to score: each has `window_len` inputs and the token that follows each input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWindows {
    tokens: Vec<u32>,
    window_len: usize,
}

/// Some windows, run together.
pub(crate) struct Batch {
    /// `[windows * window_len]`
    pub inputs: Vec<u32>,
    /// The token after each input, `[windows * window_len]`.
    pub targets: Vec<u32>,
}

impl TokenWindows {
    /// Windows of `window_len` inputs from a run of tokens; what does not fill a window is left.
    pub fn from_tokens(tokens: &[u32], window_len: usize) -> Self {
        let whole = tokens.len() / (window_len + 1) * (window_len + 1);
        Self {
            tokens: tokens[..whole].to_vec(),
            window_len,
        }
    }

    /// Inputs of a window.
    pub fn window_len(&self) -> usize {
        self.window_len
    }

    /// Number of scored tokens.
    pub fn token_count(&self) -> usize {
        self.tokens.len() / (self.window_len + 1) * self.window_len
    }

    /// The first `count` tokens, or all there are.
    pub fn first(&self, count: usize) -> &[u32] {
        &self.tokens[..count.min(self.tokens.len())]
    }

    /// The first windows, of at most `tokens` scored tokens, but at least one.
    pub fn up_to(&self, tokens: usize) -> Self {
        let windows = (tokens / self.window_len.max(1)).max(1);
        Self {
            tokens: self.first(windows * (self.window_len + 1)).to_vec(),
            window_len: self.window_len,
        }
    }

    /// All tokens, windows one after another.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of windows.
    pub fn window_count(&self) -> usize {
        self.tokens.len() / (self.window_len + 1)
    }

    /// Some windows by their number, to be run together.
    pub(crate) fn batch(&self, windows: &[usize]) -> Batch {
        let span = self.window_len + 1;
        let windows = || windows.iter().map(|at| &self.tokens[at * span..][..span]);
        Batch {
            inputs: windows().flat_map(|w| &w[..span - 1]).copied().collect(),
            targets: windows().flat_map(|w| &w[1..]).copied().collect(),
        }
    }

    /// The windows in batches of at most `max_tokens` (at least one window each).
    pub(crate) fn batches(&self, max_tokens: usize) -> impl Iterator<Item = Batch> + '_ {
        let windows = (max_tokens / self.window_len).max(1);
        let batches = self.tokens.chunks(windows * (self.window_len + 1));
        batches.map(|tokens| {
            let windows = || tokens.chunks_exact(self.window_len + 1);
            Batch {
                inputs: windows()
                    .flat_map(|w| &w[..self.window_len])
                    .copied()
                    .collect(),
                targets: windows().flat_map(|w| &w[1..]).copied().collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_parts_share_no_passage() {
        let passages = (0..101).map(|i| format!("passage {}", i % 90));
        let splits = TextSplits::new(passages, 1);
        let parts = [Split::Calibration, Split::Search, Split::Test];
        let all: Vec<&String> = parts.iter().flat_map(|p| splits.passages(*p)).collect();
        assert_eq!(all.len(), 90);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 90);
    }

    #[test]
    fn trainings_read_what_a_long_text_has_beyond_the_test() {
        let passages = (0..1000).map(|i| format!("{i} {}", "text ".repeat(100)));
        let splits = TextSplits::new(passages, 1);
        let test: usize = splits.passages(Split::Test).iter().map(String::len).sum();
        assert!((LEAST_TEST_BYTES..LEAST_TEST_BYTES + 600).contains(&test));
        let count = |split| splits.passages(split).len();
        assert_eq!(
            (count(Split::Calibration), count(Split::Search)),
            (450, 150)
        );
        assert_eq!(count(Split::Training), 1000 - 150 - count(Split::Test));
        let training = splits.passages(Split::Training);
        assert!(training.ends_with(splits.passages(Split::Calibration)));
        let held_out = [Split::Search, Split::Test].map(|part| splits.passages(part));
        let training: BTreeSet<&String> = training.iter().collect();
        assert!(!held_out.into_iter().flatten().any(|p| training.contains(p)));
        // Of a longer one, a tenth is reported on.
        let passages = (0..1000).map(|i| format!("{i} {}", "text ".repeat(400)));
        let splits = TextSplits::new(passages, 1);
        assert_eq!(splits.passages(Split::Test).len(), 100);
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        let passages = (0..100).map(|i| format!("passage {i}"));
        let mut splits = TextSplits::new(passages, 1);
        let calibration = splits.passages(Split::Calibration);
        assert_eq!(splits.passages(Split::Training), calibration);
        splits.train_on((0..200).map(|i| format!(" passage {i}\n")));
        let trained: BTreeSet<&String> = splits.passages(Split::Training).iter().collect();
        assert_eq!(trained.len(), 100 + 45);
        for part in [Split::Search, Split::Test] {
            assert!(!splits.passages(part).iter().any(|p| trained.contains(p)));
        }
    }

    #[test]
    fn targets_follow_inputs() {
        let windows = TokenWindows::from_tokens(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 2);
        let batch = windows.batches(4).next().unwrap();
        assert_eq!(batch.inputs, [1, 2, 4, 5]);
        assert_eq!(batch.targets, [2, 3, 5, 6]);
        assert_eq!(windows.token_count(), 6);
        assert_eq!(windows.up_to(5).token_count(), 4);
        assert_eq!(windows.up_to(1).token_count(), 2);
        assert_eq!(windows.up_to(100), windows);
    }
}
