//! What corrects a sum of block prices: an offset and a gain, fitted on whole networks.

use lathe_arch::Precision;
use serde::{Deserialize, Serialize};

use crate::least_squares::line;

/// The two phases of generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// The prompt, up to the first token.
    Prefill,
    /// One token after another.
    Decode,
}

/// One whole network: what its blocks sum up to and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationPoint {
    /// Sum of the block prices, in microseconds.
    pub sum_us: f64,
    /// Measured latency, in microseconds.
    pub measured_us: f64,
    /// Floating point operations of the pass.
    pub flops: u64,
    /// Parameters of the network.
    pub parameters: u64,
}

/// `latency = offset + gain * sum of block prices`, for one phase and precision.
///
/// Fitted by least squares on relative errors, so that small networks count as much as large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Precision of all weights of the networks.
    pub precision: Precision,
    /// The phase.
    pub phase: PhaseKind,
    /// Added to a sum, in microseconds.
    pub offset_us: f64,
    /// Multiplies a sum.
    pub gain: f64,
    /// Standard deviation of the relative error of a network that the fit has not seen, from
    /// leaving out each network in turn.
    pub relative_error: f64,
    /// Standard deviation of a network around the line, as a share of its latency.
    pub deviation: f64,
    /// Degrees of freedom of `deviation`.
    pub degrees: usize,
    /// The networks.
    pub points: Vec<CalibrationPoint>,
}

impl Calibration {
    /// Fits the networks of one precision and phase; `None` for fewer than 4.
    pub fn fit(
        precision: Precision,
        phase: PhaseKind,
        points: Vec<CalibrationPoint>,
    ) -> Option<Self> {
        if points.len() < 4 {
            return None;
        }
        let (offset_us, gain) = fit(&points);
        let around = points
            .iter()
            .map(|p| ((offset_us + gain * p.sum_us) / p.measured_us - 1.0).powi(2));
        let degrees = points.len() - 2;
        let deviation = (around.sum::<f64>() / degrees as f64).sqrt();
        let left_out = (0..points.len()).map(|index| {
            let mut others = points.clone();
            let point = others.remove(index);
            let (offset_us, gain) = fit(&others);
            (offset_us + gain * point.sum_us) / point.measured_us - 1.0
        });
        let squares: f64 = left_out.map(|error| error * error).sum();
        let count = points.len();
        let relative_error = (squares / count as f64).sqrt();
        Some(Self {
            precision,
            phase,
            offset_us,
            gain,
            relative_error,
            deviation,
            degrees,
            points,
        })
    }

    /// Half of the 90 % prediction interval of a further network with this sum of prices, in
    /// microseconds.
    ///
    /// It is wider where the line rests on few networks: `t s sqrt(1 + h)` with the leverage `h`
    /// of the network, as for any least-squares line.
    pub fn half_width90_us(&self, sum_us: f64) -> f64 {
        let latency_us = self.offset_us + self.gain * sum_us;
        let weights = self.points.iter().map(|p| p.measured_us.powi(-2));
        let weighted: Vec<(f64, f64)> = weights.zip(self.points.iter().map(|p| p.sum_us)).collect();
        let total: f64 = weighted.iter().map(|(w, _)| w).sum();
        let mean = weighted.iter().map(|(w, x)| w * x).sum::<f64>() / total;
        let spread: f64 = weighted.iter().map(|(w, x)| w * (x - mean).powi(2)).sum();
        let distance = if spread > 0.0 {
            (sum_us - mean).powi(2) / spread
        } else {
            0.0
        };
        let leverage = (1.0 / total + distance) / latency_us.powi(2);
        student_t95(self.degrees) * self.deviation * latency_us * (1.0 + leverage).sqrt()
    }

    /// Draws the deviations of a table's fits towards their median: each rests on few networks,
    /// and all were measured in the same way. (A variance with a prior of `PRIOR_DEGREES`
    /// degrees of freedom, as in Smyth's moderated t-statistic, 2004.)
    pub fn moderate(fits: &mut [Self]) {
        /// Degrees of freedom that the median counts for.
        const PRIOR_DEGREES: usize = 8;
        let mut variances: Vec<f64> = fits.iter().map(|fit| fit.deviation.powi(2)).collect();
        variances.sort_by(f64::total_cmp);
        let Some(median) = variances.get(variances.len() / 2).copied() else {
            return;
        };
        for fit in fits {
            let (own, prior) = (fit.degrees as f64, PRIOR_DEGREES as f64);
            let variance = (own * fit.deviation.powi(2) + prior * median) / (own + prior);
            fit.deviation = variance.sqrt();
            fit.degrees += PRIOR_DEGREES;
        }
    }

    /// The field that cannot be right, and its value.
    pub(crate) fn check(&self) -> Result<(), (&'static str, f64)> {
        for (field, value, range) in [
            ("offset_us", self.offset_us, -1e12..=1e12),
            ("gain", self.gain, 0.01..=100.0),
            ("relative_error", self.relative_error, 0.0..=100.0),
            ("deviation", self.deviation, 0.0..=100.0),
            ("degrees", self.degrees as f64, 1.0..=1e6),
        ] {
            if !range.contains(&value) {
                return Err((field, value));
            }
        }
        for point in &self.points {
            for (field, value) in [
                ("points.sum_us", point.sum_us),
                ("points.measured_us", point.measured_us),
            ] {
                if !(value.is_finite() && value > 0.0) {
                    return Err((field, value));
                }
            }
        }
        Ok(())
    }
}

