use candle_core::{D, Result, Tensor};

/// RMSNorm over the last dimension (1910.07467).
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(gain)
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    // What is taken off cancels, so that it needs no gradient.
    let largest = x.max_keepdim(D::Minus1)?.detach();
    let shares = x.broadcast_sub(&largest)?.exp()?;
    shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)
}
