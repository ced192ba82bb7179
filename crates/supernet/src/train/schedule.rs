//! The learning rate: a linear warm-up, then half a cosine down to a tenth (2203.15556).

use std::f64::consts::PI;

/// What is left of the highest learning rate at the end.
const LAST_SHARE: f64 = 0.1;

/// The learning rate of step `step`, counted from 0, as a share of the highest.
///
/// During the warm-up it does not depend on the number of steps.
pub(super) fn share(step: usize, warmup_steps: usize, steps: Option<usize>) -> f64 {
    let warmup = match steps {
        Some(steps) => warmup_steps.min(steps / 2),
        None => warmup_steps,
    };
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let Some(steps) = steps else { return 1.0 };
    let left = (steps - warmup).max(1) as f64;
    let done = ((step - warmup) as f64 / left).min(1.0);
    LAST_SHARE + (1.0 - LAST_SHARE) * 0.5 * (1.0 + (PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_then_falls() {
        let shares: Vec<f64> = (0..100).map(|step| share(step, 10, Some(100))).collect();
        assert_eq!(shares[0], 0.1);
        assert_eq!((shares[9], shares[10]), (1.0, 1.0));
        assert!(shares[..10].is_sorted());
        assert!(shares[10..].iter().rev().is_sorted());
        assert!((shares[55] - 0.55).abs() < 1e-9 && shares[99] < 0.101);
    }

    #[test]
    fn the_warm_up_does_not_know_the_end() {
        for step in 0..10 {
            assert_eq!(share(step, 10, None), share(step, 10, Some(40)));
        }
        assert_eq!(share(4, 10, Some(4)), 0.1);
        assert_eq!(share(0, 0, Some(1)), 1.0);
    }
}