/// Offset and gain that minimise the squared relative errors.
fn fit(points: &[CalibrationPoint]) -> (f64, f64) {
    let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.sum_us, p.measured_us)).collect();
    let (offset, gain) = line(&pairs, |(_, measured)| measured.powi(-2));
    if gain > 0.0 {
        (offset, gain)
    } else {
        (0.0, 1.0)
    }
}

/// 95th percentile of Student's t, by Cornish and Fisher's expansion around the normal
/// (Abramowitz & Stegun 26.7.5); within 1 % from 3 degrees of freedom on.
fn student_t95(degrees: usize) -> f64 {
    let (z, n) = (1.644_853_627_f64, degrees.max(1) as f64);
    let z3 = z.powi(3);
    let z5 = z.powi(5);
    let z7 = z.powi(7);
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(sum_us: f64, measured_us: f64) -> CalibrationPoint {
        CalibrationPoint {
            sum_us,
            measured_us,
            flops: 1,
            parameters: 1,
        }
    }

    #[test]
    fn an_exact_line_is_found() {
        let sums = [100.0, 250.0, 700.0, 1000.0, 4000.0];
        let points = sums.map(|sum| point(sum, 30.0 + 1.1 * sum)).to_vec();
        let fitted = Calibration::fit(Precision::F32, PhaseKind::Decode, points).unwrap();
        assert!((fitted.offset_us - 30.0).abs() < 1e-6 && (fitted.gain - 1.1).abs() < 1e-9);
        assert!(fitted.relative_error < 1e-9);
        assert!(Calibration::fit(Precision::F32, PhaseKind::Decode, vec![]).is_none());
    }

    #[test]
    fn quantiles_agree_with_the_table() {
        // Student's t, 95 %: 2.353 (3), 2.132 (4), 1.812 (10), 1.697 (30).
        for (degrees, want) in [(3, 2.353), (4, 2.132), (10, 1.812), (30, 1.697)] {
            let found = student_t95(degrees);
            assert!((found / want - 1.0).abs() < 0.01, "{degrees}: {found}");
        }
    }

    #[test]
    fn the_interval_covers_nine_networks_of_ten() {
        // Relative errors of a fixed pseudo-random sequence, 3 % in size.
        let mut state = 1u64;
        let mut noise = || {
            let mut sum = 0.0;
            for _ in 0..12 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                sum += (state >> 33) as f64 / (1u64 << 31) as f64;
            }
            0.03 * (sum - 6.0)
        };
        let (mut inside, mut all) = (0, 0);
        for _ in 0..200 {
            let mut draw = |i: usize| {
                let sum = 100.0 * (1.0 + i as f64);
                point(sum, (20.0 + 1.05 * sum) * (1.0 + noise()))
            };
            let points = (0..12).map(&mut draw).collect();
            let fitted = Calibration::fit(Precision::F32, PhaseKind::Decode, points).unwrap();
            for i in 0..12 {
                let p = draw(i);
                let predicted = fitted.offset_us + fitted.gain * p.sum_us;
                let half_width_us = fitted.half_width90_us(p.sum_us);
                all += 1;
                inside += usize::from((predicted - p.measured_us).abs() <= half_width_us);
            }
        }
        let share = f64::from(inside as u32) / f64::from(all as u32);
        assert!((0.87..=0.93).contains(&share), "{share}");
    }

    #[test]
    fn the_interval_is_wider_beyond_the_networks_it_rests_on() {
        let points = [1.0, 1.02, 0.99, 1.01, 0.98].iter().enumerate();
        let points = points.map(|(i, error)| {
            let sum = 1000.0 + 100.0 * i as f64;
            point(sum, sum * error)
        });
        let fit = Calibration::fit(Precision::F32, PhaseKind::Decode, points.collect()).unwrap();
        let relative = |sum_us: f64| fit.half_width90_us(sum_us) / sum_us;
        assert!(relative(200.0) > 1.5 * relative(1200.0));
    }

    #[test]
    fn deviations_meet_in_the_middle() {
        let fit = |error: f64| {
            let points = (1..=10).map(|i| {
                let sum = 100.0 * f64::from(i);
                point(
                    sum,
                    sum * if i % 2 == 0 { 1.0 + error } else { 1.0 - error },
                )
            });
            Calibration::fit(Precision::F32, PhaseKind::Decode, points.collect()).unwrap()
        };
        let mut fits = [fit(0.005), fit(0.01), fit(0.03)];
        let before: Vec<f64> = fits.iter().map(|fit| fit.deviation).collect();
        Calibration::moderate(&mut fits);
        assert!(fits[0].deviation > before[0] && fits[2].deviation < before[2]);
        assert!((fits[1].deviation - before[1]).abs() < 1e-12);
        assert!(fits[0].deviation < fits[1].deviation && fits[1].deviation < fits[2].deviation);
    }
}
