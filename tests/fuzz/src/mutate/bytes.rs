use rand::{Rng, RngExt};

use super::extreme;

/// Longest piece that is removed, doubled or overwritten.
const MAX_PIECE: usize = 64;

/// Changes some bytes, whatever they mean.
pub fn bytes(input: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut out = input.to_vec();
    let at = rng.random_range(0..=out.len());
    let piece = rng.random_range(1..=MAX_PIECE).min(out.len() - at);
    match rng.random_range(0..7) {
        0 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
        1 if at < out.len() => out[at] = rng.random(),
        2 => out.truncate(at),
        3 => drop(out.drain(at..at + piece)),
        4 => {
            let doubled = out[at..at + piece].to_vec();
            out.splice(at..at, doubled);
        }
        5 => {
            let number = extreme(rng).to_le_bytes();
            let width = [1, 2, 4, 8][rng.random_range(0..4)].min(out.len() - at);
            out[at..at + width].copy_from_slice(&number[..width]);
        }
        _ => {
            let new: Vec<u8> = (0..piece.max(1)).map(|_| rng.random()).collect();
            out.splice(at..at, new);
        }
    }
    out
}
