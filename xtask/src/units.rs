//! Quantities with units on the command line.

/// `12ms`, `0.5s` or `900us`, in microseconds.
pub fn microseconds(text: &str) -> Result<f64, String> {
    quantity(text, &[("us", 1.0), ("ms", 1e3), ("s", 1e6)])
}

/// `300MB`, `1.5GiB` or `4096B`, in bytes.
pub fn bytes(text: &str) -> Result<f64, String> {
    let binary = |power: i32| 1024f64.powi(power);
    let units = [
        ("KiB", binary(1)),
        ("MiB", binary(2)),
        ("GiB", binary(3)),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    quantity(text, &units)
}

/// A positive number and one of the units; a unit that ends like another comes after it.
fn quantity(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * factor)
    });
    parsed
        .filter(|value| value.is_finite() && *value > 0.0)
        .ok_or_else(|| {
            let names: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
            format!(
                "`{text}`: expected a positive number with a unit: {}",
                names.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_counted() {
        for (text, expected) in [("12ms", 12e3), ("0.5 s", 5e5), ("900us", 900.0)] {
            assert_eq!(microseconds(text), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("300MB", 3e8),
            ("1.5GiB", 1.5 * 1_073_741_824.0),
            ("7B", 7.0),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["12", "ms", "-3ms", "NaNms", "infs", "3 parsecs", ""] {
            assert!(
                microseconds(text).unwrap_err().contains("us, ms, s"),
                "{text}"
            );
        }
    }
}
