//! Slow gradients to hold the kernels to.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `count` numbers from -1 to 1.
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Central differences of `sum(weights * function(x))` by every number of `x`.
pub fn numeric_gradient(
    x: &[f64],
    weights: &[f32],
    function: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let value = |x: &[f64]| -> f64 {
        let outputs = function(x);
        assert_eq!(outputs.len(), weights.len());
        let terms = outputs.iter().zip(weights);
        terms.map(|(out, weight)| out * f64::from(*weight)).sum()
    };
    let difference = |at: usize| {
        let mut moved = x.to_vec();
        moved[at] += STEP;
        let above = value(&moved);
        moved[at] -= 2.0 * STEP;
        (above - value(&moved)) / (2.0 * STEP)
    };
    (0..x.len()).map(difference).collect()
}

/// What f32 rounding may cost: errors of single numbers against the largest of all.
pub fn assert_close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error < 1e-4 * largest, "{at}: {got} {want}");
    }
}
