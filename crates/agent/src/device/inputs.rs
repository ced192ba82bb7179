//! Inputs for a model, made from the names and shapes that it declares.

use anyhow::{Context, bail, ensure};
use ort::session::IoBinding;
use ort::session::Session;
use ort::value::{DynValue, Tensor, TensorElementType, ValueType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Most numbers of one input.
const MAX_NUMBERS: i64 = 1 << 31;

/// Numbers drawn for a cache. A prime, so that no row of it repeats another.
const CACHE_DRAWS: usize = 4093;

/// The sizes that a pass gives to the symbolic dimensions.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub new_tokens: usize,
    pub past_tokens: usize,
}

impl Sizes {
    /// ONNX Runtime's attention divides by the number of sequences and of new tokens, which ends the
    /// process when there are none.
    fn check(self) -> anyhow::Result<()> {
        ensure!(
            self.batch > 0 && self.new_tokens > 0,
            "a pass of {} sequences and {} new tokens: expected at least one of each",
            self.batch,
            self.new_tokens
        );
        Ok(())
    }

    fn of(self, symbol: &str) -> anyhow::Result<i64> {
        let total = self.past_tokens.checked_add(self.new_tokens);
        let size = match symbol {
            "batch_size" => self.batch,
            "sequence_length" => self.new_tokens,
            "past_sequence_length" => self.past_tokens,
            "total_sequence_length" => total.context("the sequence is too long")?,
            other => bail!("the model has an unknown dimension `{other}`"),
        };
        Ok(i64::try_from(size)?)
    }
}

/// Prefix of the names of past keys and values.
pub const PAST: &str = "past_key_values.";

/// Random inputs of `sizes`, and memory for the outputs. Past and present keys and values are one
/// buffer with room for the new tokens.
pub fn bind(
    session: &Session,
    sizes: Sizes,
    vocab_size: usize,
    seed: u64,
) -> anyhow::Result<IoBinding> {
    sizes.check()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut binding = session.create_binding()?;
    for input in session.inputs() {
        let name = input.name();
        if let Some(cache) = name.strip_prefix(PAST) {
            let total = sizes.past_tokens.checked_add(sizes.new_tokens);
            let room = Sizes {
                past_tokens: total.context("the sequence is too long")?,
                ..sizes
            };
            let (_, shape) =
                shape(input.dtype(), room).with_context(|| format!("input `{name}`"))?;
            let mut cache_value = Tensor::<f32>::new(session.allocator(), shape)?;
            let (_, values) = cache_value.extract_tensor_mut();
            fill(values, &mut rng);
            binding.bind_input(name, &cache_value)?;
            binding.bind_output(format!("present.{cache}"), cache_value)?;
            continue;
        }
        let (element, shape) =
            shape(input.dtype(), sizes).with_context(|| format!("input `{name}`"))?;
        let numbers = shape.iter().product::<i64>() as usize;
        let value = match (element, name) {
            (TensorElementType::Float32, _) => {
                let values = (0..numbers).map(|_| StandardNormal.sample(&mut rng));
                floats(&shape, values.collect())?
            }
            (TensorElementType::Int64, "attention_mask") => integers(&shape, vec![1; numbers])?,
            (TensorElementType::Int64, "input_ids") => {
                ensure!(vocab_size > 0, "`vocab_size` is 0");
                let ids = (0..numbers).map(|_| rng.random_range(0..vocab_size) as i64);
                integers(&shape, ids.collect())?
            }
            (other, _) => bail!("input `{name}` of type {other} is not known"),
        };
        binding.bind_input(name, &value)?;
    }
    let memory = session.allocator().memory_info();
    for output in session.outputs() {
        if !output.name().starts_with("present.") {
            binding.bind_output_to_device(output.name(), memory)?;
        }
    }
    Ok(binding)
}

pub fn floats(shape: &[i64], values: Vec<f32>) -> anyhow::Result<DynValue> {
    Ok(Tensor::from_array((shape, values))?.into_dyn())
}

pub fn integers(shape: &[i64], values: Vec<i64>) -> anyhow::Result<DynValue> {
    Ok(Tensor::from_array((shape, values))?.into_dyn())
}

/// Fills a cache with normal numbers. A few thousand of them are repeated: drawing each anew would
/// take longer than the measurement.
fn fill(values: &mut [f32], rng: &mut ChaCha8Rng) {
    let drawn: Vec<f32> = (0..CACHE_DRAWS)
        .map(|_| StandardNormal.sample(rng))
        .collect();
    for part in values.chunks_mut(CACHE_DRAWS) {
        part.copy_from_slice(&drawn[..part.len()]);
    }
}

/// Element type and shape of an input with its symbols bound.
pub fn shape(declared: &ValueType, sizes: Sizes) -> anyhow::Result<(TensorElementType, Vec<i64>)> {
    let ValueType::Tensor {
        ty,
        shape,
        dimension_symbols,
    } = declared
    else {
        bail!("it is not a tensor");
    };
    let mut bound = Vec::new();
    let mut numbers = 1i64;
    for (size, symbol) in shape.iter().zip(dimension_symbols.iter()) {
        let size = if *size < 0 { sizes.of(symbol)? } else { *size };
        numbers = numbers
            .checked_mul(size)
            .filter(|n| *n <= MAX_NUMBERS)
            .with_context(|| format!("more than {MAX_NUMBERS} numbers"))?;
        bound.push(size);
    }
    Ok((*ty, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_passes_are_refused() {
        let check = |batch, new_tokens| {
            let past_tokens = 8;
            let sizes = Sizes {
                batch,
                new_tokens,
                past_tokens,
            };
            sizes.check()
        };
        assert!(check(1, 1).is_ok());
        assert!(check(0, 1).is_err() && check(1, 0).is_err());
    }
}
