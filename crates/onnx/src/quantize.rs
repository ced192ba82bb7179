//! Blockwise quantisation of matrices, as ONNX Runtime's `MatMulNBits` reads them.
//!
//! Weights that follow each other along the input dimension share a scale, [`QUANTIZATION_BLOCK`]
//! at a time. Symmetric: a weight is `scale * (q - 2^(bits-1))`, and the scale is signed so that
//! the weight of the largest magnitude is met exactly (as in llama.cpp's Q4_0).

use lathe_arch::{Precision, QUANTIZATION_BLOCK};

/// A quantised matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// `[outputs, blocks, QUANTIZATION_BLOCK * bits / 8]`; of two 4-bit weights in a byte the
    /// first is the lower half. The last block is padded with zero weights.
    pub weights: Vec<u8>,
    /// `[outputs, blocks]`
    pub scales: Vec<f32>,
}

/// Quantises the rows of a matrix `[outputs, inputs]`, given row by row.
///
/// # Panics
/// When `precision` is f32, which has no blocks.
pub fn quantize<'a>(rows: impl Iterator<Item = &'a [f32]>, precision: Precision) -> Quantized {
    let bits = precision.bits();
    assert!(bits <= 8, "{precision} is not a blockwise precision");
    let mut quantized = Quantized {
        weights: Vec::new(),
        scales: Vec::new(),
    };
    for block in rows.flat_map(|row| row.chunks(QUANTIZATION_BLOCK)) {
        let (levels, scale) = levels(block, bits);
        quantized.scales.push(scale);
        match bits {
            4 => quantized
                .weights
                .extend(levels.chunks(2).map(|pair| pair[0] | pair[1] << 4)),
            _ => quantized.weights.extend(levels),
        }
    }
    quantized
}

/// The levels of one block, padded, and its scale.
fn levels(block: &[f32], bits: usize) -> ([u8; QUANTIZATION_BLOCK], f32) {
    let zero = (1u32 << (bits - 1)) as f32;
    let largest = block.iter().copied().fold(0.0f32, |largest, value| {
        if value.abs() > largest.abs() {
            value
        } else {
            largest
        }
    });
    let scale = -largest / zero;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut levels = [zero as u8; QUANTIZATION_BLOCK];
    for (level, value) in levels.iter_mut().zip(block) {
        // Saturating: the conversion clamps below at 0.
        *level = (value * inverse + zero).round().min(2.0 * zero - 1.0) as u8;
    }
    (levels, scale)
}

/// The values that a quantised matrix stands for, `[outputs, inputs]` row by row.
pub fn dequantize(quantized: &Quantized, inputs: usize, precision: Precision) -> Vec<f32> {
    let bits = precision.bits();
    let zero = (1i32 << (bits - 1)) as f32;
    let per_block = QUANTIZATION_BLOCK * bits / 8;
    let blocks_per_row = inputs.div_ceil(QUANTIZATION_BLOCK).max(1);
    let mut values = Vec::new();
    for (index, (bytes, scale)) in quantized
        .weights
        .chunks(per_block)
        .zip(&quantized.scales)
        .enumerate()
    {
        let levels = bytes.iter().flat_map(|byte| match bits {
            4 => [Some(byte & 15), Some(byte >> 4)],
            _ => [Some(*byte), None],
        });
        let start = index % blocks_per_row * QUANTIZATION_BLOCK;
        let count = QUANTIZATION_BLOCK.min(inputs - start);
        values.extend(
            levels
                .flatten()
                .take(count)
                .map(|level| scale * (f32::from(level) - zero)),
        );
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_weights;

    #[test]
    fn values_return_within_half_a_step() {
        for (precision, steps) in [(Precision::Int8, 128.0), (Precision::Int4, 8.0)] {
            // 40 inputs: the second block of each row is padded.
            let matrix = random_weights(3 * 40, 5);
            let quantized = quantize(matrix.chunks(40), precision);
            assert_eq!(quantized.scales.len(), 3 * 2);
            assert_eq!(
                (quantized.weights.len() + 4 * quantized.scales.len()) as u64,
                precision.matrix_bytes(40, 3)
            );
            let back = dequantize(&quantized, 40, precision);
            assert_eq!(back.len(), matrix.len());
            for (row, (was, is)) in matrix.chunks(40).zip(back.chunks(40)).enumerate() {
                for (at, (was, is)) in was.iter().zip(is).enumerate() {
                    let scale = quantized.scales[2 * row + at / 32].abs();
                    // The far end on the other side has a level less: up to a whole step.
                    let step = if was.abs() > scale * (steps - 1.0) {
                        1.0
                    } else {
                        0.5
                    };
                    assert!((was - is).abs() <= step * scale * 1.0001, "{was} {is}");
                }
            }
        }
    }

    #[test]
    fn the_largest_weight_is_exact_and_zeros_stay_zero() {
        let row = [0.5f32, -1.0, 0.25, 0.0];
        let quantized = quantize([&row[..]].into_iter(), Precision::Int4);
        assert_eq!(dequantize(&quantized, 4, Precision::Int4)[1], -1.0);
        let zeros = [0.0f32; 32];
        let quantized = quantize([&zeros[..]].into_iter(), Precision::Int8);
        assert_eq!(dequantize(&quantized, 32, Precision::Int8), zeros);
    }
}
