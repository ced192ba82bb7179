//! Axes: from a quantity to a place on the page, and ticks at round numbers.

use crate::format;

/// How distances on an axis relate to the quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Equal differences are equally long.
    Linear,
    /// Equal ratios are equally long.
    Log,
}

/// Ratio of largest to smallest value from which a logarithmic axis shows more.
const LOG_FROM_RATIO: f64 = 6.0;

/// Spans narrower than this share of the value are widened: below it, ticks would repeat.
const NARROWEST_SPAN: f64 = 1e-3;

/// Room left beyond the outermost values, as a share of the axis.
const MARGIN: f64 = 0.05;

/// One axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// How it is divided.
    pub(crate) kind: Kind,
    /// The quantity at both ends.
    pub(crate) domain: (f64, f64),
    /// The page coordinate at both ends.
    pub(crate) range: (f64, f64),
}

impl Scale {
    /// An axis over positive `values`, logarithmic when they span enough.
    pub(crate) fn fitted(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let (low, high) = extent(values);
        let kind = if high / low >= LOG_FROM_RATIO {
            Kind::Log
        } else {
            Kind::Linear
        };
        Self::between(kind, low, high, range)
    }

    /// A linear axis over positive `values`.
    pub(crate) fn linear(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let (low, high) = extent(values);
        Self::between(Kind::Linear, low, high, range)
    }

    /// A linear axis from zero over positive `values`.
    pub(crate) fn from_zero(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let mut scale = Self::linear(values, range);
        scale.domain.0 = 0.0;
        scale
    }

    fn between(kind: Kind, low: f64, high: f64, range: (f64, f64)) -> Self {
        let (low, high) = widened(low, high);
        let domain = match kind {
            Kind::Linear => {
                let margin = (high - low) * MARGIN;
                ((low - margin).max(0.0), high + margin)
            }
            Kind::Log => {
                let factor = (high / low).powf(MARGIN);
                (low / factor, high * factor)
            }
        };
        Self {
            kind,
            domain,
            range,
        }
    }

    /// Where `value` lies on the page.
    pub(crate) fn position(&self, value: f64) -> f64 {
        let along = |v: f64| match self.kind {
            Kind::Linear => v,
            Kind::Log => v.max(f64::MIN_POSITIVE).ln(),
        };
        let (low, high) = (along(self.domain.0), along(self.domain.1));
        let share = (along(value) - low) / (high - low);
        self.range.0 + share * (self.range.1 - self.range.0)
    }

    /// The same axis counted in multiples of `unit`.
    pub(crate) fn per(&self, unit: f64) -> Self {
        Self {
            domain: (self.domain.0 / unit, self.domain.1 / unit),
            ..*self
        }
    }

    /// At most about `most` round numbers inside the axis, with their labels.
    pub(crate) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        match self.kind {
            Kind::Linear => linear_ticks(self.domain, most),
            Kind::Log => log_ticks(self.domain, most),
        }
    }

    /// For the script: `log 12.1 930 340 20`.
    pub(crate) fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Linear => "linear",
            Kind::Log => "log",
        };
        let ((a, b), (from, to)) = (self.domain, self.range);
        format!("{kind} {a} {b} {from} {to}")
    }
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold((f64::INFINITY, 0.0), |(low, high), v| {
            (v.min(low), v.max(high))
        });
    // Far enough from the ends of f64 that no margin overflows.
    if low > high {
        (1.0, 2.0)
    } else {
        (low.clamp(1e-100, 1e100), high.clamp(1e-100, 1e100))
    }
}

fn widened(low: f64, high: f64) -> (f64, f64) {
    if high - low >= high * NARROWEST_SPAN {
        (low, high)
    } else {
        (low * 0.95, high * 1.05)
    }
}

