use candle_core::{DType, Result, Tensor};

/// `a b` of numbers in `dtype`, in f32.
pub fn matmul(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    let (mut a, mut b) = (a.to_dtype(dtype)?, b.to_dtype(dtype)?);
    if dtype == DType::BF16 && a.device().is_cpu() {
        // candle has no product of bf16 for processors.
        (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
    }
    a.matmul(&b)?.to_dtype(DType::F32)
}
