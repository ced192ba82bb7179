//! The last choice among what a search found: fewer networks, on more text, as they are exported.
//!
//! A search's evaluations read little text each, and leave drift as it is: the best of hundreds
//! is, to a part, the luckiest, and the order can be another once drift is corrected. So the best are
//! scored again on more text, and the best of these are corrected before the choice, as EvoPress
//! (2410.14649) selects in steps of fewer candidates and more tokens.

use anyhow::Context;
use lathe_arch::{SearchSpace, SubnetConfig};
use lathe_search::Evaluation;
use lathe_supernet::{Split, Subnet};

use crate::{Loss, Prepared, Progress, SearchTask};

/// Networks that are scored again.
const SCORED_AGAIN: usize = 8;
/// Tokens they are scored on for each of the search's, where there is as much text.
const MORE_TEXT: usize = 4;
/// Of these, networks that are corrected for drift: it takes minutes each.
const CORRECTED: usize = 3;

/// Scores the networks that a search found once more.
pub(crate) struct Finals<'a> {
    prepared: &'a Prepared,
    loss: Loss<'a>,
}

impl<'a> Finals<'a> {
    /// For a search whose evaluations read `search_tokens` tokens each.
    ///
    /// # Errors
    /// When there is no text.
    pub fn new(
        prepared: &'a Prepared,
        search_tokens: usize,
        task: Option<&SearchTask>,
    ) -> anyhow::Result<Self> {
        let windows = prepared.windows_up_to(Split::Search, MORE_TEXT * search_tokens)?;
        Ok(Self {
            prepared,
            loss: Loss::new(prepared, &windows, task)?,
        })
    }

    /// The best of `found`, as it is exported.
    ///
    /// # Errors
    /// When nothing was found, or it is not of `space`.
    pub fn best(
        &self,
        found: &[&Evaluation],
        space: &SearchSpace,
        progress: Progress<'_>,
    ) -> anyhow::Result<Subnet<'a>> {
        let mut found = found.to_vec();
        let lost = |evaluation: &Evaluation| self.loss.total(&evaluation.objectives);
        found.sort_by(|a, b| lost(a).total_cmp(&lost(b)));
        found.truncate(SCORED_AGAIN);
        let mut scored = Vec::with_capacity(found.len());
        for (done, evaluation) in found.iter().enumerate() {
            progress("scoring the best on more text", done, found.len());
            let subnet = space.decode(&evaluation.genome)?;
            let cut = self.prepared.supernet.cut(&subnet)?;
            scored.push((self.loss.total(&self.loss.of(&cut)?), subnet));
        }
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut best: Option<(f64, Subnet<'a>)> = None;
        for (_, subnet) in &scored[..self.finalists(scored.len())] {
            let (loss, cut) = self.as_exported(subnet, progress)?;
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, cut));
            }
        }
        Ok(best.context("a search without a network")?.1)
    }

    /// Without a correction the order stays what it is, and the first is the best.
    fn finalists(&self, scored: usize) -> usize {
        let most = if self.prepared.corrects_drift() {
            CORRECTED
        } else {
            1
        };
        most.min(scored)
    }

    fn as_exported(
        &self,
        subnet: &SubnetConfig,
        progress: Progress<'_>,
    ) -> anyhow::Result<(f64, Subnet<'a>)> {
        let cut = self.prepared.cut(subnet, progress)?;
        Ok((self.loss.total(&self.loss.of(&cut)?), cut))
    }
}
