use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};
use lathe_arch::Precision;
use lathe_supernet::{Engine, Network, Subnet, Supernet, SupernetError};

use crate::network::OnDevice;
use crate::weights::Layers;

/// Numbers that matrices are kept and multiplied in. The residual stream, norms, softmax and losses
/// are in f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32: half the memory, 8 bits of precision.
    Bf16,
}

/// Runs networks of one super-network on one device.
///
/// A layer's weights go to the device when it is first run, and leave it with their network. Those of
/// the full model stay.
pub struct Candle<'a> {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    teacher: Subnet<'a>,
    teacher_layers: Arc<Layers>,
    /// Of every precision.
    heads: [OnceLock<Tensor>; 3],
}

impl<'a> Candle<'a> {
    /// On the first GPU that this crate is built for; on the processors where it is built for none.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn new(supernet: &'a Supernet, dtype: Dtype) -> std::result::Result<Self, SupernetError> {
        let teacher = supernet.teacher();
        Ok(Self {
            device: device().map_err(failed)?,
            dtype: match dtype {
                Dtype::F32 => DType::F32,
                Dtype::Bf16 => DType::BF16,
            },
            teacher_layers: Arc::new(Layers::of(&teacher)),
            teacher,
            heads: Default::default(),
        })
    }

    /// The full model.
    pub(crate) fn teacher_on_device(&self) -> OnDevice<'_> {
        OnDevice {
            engine: self,
            subnet: &self.teacher,
            layers: self.teacher_layers.clone(),
        }
    }

    /// A network's LM head, `[vocab, hidden]`. Networks of one precision have the same.
    pub(crate) fn head(&self, subnet: &Subnet<'_>) -> Result<&Tensor> {
        let slot = match subnet.config().head_precision {
            Precision::F32 => &self.heads[0],
            Precision::Int8 | Precision::W8A8 => &self.heads[1],
            Precision::Int4 => &self.heads[2],
        };
        if let Some(head) = slot.get() {
            return Ok(head);
        }
        let head = subnet.lm_head_by_token();
        let numbers: Vec<f32> = head.iter().copied().collect();
        let head = Tensor::from_vec(numbers, head.dim(), &self.device)?.to_dtype(self.dtype)?;
        Ok(slot.get_or_init(|| head))
    }

    /// Rows of `width` on the device.
    pub(crate) fn rows(&self, numbers: &[f32], width: usize) -> Result<Tensor> {
        Tensor::from_slice(numbers, (numbers.len() / width, width), &self.device)
    }
}

impl Engine for Candle<'_> {
    fn network<'n>(
        &'n self,
        subnet: &'n Subnet<'n>,
    ) -> std::result::Result<Box<dyn Network + 'n>, SupernetError> {
        Ok(Box::new(OnDevice {
            engine: self,
            subnet,
            layers: Arc::new(Layers::of(subnet)),
        }))
    }

    fn teacher(&self) -> std::result::Result<Box<dyn Network + '_>, SupernetError> {
        Ok(Box::new(self.teacher_on_device()))
    }
}

fn device() -> Result<Device> {
    if cfg!(feature = "cuda") {
        Device::new_cuda(0)
    } else if cfg!(feature = "metal") {
        Device::new_metal(0)
    } else {
        Ok(Device::Cpu)
    }
}

pub(crate) fn failed(error: candle_core::Error) -> SupernetError {
    SupernetError::Engine {
        engine: "candle",
        message: error.to_string(),
    }
}
