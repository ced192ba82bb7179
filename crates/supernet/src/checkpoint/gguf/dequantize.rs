//! ggml's block formats (ggml-common.h and ggml-quants.c) to f32.

use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers of a "K" super-block.
const SUPER_BLOCK: usize = 256;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 numbers: f16 scale, 4-bit offsets from -8.
    Q4_0,
    /// 32 numbers: f16 scale and minimum, 4 bits.
    Q4_1,
    /// 32 numbers: f16 scale, 5-bit offsets from -16.
    Q5_0,
    /// 32 numbers: f16 scale, 8 bits.
    Q8_0,
    /// 256 numbers: eight 6-bit scales and minima, 4 bits.
    Q4K,
    /// 256 numbers: sixteen 8-bit scales, 6-bit offsets from -32.
    Q6K,
}

impl TensorType {
    const ALL: [(u32, TensorType); 9] = [
        (0, TensorType::F32),
        (1, TensorType::F16),
        (2, TensorType::Q4_0),
        (3, TensorType::Q4_1),
        (6, TensorType::Q5_0),
        (8, TensorType::Q8_0),
        (12, TensorType::Q4K),
        (14, TensorType::Q6K),
        (30, TensorType::Bf16),
    ];

    /// The type with ggml's number `id`, if it is supported.
    pub fn from_id(id: u32) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == id);
        found.map(|(_, tensor_type)| *tensor_type)
    }

    pub(super) fn names() -> String {
        let names = Self::ALL.map(|(id, tensor_type)| format!("{tensor_type:?} ({id})"));
        names.join(", ")
    }

    /// Numbers and bytes of one block.
    fn block(self) -> (usize, usize) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::Bf16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q5_0 => (32, 22),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q4K => (SUPER_BLOCK, 144),
            TensorType::Q6K => (SUPER_BLOCK, 210),
        }
    }

    /// Bytes of `numbers` numbers in rows of `row_len`; `None` when rows are not whole blocks or
    /// the size overflows.
    pub(super) fn byte_len(self, row_len: usize, numbers: usize) -> Option<usize> {
        let (block, bytes) = self.block();
        if !row_len.is_multiple_of(block) {
            return None;
        }
        (numbers / block).checked_mul(bytes)
    }

    /// The numbers of whole blocks.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let (numbers, block_bytes) = self.block();
        let mut out = vec![0.0; bytes.len() / block_bytes * numbers];
        const BLOCKS_PER_TASK: usize = 1 << 10;
        out.par_chunks_mut(numbers * BLOCKS_PER_TASK)
            .zip(bytes.par_chunks(block_bytes * BLOCKS_PER_TASK))
            .for_each(|(out, bytes)| {
                let blocks = out.chunks_exact_mut(numbers);
                for (out, block) in blocks.zip(bytes.chunks_exact(block_bytes)) {
                    self.dequantize_block(out, block);
                }
            });
        out
    }

    fn dequantize_block(self, out: &mut [f32], block: &[u8]) {
        match self {
            TensorType::F32 => {
                out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]])
            }
            TensorType::F16 => out[0] = half(block, 0),
            TensorType::Bf16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            TensorType::Q4_0 => {
                let scale = half(block, 0);
                nibbles(out, &block[2..], |q, _| (f32::from(q) - 8.0) * scale);
            }
            TensorType::Q4_1 => {
                let (scale, minimum) = (half(block, 0), half(block, 2));
                nibbles(out, &block[4..], |q, _| f32::from(q) * scale + minimum);
            }
            TensorType::Q5_0 => {
                let scale = half(block, 0);
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                nibbles(out, &block[6..], |q, i| {
                    let q = q | ((high >> i & 1) as u8) << 4;
                    (f32::from(q) - 16.0) * scale
                });
            }
            TensorType::Q8_0 => {
                let scale = half(block, 0);
                for (out, q) in out.iter_mut().zip(&block[2..]) {
                    *out = f32::from(*q as i8) * scale;
                }
            }
            TensorType::Q4K => q4_k(out, block),
            TensorType::Q6K => q6_k(out, block),
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The first half of the numbers sits in the low nibbles, the second in the high ones.
fn nibbles(out: &mut [f32], bytes: &[u8], value: impl Fn(u8, usize) -> f32) {
    let half = out.len() / 2;
    for (i, byte) in bytes[..half].iter().enumerate() {
        out[i] = value(byte & 15, i);
        out[i + half] = value(byte >> 4, i + half);
    }
}

fn q4_k(out: &mut [f32], block: &[u8]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    let (scales, quants) = (&block[4..16], &block[16..]);
    // Six bits each: the first four pairs lie in the low bits of bytes 0..8, the last four are
    // split over the nibbles of bytes 8..12 and the high bits of bytes 0..8.
    let pair = |j: usize| match j {
        0..4 => (scales[j] & 63, scales[j + 4] & 63),
        _ => (
            scales[j + 4] & 15 | (scales[j - 4] >> 6) << 4,
            scales[j + 4] >> 4 | (scales[j] >> 6) << 4,
        ),
    };
    for (chunk, out) in out.chunks_exact_mut(64).enumerate() {
        let quants = &quants[chunk * 32..][..32];
        for (part, out) in out.chunks_exact_mut(32).enumerate() {
            let (s, m) = pair(2 * chunk + part);
            let (s, m) = (scale * f32::from(s), minimum * f32::from(m));
            for (out, q) in out.iter_mut().zip(quants) {
                let q = q >> (4 * part) & 15;
                *out = s * f32::from(q) - m;
            }
        }
    }
}

fn q6_k(out: &mut [f32], block: &[u8]) {
    let scale = half(block, 208);
    for (part, out) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[part * 64..][..64];
        let high = &block[128 + part * 32..][..32];
        let scales = &block[192 + part * 8..][..8];
        for (quarter, out) in out.chunks_exact_mut(32).enumerate() {
            for (l, out) in out.iter_mut().enumerate() {
                let nibble = low[l + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                let q = nibble | (high[l] >> (2 * quarter) & 3) << 4;
                let s = scales[2 * quarter + l / 16] as i8;
                *out = scale * f32::from(s) * (f32::from(q) - 32.0);
            }
        }
    }
}
