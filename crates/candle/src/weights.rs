//! A network's weights on the device.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor};
use lathe_supernet::{Part, Subnet};

/// What one layer holds: matrices `[in, out]` in the engine's numbers, vectors in f32.
pub type LayerWeights = BTreeMap<Part, Tensor>;

/// The layers of a network that were needed so far.
pub struct Layers(Vec<OnceLock<LayerWeights>>);

impl Layers {
    /// None yet.
    pub fn of(subnet: &Subnet<'_>) -> Self {
        let layers = subnet.config().layers.len();
        Self(std::iter::repeat_with(OnceLock::new).take(layers).collect())
    }

    /// A layer of `subnet`, which these are of.
    pub fn get(
        &self,
        subnet: &Subnet<'_>,
        layer: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<&LayerWeights> {
        let slot = &self.0[layer];
        if let Some(weights) = slot.get() {
            return Ok(weights);
        }
        let weights = load(subnet, layer, dtype, device)?;
        Ok(slot.get_or_init(|| weights))
    }
}

fn load(subnet: &Subnet<'_>, layer: usize, dtype: DType, device: &Device) -> Result<LayerWeights> {
    let tensors = subnet.layer_tensors(layer).into_iter();
    let tensors = tensors.map(|(part, tensor)| {
        let (rows, columns) = tensor.dim();
        let numbers = tensor.into_raw_vec_and_offset().0;
        let tensor = match part.is_vector() {
            true => Tensor::from_vec(numbers, columns, device)?,
            // Rounded on the device, which is faster at it.
            false => Tensor::from_vec(numbers, (rows, columns), device)?.to_dtype(dtype)?,
        };
        Ok((part, tensor))
    });
    tensors.collect()
}
