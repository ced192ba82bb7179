use candle_core::{D, DType, Result, Tensor};

use crate::norm::softmax;
use crate::product::matmul;
use crate::sequences::View;

/// Turns every head of `x [sequences, seq_len, heads, head_dim]` to its position (2104.09864): channel
/// `i` together with channel `i + head_dim / 2`.
pub fn rotate(x: &Tensor, view: &View) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let low = x.narrow(D::Minus1, 0, half)?;
    let high = x.narrow(D::Minus1, half, half)?;
    let times = |x: &Tensor, of: &Tensor| x.broadcast_mul(of);
    let turned_low = (times(&low, &view.cos)? - times(&high, &view.sin)?)?;
    let turned_high = (times(&high, &view.cos)? + times(&low, &view.sin)?)?;
    Tensor::cat(&[turned_low, turned_high], D::Minus1)
}

/// Grouped-query attention (2305.13245) over whole sequences: `q [sequences, seq_len, heads, head_dim]`
/// over `k` and `v [sequences, seq_len, kv_heads, head_dim]`, all after rotation. Returns
/// `[tokens, heads * head_dim]`.
pub fn attention(
    [q, k, v]: [Tensor; 3],
    mask: &Tensor,
    scale: f64,
    dtype: DType,
) -> Result<Tensor> {
    let (sequences, seq_len, heads, head_dim) = q.dims4()?;
    let kv_heads = k.dim(2)?;
    let in_group = heads / kv_heads;
    // The queries of a group stand below one another, so that their keys are not copied.
    let stacked = (sequences, kv_heads, in_group * seq_len, head_dim);
    let q = q.reshape((sequences, seq_len, kv_heads, in_group, head_dim))?;
    let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape(stacked)?;
    let k = k.permute((0, 2, 3, 1))?.contiguous()?;
    let v = v.permute((0, 2, 1, 3))?.contiguous()?;
    let scores = (matmul(&q, &k, dtype)? * scale)?;
    let by_head = (sequences, kv_heads, in_group, seq_len, seq_len);
    let shares = softmax(&scores.reshape(by_head)?.broadcast_add(mask)?)?;
    let shares = shares.reshape(scores.shape())?;
    let mixed = matmul(&shares, &v, dtype)?;
    let mixed = mixed.reshape((sequences, kv_heads, in_group, seq_len, head_dim))?;
    let mixed = mixed.permute((0, 3, 1, 2, 4))?.contiguous()?;
    mixed.reshape((sequences * seq_len, heads * head_dim))
}
