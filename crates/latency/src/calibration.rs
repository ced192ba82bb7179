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
    /// Half of the 90 % prediction interval of a further network, as a share of its latency.
    pub half_width90: f64,
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
            // Leaving one out already contains the error of the fit.
            half_width90: student_t95(count - 2) * relative_error,
            points,
        })
    }

    /// The field that cannot be right, and its value.
    pub(crate) fn check(&self) -> Result<(), (&'static str, f64)> {
        for (field, value, range) in [
            ("offset_us", self.offset_us, -1e12..=1e12),
            ("gain", self.gain, 0.01..=100.0),
            ("relative_error", self.relative_error, 0.0..=100.0),
            ("half_width90", self.half_width90, 0.0..=1000.0),
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
                all += 1;
                inside +=
                    usize::from((predicted / p.measured_us - 1.0).abs() <= fitted.half_width90);
            }
        }
        let share = f64::from(inside as u32) / f64::from(all as u32);
        assert!((0.87..=0.94).contains(&share), "{share}");
    }
}
