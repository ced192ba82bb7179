//! Where a warm-up ends, found in the samples themselves.

use crate::statistics::{mean, variance};

/// A warm-up is at least this much slower than what follows.
const SLOWER: f64 = 0.02;
/// Standard errors by which it must stand out.
const STANDARD_ERRORS: f64 = 4.0;

/// How many leading durations belong to a warm-up: the change-point in the first half of the
/// series that explains most of its variance (of the logarithms), if what comes before is slower
/// by more than 2 % and by more than chance.
///
/// A fixed number of warm-up runs is too few for a session that packs weights lazily or a
/// processor that clocks up slowly, and a waste for all others.
pub fn warmup_length(durations_ns: &[f64]) -> usize {
    let logs: Vec<f64> = durations_ns.iter().map(|ns| ns.max(1.0).ln()).collect();
    let count = logs.len();
    let mut best = (0.0, 0);
    for split in 1..=count / 2 {
        let (before, after) = logs.split_at(split);
        let step = mean(before) - mean(after);
        let explained = step * step * split as f64 * (count - split) as f64 / count as f64;
        if step > SLOWER && explained > best.0 {
            best = (explained, split);
        }
    }
    let (explained, split) = best;
    if split == 0 || count < 4 {
        return 0;
    }
    let (before, after) = logs.split_at(split);
    let within = (variance(before) * before.len() as f64 + variance(after) * after.len() as f64)
        / (count - 2) as f64;
    if explained > STANDARD_ERRORS * STANDARD_ERRORS * within {
        split
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_is_found_and_noise_is_not() {
        let steady: Vec<f64> = (0..20).map(|i| 1000.0 + f64::from(i * 7 % 5)).collect();
        assert_eq!(warmup_length(&steady), 0);
        let mut slow = vec![2000.0, 1500.0, 1300.0];
        slow.extend(&steady);
        assert_eq!(warmup_length(&slow), 3);
        let spread =
            |i: u32| 1000.0 * (1.0 + 0.2 * f64::from(i.wrapping_mul(2_654_435_761) % 97) / 97.0);
        let noisy: Vec<f64> = (0..40u32).map(|i| spread(i % 7 * 31 + i)).collect();
        assert_eq!(warmup_length(&noisy), 0);
        assert_eq!(warmup_length(&[]), 0);
        assert_eq!(warmup_length(&[3.0, 1.0]), 0);
    }

    #[test]
    fn a_slow_end_is_no_warm_up() {
        let mut durations = vec![1000.0; 10];
        durations.extend([1500.0; 10]);
        assert_eq!(warmup_length(&durations), 0);
    }
}
