//! Values as a Gaussian process sees them: with mean 0 and variance 1, and where that makes them more
//! likely, drawn together at the upper end (Snelson, Rasmussen & Ghahramani 2003, "Warped Gaussian
//! processes").

/// Distance of the lowest value from the pole of the power, as a share of the range.
const OFFSET: f64 = 0.01;

/// `((value - least) / range + OFFSET) ^ power`, shifted and scaled: rises with the value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Warp {
    least: f64,
    range: f64,
    power: f64,
    mean: f64,
    deviation: f64,
}

impl Warp {
    /// The warp that gives `values` mean 0 and variance 1; `None` where they are all equal.
    pub fn new(values: &[f64], power: f64) -> Option<Self> {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let plain = Self {
            least,
            range: most - least,
            power,
            mean: 0.0,
            deviation: 1.0,
        };
        let warped = || values.iter().map(|value| plain.apply(*value));
        let count = values.len() as f64;
        let mean = warped().sum::<f64>() / count;
        let variance = warped().map(|w| (w - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        (deviation.is_finite() && deviation > 0.0).then_some(Self {
            mean,
            deviation,
            ..plain
        })
    }

    pub fn apply(&self, value: f64) -> f64 {
        (self.share(value).powf(self.power) - self.mean) / self.deviation
    }

    /// Logarithm of the slope at `values`, summed: what makes likelihoods of two warps comparable.
    pub fn log_slope(&self, values: &[f64]) -> f64 {
        let constant = (self.power / (self.deviation * self.range)).ln();
        let each = |value: &f64| constant + (self.power - 1.0) * self.share(*value).ln();
        values.iter().map(each).sum()
    }

    fn share(&self, value: f64) -> f64 {
        ((value - self.least) / self.range + OFFSET).max(OFFSET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_standardised_in_their_order_and_the_slope_is_the_derivative() {
        let values = [3.0, 0.1, 20.0, 0.5];
        for power in [1.0, 0.5, 0.25] {
            let warp = Warp::new(&values, power).unwrap();
            let warped = values.map(|value| warp.apply(value));
            assert!(warped.iter().sum::<f64>().abs() < 1e-12);
            assert!((warped.iter().map(|w| w * w).sum::<f64>() - 4.0).abs() < 1e-9);
            assert!(warped[1] < warped[3] && warped[3] < warped[0] && warped[0] < warped[2]);
            let slopes = [3.0, 0.5].map(|v| (warp.apply(v + 1e-6) - warp.apply(v)) / 1e-6);
            let log = slopes.iter().map(|slope| slope.ln()).sum::<f64>();
            assert!((warp.log_slope(&[3.0, 0.5]) - log).abs() < 1e-4);
        }
        assert!(Warp::new(&[2.0; 3], 1.0).is_none());
    }
}
