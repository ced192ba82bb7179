//! A network whose weights are on the device.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use lathe_supernet::{GradientSums, HeadLoss, Lesson, Network, Score, Subnet, SupernetError};

use crate::engine::{Candle, failed};
use crate::head::Head;
use crate::layer::Layer;
use crate::norm::rms_norm;
use crate::sequences::Sequences;
use crate::weights::{LayerWeights, Layers};

pub struct OnDevice<'n> {
    pub engine: &'n Candle<'n>,
    pub subnet: &'n Subnet<'n>,
    pub layers: Arc<Layers>,
}

impl OnDevice<'_> {
    /// A layer with its own weights.
    pub fn layer<'l>(&'l self, index: usize, sequences: &'l Sequences) -> Result<Layer<'l>> {
        let (dtype, device) = (self.engine.dtype, &self.engine.device);
        let weights = self.layers.get(self.subnet, index, dtype, device)?;
        Ok(self.layer_with(index, sequences, weights))
    }

    /// A layer with other weights.
    pub fn layer_with<'l>(
        &'l self,
        index: usize,
        sequences: &'l Sequences,
        weights: &'l LayerWeights,
    ) -> Layer<'l> {
        Layer {
            model: self.subnet.supernet().model(),
            index,
            config: &self.subnet.config().layers[index],
            weights,
            sequences,
            dtype: self.engine.dtype,
        }
    }

    pub fn sequences(&self, seq_len: usize) -> Result<Sequences> {
        Sequences::new(self.subnet.supernet().model(), seq_len, &self.engine.device)
    }

    pub fn head(&self) -> Result<Head<'_>> {
        Ok(Head {
            matrix: self.engine.head(self.subnet)?,
            precision: self.subnet.config().head_precision.of_ends(),
            dtype: self.engine.dtype,
        })
    }

    /// Gain of the final norm.
    pub fn final_gain(&self) -> Result<Tensor> {
        Tensor::new(self.subnet.final_norm(), &self.engine.device)
    }

    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        let eps = self.subnet.supernet().model().rms_norm_eps;
        rms_norm(x, &self.final_gain()?, eps)
    }

    /// Rows of hidden states on the device.
    pub fn hidden_rows(&self, numbers: &[f32]) -> Result<Tensor> {
        let hidden = self.subnet.supernet().model().hidden_size;
        self.engine.rows(numbers, hidden)
    }

    fn run(
        &self,
        first: usize,
        x: &[f32],
        seq_len: usize,
        mut keep: Option<&mut dyn FnMut(Vec<f32>)>,
    ) -> Result<Vec<f32>> {
        let sequences = self.sequences(seq_len)?;
        let mut x = self.hidden_rows(x)?;
        for index in first..self.subnet.config().layers.len() {
            if let Some(keep) = keep.as_mut().filter(|_| index > first) {
                keep(numbers(&x)?);
            }
            x = self.layer(index, &sequences)?.run(&x)?;
        }
        numbers(&self.final_norm(&x)?)
    }
}

impl Network for OnDevice<'_> {
    fn run_from(
        &self,
        first: usize,
        x: Vec<f32>,
        seq_len: usize,
        keep: Option<&mut dyn FnMut(Vec<f32>)>,
    ) -> std::result::Result<Vec<f32>, SupernetError> {
        self.run(first, &x, seq_len, keep).map_err(failed)
    }

    fn losses(
        &self,
        normed: &[f32],
        targets: &[u32],
    ) -> std::result::Result<Vec<f32>, SupernetError> {
        let losses = || self.head()?.losses(&self.hidden_rows(normed)?, targets);
        losses().map_err(failed)
    }

    fn scores(
        &self,
        normed: &[f32],
        of_teacher: &[f32],
        targets: &[u32],
    ) -> std::result::Result<Vec<Score>, SupernetError> {
        let scores = || {
            let teacher = self.engine.teacher_on_device();
            let of_teacher = self.hidden_rows(of_teacher)?;
            let normed = self.hidden_rows(normed)?;
            let head = self.head()?;
            head.scores(&normed, (teacher.head()?, &of_teacher), targets)
        };
        scores().map_err(failed)
    }

    fn differentiate(
        &self,
        lesson: Lesson<'_>,
        sums: &mut GradientSums<'_>,
    ) -> std::result::Result<HeadLoss, SupernetError> {
        self.backward(&lesson, sums).map_err(failed)
    }
}

/// A tensor's numbers, row by row.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_dtype(candle_core::DType::F32)?;
    tensor.flatten_all()?.to_vec1()
}
