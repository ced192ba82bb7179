//! Quantisation of matrices, as ONNX Runtime's `MatMulNBits` and `MatMulInteger` read them.
//!
//! Weights that follow each other along the input dimension share a scale, [`QUANTIZATION_BLOCK`]
//! at a time, or in W8A8 all of an output. Symmetric: a weight is `scale * (q - 2^(bits-1))`, and the
//! scale is signed so that the weight of the largest magnitude is met exactly (as in llama.cpp's Q4_0).

use crate::{Precision, QUANTIZATION_BLOCK};

/// A quantised matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Of [`quantize`] `[outputs, blocks, QUANTIZATION_BLOCK * bits / 8]`; of two 4-bit weights in a byte the
    /// first is the lower half. The last block is padded with zero weights.
    pub weights: Vec<u8>,
    /// Of [`quantize`] `[outputs, blocks]`.
    pub scales: Vec<f32>,
}

/// Quantises the rows of a matrix `[outputs, inputs]`, given row by row.
///
/// # Panics
/// When `precision` is f32 or W8A8, which have no blocks.
pub fn quantize<'a>(rows: impl Iterator<Item = &'a [f32]>, precision: Precision) -> Quantized {
    let is_blockwise = matches!(precision, Precision::Int8 | Precision::Int4);
    assert!(is_blockwise, "{precision} is not a blockwise precision");
    let bits = precision.bits();
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

/// Quantises a matrix `[inputs, outputs]` in W8A8: a weight is its column's scale times its integer. The
/// weights are `[inputs, outputs]`, signed bytes from -64 to 63, the scales `[outputs]`.
///
/// # Panics
/// When `outputs` is 0 or `matrix` no whole number of rows.
pub fn quantize_columns(matrix: &[f32], outputs: usize) -> Quantized {
    assert!(matrix.len().is_multiple_of(outputs), "a row is cut short");
    let mut columns = Columns::new(outputs, Precision::W8A8);
    columns.scale(matrix);
    let integers = matrix.iter().zip(columns.inverses.iter().cycle());
    let integers = integers.map(|(value, inverse)| columns.integer(*value, *inverse) as i8);
    Quantized {
        weights: integers.map(i8::cast_unsigned).collect(),
        scales: columns.scales.clone(),
    }
}

/// Scales for the columns of a matrix, or of a block of its rows.
struct Columns {
    /// Half of the integers there are.
    zero: f32,
    scales: Vec<f32>,
    inverses: Vec<f32>,
}

impl Columns {
    fn new(outputs: usize, precision: Precision) -> Self {
        Self {
            zero: (1u32 << (precision.bits() - 1)) as f32,
            scales: vec![0.0; outputs],
            inverses: vec![0.0; outputs],
        }
    }

    /// Takes the scales of the rows of `block`.
    fn scale(&mut self, block: &[f32]) {
        let outputs = self.scales.len();
        // First the values of the largest magnitude, then the scales.
        self.scales.fill(0.0);
        for row in block.chunks_exact(outputs) {
            for (largest, value) in self.scales.iter_mut().zip(row) {
                *largest = match value.abs() > largest.abs() {
                    true => *value,
                    false => *largest,
                };
            }
        }
        for (scale, inverse) in self.scales.iter_mut().zip(&mut self.inverses) {
            *scale = -*scale / self.zero;
            *inverse = if *scale == 0.0 { 0.0 } else { 1.0 / *scale };
        }
    }

    /// The integer that stands for a value, given one over its column's scale.
    fn integer(&self, value: f32, inverse: f32) -> f32 {
        let level = round(value * inverse + self.zero);
        level.clamp(0.0, 2.0 * self.zero - 1.0) - self.zero
    }
}

/// Replaces a matrix by what its quantised form stands for.
///
/// `matrix` is `[inputs, outputs]`, row by row: the transpose of what [`quantize`] takes, what shares a
/// scale running down the columns. In f32 nothing changes.
///
/// # Panics
/// When `matrix` is no whole number of rows.
pub fn round_trip(matrix: &mut [f32], outputs: usize, precision: Precision) {
    if precision == Precision::F32 || matrix.is_empty() {
        return;
    }
    assert!(matrix.len().is_multiple_of(outputs), "a row is cut short");
    let mut columns = Columns::new(outputs, precision);
    let rows = precision.sharing_a_scale(matrix.len() / outputs);
    for block in matrix.chunks_mut(rows * outputs) {
        columns.scale(block);
        for row in block.chunks_exact_mut(outputs) {
            let scales = columns.scales.iter().zip(&columns.inverses);
            for (value, (scale, inverse)) in row.iter_mut().zip(scales) {
                *value = scale * columns.integer(*value, *inverse);
            }
        }
    }
}

/// The nearest whole number, of two the even one. `value` is between -2^22 and 2^22. As
/// `f32::round_ties_even`, which is a call for every number where the processor's instruction for it is
/// not taken for granted.
fn round_ties_even(value: f32) -> f32 {
    // Beyond 2^23 there are only whole numbers.
    const ONLY_WHOLE: f32 = 1.5 * 8_388_608.0;
    (value + ONLY_WHOLE) - ONLY_WHOLE
}

/// The nearest whole number, of two the greater one. Within the bounds of [`round_ties_even`]; of numbers
/// that are not negative it is what `f32::round` gives, which is a call, likewise.
fn round(value: f32) -> f32 {
    let even = round_ties_even(value);
    match value - even >= 0.5 {
        true => even + 1.0,
        false => even,
    }
}

/// Replaces the rows of activations by what the kernels for weights in `precision` make of them: 8-bit
/// integers, the largest magnitude at 127 of a block of [`QUANTIZATION_BLOCK`] (`accuracy_level` 4), or
/// in W8A8 of a row. In f32 nothing changes.
///
/// `rows` is `[tokens, width]`.
///
/// # Panics
/// When `width` is 0.
pub fn round_activations(rows: &mut [f32], width: usize, precision: Precision) {
    if precision == Precision::F32 {
        return;
    }
    for row in rows.chunks_mut(width) {
        for block in row.chunks_mut(precision.sharing_a_scale(width)) {
            let largest = block.iter().fold(0.0f32, |m, value| m.max(value.abs()));
            let scale = largest / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for value in block {
                *value = round_ties_even(*value * inverse) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 that repeat for equal seeds.
    fn random_weights(count: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_round_trip_is_what_the_quantised_matrix_stands_for() {
        for precision in [Precision::Int8, Precision::Int4] {
            let (inputs, outputs) = (40, 3);
            let rows = random_weights(outputs * inputs, 9);
            let want = dequantize(&quantize(rows.chunks(inputs), precision), inputs, precision);
            let transposed = |rows: &[f32]| -> Vec<f32> {
                let at = |i: usize| rows[i % outputs * inputs + i / outputs];
                (0..rows.len()).map(at).collect()
            };
            let mut got = transposed(&rows);
            round_trip(&mut got, outputs, precision);
            assert_eq!(got, transposed(&want));
            // What was rounded once stays.
            let once = got.clone();
            round_trip(&mut got, outputs, precision);
            for (once, twice) in once.iter().zip(&got) {
                assert!((once - twice).abs() <= 1e-6);
            }
        }
    }

    #[test]
    fn w8a8_has_a_scale_for_each_output_and_integers_of_seven_bits() {
        let (inputs, outputs) = (70, 3);
        let matrix = random_weights(inputs * outputs, 3);
        let quantized = quantize_columns(&matrix, outputs);
        let bytes = quantized.weights.len() + 4 * quantized.scales.len();
        let want = Precision::W8A8.matrix_bytes(inputs as u64, outputs as u64);
        assert_eq!(bytes as u64, want);
        let mut rounded = matrix.clone();
        round_trip(&mut rounded, outputs, Precision::W8A8);
        for (at, (was, is)) in matrix.iter().zip(&rounded).enumerate() {
            let scale = quantized.scales[at % outputs];
            let integer = quantized.weights[at].cast_signed();
            assert!((-64..64).contains(&integer), "{integer}");
            assert_eq!(*is, scale * f32::from(integer));
            assert!((was - is).abs() <= 1.0001 * scale.abs());
        }
        for column in 0..outputs {
            let of_column = || (column..matrix.len()).step_by(outputs);
            let largest = of_column().max_by(|a, b| matrix[*a].abs().total_cmp(&matrix[*b].abs()));
            let largest = largest.unwrap();
            assert_eq!(quantized.weights[largest].cast_signed(), -64);
            assert_eq!(rounded[largest], matrix[largest]);
        }
        let nothing = quantize_columns(&[0.0; 6], 2);
        assert_eq!(
            (nothing.weights, nothing.scales),
            (vec![0; 6], vec![-0.0; 2])
        );
    }

    #[test]
    fn numbers_are_rounded_as_the_standard_library_rounds_them() {
        let halves = (0..600).map(|step| step as f32 / 2.0);
        let near = halves.flat_map(|half| [half.next_down(), half, half.next_up()]);
        let random = random_weights(1000, 11).into_iter().map(|x| 127.0 * x);
        for value in near.chain(random) {
            assert_eq!(round_ties_even(value), value.round_ties_even(), "{value}");
            assert_eq!(round(value.abs()), value.abs().round(), "{value}");
        }
    }

    #[test]
    fn activations_are_within_half_a_step() {
        let was = random_weights(2 * 50, 4);
        let mut is = was.clone();
        round_activations(&mut is, 50, Precision::Int8);
        assert_ne!(was, is);
        for (was, is) in was.iter().zip(&is) {
            assert!((was - is).abs() <= 0.5001 / 127.0);
        }
    }

    #[test]
    fn a_row_of_activations_in_w8a8_has_one_scale() {
        let mut row = vec![0.3; 50];
        row[49] = 127.0;
        round_activations(&mut row, 50, Precision::W8A8);
        assert_eq!(row, [vec![0.0; 49], vec![127.0]].concat());
        let mut zeros = [0.0; 4];
        round_activations(&mut zeros, 2, Precision::W8A8);
        assert_eq!(zeros, [0.0; 4]);
    }

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
