//! Several searchers of one space that propose in turn and learn from each other's trials.

use std::collections::HashSet;

use crate::{Evaluation, SearchError, Searcher, Trial};

/// Proposals of one searcher that another has made already, in a row, after which it is skipped.
const MAX_REPEATS: usize = 100;

/// For a problem that one method sees in several ways: what is best for one device and for another, for
/// example.
pub struct InTurn {
    searchers: Vec<Box<dyn Searcher>>,
    proposed: HashSet<Trial>,
    turn: usize,
}

impl InTurn {
    /// The searchers in their order.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(searchers: Vec<Box<dyn Searcher>>) -> Result<Self, SearchError> {
        if searchers.is_empty() {
            return Err(SearchError::Option {
                option: "searchers",
                value: "empty".to_owned(),
                reason: "expected at least one",
            });
        }
        Ok(Self {
            searchers,
            proposed: HashSet::new(),
            turn: 0,
        })
    }
}

impl Searcher for InTurn {
    fn name(&self) -> &'static str {
        self.searchers[0].name()
    }

    fn options(&self) -> String {
        let options = self.searchers.iter().map(|searcher| searcher.options());
        options.collect::<Vec<_>>().join("; ")
    }

    fn ask(&mut self) -> Option<Trial> {
        for _ in 0..self.searchers.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.searchers.len();
            for _ in 0..MAX_REPEATS {
                let Some(trial) = self.searchers[turn].ask() else {
                    break;
                };
                if self.proposed.insert(trial.clone()) {
                    return Some(trial);
                }
            }
        }
        None
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        for searcher in &mut self.searchers {
            searcher.tell(evaluation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RandomSearch, Space};

    #[test]
    fn nothing_is_proposed_twice_until_the_space_is_exhausted() {
        let space = Space::new(vec![4, 4]).unwrap();
        let random = |seed| -> Box<dyn Searcher> {
            Box::new(RandomSearch::new(&space, &[vec![0, 0]], seed).unwrap())
        };
        let mut both = InTurn::new(vec![random(1), random(2)]).unwrap();
        let mut seen = HashSet::new();
        while let Some(trial) = both.ask() {
            assert!(seen.insert(trial));
        }
        assert_eq!(seen.len(), 16);
        assert!(InTurn::new(Vec::new()).is_err());
    }
}
