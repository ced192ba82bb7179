use candle_core::{D, Result, Tensor};
use lathe_arch::Precision;

/// What a kernel for quantised weights makes of its input
/// ([`round_activations`](lathe_arch::quantize::round_activations)); nothing in f32.
pub fn rounded(rows: &Tensor, precision: Precision) -> Result<Tensor> {
    if precision == Precision::F32 {
        return Ok(rows.clone());
    }
    let (count, width) = rows.dims2()?;
    let block = precision.sharing_a_scale(width);
    let blocks = width.div_ceil(block);
    let padding = blocks * block - width;
    let padded = rows.pad_with_zeros(D::Minus1, 0, padding)?;
    let in_blocks = padded.reshape((count, blocks, block))?;
    let scale = (in_blocks.abs()?.max_keepdim(D::Minus1)? / 127.0)?;
    // A block of zeros stays one.
    let divisor = scale.maximum(f32::MIN_POSITIVE)?;
    let integers = in_blocks.broadcast_div(&divisor)?.round()?;
    let values = integers.broadcast_mul(&scale)?;
    values.reshape(padded.shape())?.narrow(D::Minus1, 0, width)
}
