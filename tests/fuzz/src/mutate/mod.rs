//! Changes of inputs, one at a time.

mod bytes;
pub mod gguf;
pub mod safetensors;
mod tree;

use rand::{Rng, RngExt};

pub use bytes::bytes;
pub use tree::{json, json_lines, text_lines, yaml};

/// Numbers at which readers go wrong.
const EXTREMES: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65535,
    65536,
    1 << 20,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 48,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// True once in `n` times.
pub fn one_in(rng: &mut impl Rng, n: u32) -> bool {
    rng.random_range(0..n) == 0
}

/// One of several.
fn pick<'a, T>(rng: &mut impl Rng, items: &'a [T]) -> Option<&'a T> {
    let at = (!items.is_empty()).then(|| rng.random_range(0..items.len()))?;
    items.get(at)
}

fn extreme(rng: &mut impl Rng) -> u64 {
    EXTREMES[rng.random_range(0..EXTREMES.len())]
}

/// A size that is near another, or extreme.
fn changed(rng: &mut impl Rng, number: u64) -> u64 {
    match rng.random_range(0..5) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => number.wrapping_mul(2),
        3 => number ^ (1 << rng.random_range(0..64)),
        _ => extreme(rng),
    }
}
