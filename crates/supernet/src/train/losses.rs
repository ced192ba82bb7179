//! Whether a training goes wrong.
//!
//! A single step's loss says little: some text is far from all other, and a pruned network knows it
//! many times worse. So it is the median of the last steps that is held against the lowest such
//! median.

use serde::{Deserialize, Serialize};

/// Steps whose median counts where one network is trained: two of them may be odd.
pub(super) const STEPS_OF_ONE: usize = 5;
/// The same where every step draws others, which lose more or less: the median of as many steps hardly
/// depends on what was drawn.
pub(super) const STEPS_OF_MANY: usize = 25;
/// More than this many times the lowest, and [`NATS`] on top, is no noise.
const FACTOR: f64 = 3.0;
/// See [`FACTOR`].
const NATS: f64 = 1.0;

/// The losses of the last steps, and the lowest there have been.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Losses {
    recent: Vec<f64>,
    lowest: Option<f64>,
}

impl Losses {
    /// With the loss of one step more, by the median of the last `steps`; `None` when the training goes
    /// wrong.
    pub fn with(&self, loss: f64, steps: usize) -> Option<Self> {
        let mut recent = self.recent.clone();
        recent.push(loss);
        let surplus = recent.len().saturating_sub(steps);
        recent.drain(..surplus);
        let mut sorted = recent.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[(sorted.len() - 1) / 2];
        let is_right = loss.is_finite() && !self.is_high(median);
        is_right.then(|| Self {
            recent,
            lowest: Some(self.lowest.map_or(median, |lowest| lowest.min(median))),
        })
    }

    /// The lowest median.
    pub fn lowest(&self) -> f64 {
        self.lowest.unwrap_or(f64::INFINITY)
    }

    /// Whether the last step may be the first of those that go wrong.
    pub fn is_last_high(&self) -> bool {
        self.recent.last().is_some_and(|loss| self.is_high(*loss))
    }

    fn is_high(&self, loss: f64) -> bool {
        loss > FACTOR * self.lowest() + NATS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(losses: &[f64]) -> Option<Losses> {
        let begin = Some(Losses::default());
        losses
            .iter()
            .fold(begin, |seen, loss| seen?.with(*loss, STEPS_OF_ONE))
    }

    #[test]
    fn odd_text_is_no_divergence() {
        let seen = after(&[0.9, 2.1, 0.8, 0.7, 40.0, 0.9, 30.0, 0.6]).unwrap();
        assert!(!seen.is_last_high());
        assert_eq!(seen.lowest(), 0.8);
        assert!(after(&[0.9, 0.8, 0.7, 40.0]).unwrap().is_last_high());
        assert!(after(&[5.0, 4.0, 3.0, 6.0, 7.0]).is_some());
    }

    #[test]
    fn what_stays_high_or_is_no_number_is() {
        assert!(after(&[0.9, 0.8, 0.7, 6.0, 7.0, 8.0]).is_none());
        assert!(after(&[0.9, f64::NAN]).is_none());
        assert!(after(&[f64::INFINITY]).is_none());
    }

    #[test]
    fn they_come_back_from_text() {
        let seen = after(&[0.1, 0.3, 1.0 / 3.0]).unwrap();
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Losses>(&text).unwrap(), seen);
    }
}
