//! Numbers as people read them: three digits that matter, a unit, a real minus sign.

use crate::data::Unit;

/// Separates a number from its unit and groups of digits from each other, without a line break.
const NARROW_SPACE: char = '\u{202f}';

/// `value` rounded to three significant digits.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// Three significant digits without exponent: `0.00123`, `12.3`, `1 230 000`.
pub(crate) fn significant(value: f64) -> String {
    let value = rounded(value);
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e7).contains(&magnitude) {
        return signed(format!("{value:.1e}"));
    }
    let exponent = if magnitude > 0.0 {
        magnitude.log10().floor() as i32
    } else {
        2
    };
    let decimals = usize::try_from(2 - exponent).unwrap_or(0);
    fixed(value, decimals)
}

/// `value` with so many decimals, digits grouped by three.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let is_zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    let mut out = String::from(if value < 0.0 && !is_zero {
        "\u{2212}"
    } else {
        ""
    });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && whole.len() > 4 {
            out.push(NARROW_SPACE);
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

fn signed(text: String) -> String {
    text.replace('-', "\u{2212}")
}

/// The largest unit of `units` (ascending) that leaves at least 1 after rounding.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let magnitude = rounded(value.abs());
    let fits = units
        .iter()
        .rev()
        .find(|(size, _)| rounded(magnitude / size) >= 1.0);
    let Some((size, unit)) = fits.or(units.first()) else {
        return significant(value);
    };
    join(&significant(value / size), unit)
}

fn join(number: &str, unit: &str) -> String {
    if unit.is_empty() {
        number.to_owned()
    } else {
        format!("{number}{NARROW_SPACE}{unit}")
    }
}

/// A time: `850 µs`, `12.3 ms`, `1.52 s`.
pub(crate) fn duration_us(value: f64) -> String {
    scaled(value, &[(1.0, "µs"), (1e3, "ms"), (1e6, "s")])
}

/// A number of things: `9216`, `49.2 k`, `135 M`, `1.71 B`.
pub(crate) fn count(value: f64) -> String {
    if value.abs() < 10_000.0 && value.fract() == 0.0 {
        return fixed(value, 0);
    }
    scaled(
        value,
        &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")],
    )
}

/// A size in memory: `512 KiB`, `257 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    let mib = KIB * KIB;
    scaled(
        value,
        &[(1.0, "B"), (KIB, "KiB"), (mib, "MiB"), (mib * KIB, "GiB")],
    )
}

/// A percentage with one decimal: `4.2 %`.
pub(crate) fn percent(value: f64) -> String {
    join(&fixed(value, if value.abs() < 99.95 { 1 } else { 0 }), "%")
}

/// A percentage that says its direction: `+4.2 %`, `−12.0 %`.
pub(crate) fn signed_percent(value: f64) -> String {
    let text = percent(value);
    if value > 0.0 && percent(0.0) != text {
        format!("+{text}")
    } else {
        text
    }
}

/// How many times one value is another: `1.42×`.
pub(crate) fn ratio(value: f64) -> String {
    format!("{}×", significant(value))
}

/// `value` in `unit`.
pub(crate) fn with_unit(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Microseconds => duration_us(value),
        Unit::Bytes => bytes(value),
        Unit::Count => count(value),
        Unit::Percent => percent(value),
        Unit::Plain => significant(value),
    }
}

/// `count` things, `many` unless there is exactly one.
pub(crate) fn plural(count: usize, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        fixed(count as f64, 0),
        if count == 1 { one } else { many }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: String) -> String {
        text.replace(NARROW_SPACE, " ")
    }

    #[test]
    fn times_take_the_unit_that_reads_best() {
        assert_eq!(plain(duration_us(850.0)), "850 µs");
        assert_eq!(plain(duration_us(12_345.0)), "12.3 ms");
        assert_eq!(plain(duration_us(1_520_000.0)), "1.52 s");
        assert_eq!(plain(duration_us(999.7)), "1.00 ms");
        assert_eq!(plain(duration_us(0.0)), "0 µs");
        assert_eq!(plain(duration_us(-12.0)), "\u{2212}12.0 µs");
    }

    #[test]
    fn counts_and_sizes_keep_three_digits() {
        assert_eq!(plain(count(134_515_008.0)), "135 M");
        assert_eq!(plain(count(1_711_000_000.0)), "1.71 B");
        assert_eq!(plain(count(9216.0)), "9216");
        assert_eq!(plain(bytes(269_000_000.0)), "257 MiB");
        assert_eq!(plain(bytes(0.0)), "0 B");
    }

    #[test]
    fn plain_numbers_group_and_round() {
        assert_eq!(plain(significant(1_234_567.0)), "1 230 000");
        assert_eq!(significant(0.001_234), "0.00123");
        assert_eq!(plain(signed_percent(4.21)), "+4.2 %");
        assert_eq!(plain(signed_percent(-0.01)), "0.0 %");
        assert_eq!(ratio(1.4159), "1.42×");
        assert_eq!(significant(1e300), "1.0e300");
    }
}