/// Ticks at multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks((low, high): (f64, f64), most: usize) -> Vec<(f64, String)> {
    let step = nice_step((high - low) / most.max(1) as f64);
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).clamp(0.0, 2.0 * most as f64) as usize;
    let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    (0..=count)
        .map(|i| (first + i as f64) * step)
        .map(|value| (value, tick_label(value, decimals)))
        .collect()
}

fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The densest of the usual subdivisions of a decade that fits; linear ticks in a short span.
fn log_ticks((low, high): (f64, f64), most: usize) -> Vec<(f64, String)> {
    let subdivisions: [&[f64]; 4] = [
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
        &[1.0],
    ];
    let densest = subdivisions
        .iter()
        .map(|factors| decade_ticks(low, high, factors))
        .find(|ticks| ticks.len() <= most);
    let ticks = densest.unwrap_or_else(|| {
        let decades = decade_ticks(low, high, &[1.0]);
        let keep_every = decades.len().div_ceil(most.max(1));
        decades.into_iter().step_by(keep_every).collect()
    });
    if ticks.len() < 3 {
        return linear_ticks((low, high), most);
    }
    ticks
        .into_iter()
        .map(|value| (value, tick_label(value, log_decimals(value))))
        .collect()
}

fn decade_ticks(low: f64, high: f64, factors: &[f64]) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().floor() as i32);
    (first..=last)
        .flat_map(|exponent| factors.iter().map(move |f| f * 10f64.powi(exponent)))
        .filter(|v| (low..=high).contains(v))
        .collect()
}

fn log_decimals(value: f64) -> usize {
    (-(value.log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize
}

fn tick_label(value: f64, decimals: usize) -> String {
    if value.abs() >= 1e6 || decimals > 6 {
        return exponent_label(value);
    }
    format::fixed(value, decimals)
}

fn exponent_label(value: f64) -> String {
    let text = format!("{value:.1e}").replace(".0e", "e");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let raised: String = exponent.chars().map(superscript).collect();
    if mantissa == "1" {
        format!("10{raised}")
    } else {
        format!("{mantissa}·10{raised}")
    }
}

fn superscript(digit: char) -> char {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    digit
        .to_digit(10)
        .and_then(|d| DIGITS.get(d as usize).copied())
        .unwrap_or('⁻')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, most: usize) -> Vec<String> {
        scale
            .ticks(most)
            .into_iter()
            .map(|(_, label)| label)
            .collect()
    }

    #[test]
    fn linear_ticks_are_round_and_inside() {
        let scale = Scale::linear([3.2, 12.4].into_iter(), (0.0, 100.0));
        assert_eq!(labels(scale, 6), ["4", "6", "8", "10", "12"]);
        assert!(
            scale
                .ticks(6)
                .iter()
                .all(|(v, _)| (0.0..=100.0).contains(&scale.position(*v)))
        );
    }

    #[test]
    fn wide_ranges_turn_logarithmic() {
        let scale = Scale::fitted([12.0, 4000.0].into_iter(), (100.0, 0.0));
        assert_eq!(scale.kind, Kind::Log);
        assert_eq!(labels(scale, 6), ["10", "30", "100", "300", "1000", "3000"]);
        let middle = scale.position((12.0f64 * 4000.0).sqrt());
        assert!((middle - 50.0).abs() < 1e-9, "{middle}");
    }

    #[test]
    fn narrow_ranges_stay_linear() {
        let scale = Scale::fitted([12.0, 30.0].into_iter(), (0.0, 1.0));
        assert_eq!(scale.kind, Kind::Linear);
    }

    #[test]
    fn extreme_inputs_keep_the_ticks_few_and_finite() {
        for values in [
            vec![],
            vec![7.0; 4],
            vec![1e-300, 1e300],
            vec![1e300],
            vec![1.0, 1.0 + 1e-15],
        ] {
            let scale = Scale::fitted(values.iter().copied(), (0.0, 100.0));
            let ticks = scale.ticks(6);
            assert!((1..=13).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(ticks.iter().all(|(v, _)| scale.position(*v).is_finite()));
        }
    }
}
