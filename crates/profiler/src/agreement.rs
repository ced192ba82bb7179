//! How well predictions agree with measurements.

use serde::{Deserialize, Serialize};

use crate::statistics::{
    kendall_tau, mean_absolute_percentage_error, median, relative_errors, spearman,
};

/// One network: what was predicted and what was measured, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Predicted latency.
    pub predicted_us: f64,
    /// Measured latency.
    pub measured_us: f64,
}

/// How well predictions agree with measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Networks compared.
    pub networks: usize,
    /// Mean absolute percentage error, as a share.
    pub mape: f64,
    /// Median of the absolute relative errors.
    pub median_error: f64,
    /// Mean signed relative error: negative when predictions are too low.
    pub bias: f64,
    /// Share of networks within 5 %.
    pub within_5_percent: f64,
    /// Share of networks within 10 %.
    pub within_10_percent: f64,
    /// Largest absolute relative error.
    pub worst: f64,
    /// Kendall's tau-b.
    pub kendall_tau: f64,
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Slowest over fastest network: without spread, rank correlations mean little.
    pub spread: f64,
}

/// Summarises comparisons.
pub fn agreement(comparisons: &[Comparison]) -> Agreement {
    let predicted: Vec<f64> = comparisons.iter().map(|c| c.predicted_us).collect();
    let measured: Vec<f64> = comparisons.iter().map(|c| c.measured_us).collect();
    let errors = relative_errors(&predicted, &measured);
    let sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    let count = comparisons.len().max(1) as f64;
    let within = |limit: f64| sizes.iter().filter(|size| **size <= limit).count() as f64 / count;
    let extreme =
        |start: f64, pick: fn(f64, f64) -> f64| measured.iter().copied().fold(start, pick);
    Agreement {
        networks: comparisons.len(),
        mape: mean_absolute_percentage_error(&predicted, &measured),
        median_error: median(&sizes),
        bias: errors.iter().sum::<f64>() / count,
        within_5_percent: within(0.05),
        within_10_percent: within(0.10),
        worst: sizes.iter().copied().fold(0.0, f64::max),
        kendall_tau: kendall_tau(&predicted, &measured),
        spearman: spearman(&predicted, &measured),
        spread: extreme(0.0, f64::max) / extreme(f64::INFINITY, f64::min),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_of_known_pairs() {
        let pair = |predicted_us, measured_us| Comparison {
            predicted_us,
            measured_us,
        };
        let pairs = [pair(104.0, 100.0), pair(184.0, 200.0), pair(345.0, 300.0)];
        let agreement = agreement(&pairs);
        assert!((agreement.mape - 0.09).abs() < 1e-12);
        assert!((agreement.bias - 0.11 / 3.0).abs() < 1e-12);
        assert!((agreement.within_5_percent - 1.0 / 3.0).abs() < 1e-12);
        assert!((agreement.within_10_percent - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(agreement.kendall_tau, 1.0);
        assert_eq!(agreement.spread, 3.0);
    }
}
