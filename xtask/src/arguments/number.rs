//! Numbers in their ranges.

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Members of a population: all of it is drawn, and compared, at once.
pub(super) fn population(text: &str) -> Result<usize, String> {
    const MOST: usize = 100_000;
    match text.parse() {
        Ok(members @ 1..=MOST) => Ok(members),
        Ok(_) | Err(_) => Err(format!("expected a whole number from 1 to {MOST}")),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err("expected a number above 0".to_owned()),
    }
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err("expected a number from 0 on".to_owned()),
    }
}

/// A part of a whole.
pub(super) fn fraction(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(number @ 0.0..=1.0) => Ok(number),
        Ok(_) | Err(_) => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// A share of a latency.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if share > 0.0 && share <= 1.0 {
        Ok(share)
    } else {
        Err("expected more than 0 and at most 1".to_owned())
    }
}
