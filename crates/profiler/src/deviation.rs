//! How far visits to one block differ, and what that makes a price's error.
//!
//! Turns of one visit have their errors in common: where its keys and values came to lie in memory,
//! and what else the machine did in that second. So a price is known as well as it was visited often.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use lathe_arch::{BlockShape, Phase, Precision};
use lathe_latency::PhaseKind;

use crate::plan::{Probe, kind};
use crate::price::VisitShares;
use crate::statistics::{mean, median, median_ci95};

/// The standard deviation of a normal distribution over its median absolute deviation.
const MAD_TO_DEVIATION: f64 = 1.4826;
/// Half the width of a 95 % interval in standard errors.
pub(crate) const Z95: f64 = 1.96;

/// Blocks whose visits are taken to differ alike: of one kind, in one phase and precision, and for
/// attention in decode at one past length, which tells how much of the time goes to keys and values.
type Group = (
    Discriminant<BlockShape>,
    PhaseKind,
    Option<usize>,
    Precision,
);

fn group(probe: &Probe, phase: Phase) -> Group {
    let depth = match (probe.block, phase) {
        (BlockShape::Attention(_), Phase::Decode { past_len, .. }) => Some(past_len),
        _ => None,
    };
    let block = discriminant(&probe.block);
    (block, kind(&phase), depth, probe.block.precision())
}

/// What visits differ by, for each group as a share of a price.
pub(crate) struct Deviations(HashMap<Group, f64>);

impl Deviations {
    pub fn of(shares: &BTreeMap<(Probe, Phase), VisitShares>) -> Self {
        let mut groups: HashMap<Group, Vec<&VisitShares>> = HashMap::new();
        for ((probe, phase), visits) in shares {
            let group = group(probe, *phase);
            groups.entry(group).or_default().push(visits);
        }
        let known = groups.into_iter();
        Self(
            known
                .filter_map(|(group, all)| Some((group, visit_deviation(all)?)))
                .collect(),
        )
    }

    /// Standard error of the median of `visits`, as a share of it: what visits of this kind differ by,
    /// or what their turns say where that is more.
    pub fn error(&self, probe: &Probe, phase: Phase, visits: &VisitShares) -> f64 {
        let shares = visits.concat();
        let [low, high] = median_ci95(&shares);
        let center = median(&shares).abs().max(f64::MIN_POSITIVE);
        let within = (high - low) / 2.0 / Z95 / center;
        let deviation = self.0.get(&group(probe, phase)).copied();
        let between = deviation.unwrap_or_default() / (visits.len().max(1) as f64).sqrt();
        within.max(between)
    }

    /// Half the width of its 95 % interval, as a share of it.
    pub fn half_width(&self, probe: &Probe, phase: Phase, visits: &VisitShares) -> f64 {
        Z95 * self.error(probe, phase, visits)
    }
}

/// What visits differ by: the standard deviation of the medians of visits to one block at one
/// phase, as a share of it. Few blocks are visited often enough to tell by themselves, so all that
/// are given are pooled, by a median that a visit gone astray does not move. `None` when nothing
/// was visited twice.
fn visit_deviation<'a>(all: impl IntoIterator<Item = &'a VisitShares>) -> Option<f64> {
    let mut deviations = Vec::new();
    for visits in all {
        let medians: Vec<f64> = visits.iter().map(|shares| median(shares)).collect();
        let (center, count) = (mean(&medians), medians.len() as f64);
        if medians.len() < 2 || center <= 0.0 {
            continue;
        }
        // Deviations from the mean of `count` values are smaller than those from the truth.
        let unbiased = (count / (count - 1.0)).sqrt();
        deviations.extend(medians.iter().map(|m| (m / center - 1.0).abs() * unbiased));
    }
    (!deviations.is_empty()).then(|| MAD_TO_DEVIATION * median(&deviations))
}

#[cfg(test)]
mod tests {
    use lathe_arch::{AttentionConfig, HeadConfig, LogitRows};

    use super::*;

    #[test]
    fn a_visit_gone_astray_does_not_move_what_visits_differ_by() {
        // Pairs of visits 2 % apart: a standard deviation of 1.41 %, less what the median of
        // absolute values misses in a distribution of two points.
        let pair = |apart: f64| vec![vec![1.0, 1.0], vec![1.0 + apart; 3]];
        let mut all: Vec<VisitShares> = (0..9).map(|_| pair(0.02)).collect();
        let quiet = visit_deviation(&all).unwrap();
        assert!(
            (quiet - 1.4826 * 0.01 * 2f64.sqrt() / 1.01).abs() < 1e-4,
            "{quiet}"
        );
        all.push(pair(0.8));
        assert_eq!(visit_deviation(&all), Some(quiet));
        assert_eq!(visit_deviation(&[vec![vec![1.0]]]), None);
    }

    #[test]
    fn a_price_is_known_as_well_as_it_was_visited_often() {
        let attention = |heads| {
            BlockShape::Attention(AttentionConfig {
                heads,
                kv_heads: 1,
                precision: Precision::F32,
            })
        };
        let decoded = |block| Probe {
            block,
            kind: PhaseKind::Decode,
        };
        let probe = |heads| decoded(attention(heads));
        let decode = |past_len| Phase::Decode { batch: 1, past_len };
        // Turns of a visit agree; visits are 10 % apart behind many tokens, and alike behind none.
        let apart = || vec![vec![0.95; 20], vec![1.05; 20]];
        let mut shares: BTreeMap<(Probe, Phase), VisitShares> = BTreeMap::new();
        for heads in 1..=3 {
            shares.insert((probe(heads), decode(2048)), apart());
            shares.insert((probe(heads), decode(0)), vec![vec![1.0; 20]; 2]);
        }
        // So are those to the LM head, which no other block is like.
        let head = decoded(BlockShape::EmbeddingAndHead(HeadConfig {
            precision: Precision::F32,
            logit_rows: LogitRows::Last,
        }));
        shares.insert((head, decode(0)), apart());
        let deviations = Deviations::of(&shares);
        let error = |past_len, visits: usize| {
            deviations.error(&probe(4), decode(past_len), &vec![vec![1.0; 20]; visits])
        };
        assert!((error(2048, 1) - 1.4826 * 0.05 * 2f64.sqrt()).abs() < 1e-9);
        assert!((error(2048, 4) - error(2048, 1) / 2.0).abs() < 1e-12);
        assert_eq!(error(0, 1), 0.0);
        let of_head = deviations.error(&head, decode(0), &vec![vec![1.0; 20]]);
        assert_eq!(of_head, error(2048, 1));
        // Turns that disagree say so without a second visit.
        let torn = vec![[vec![0.9; 10], vec![1.1; 10]].concat()];
        assert!(deviations.error(&probe(4), decode(0), &torn) > 0.05);
    }
}
