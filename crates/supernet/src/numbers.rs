//! Tensors on their way into a safetensors file.

use std::borrow::Cow;

use ndarray::Array2;
use safetensors::tensor::{Dtype, View};

/// Numbers that become bytes only when they are written.
pub(crate) enum Numbers<'a> {
    Matrix(Cow<'a, Array2<f32>>),
    F32(&'a [f32], [usize; 1]),
    F64(&'a [f64], [usize; 1]),
}

impl<'a> Numbers<'a> {
    pub fn borrowed(matrix: &'a Array2<f32>) -> Self {
        Self::Matrix(Cow::Borrowed(matrix))
    }

    pub fn f32(values: &'a [f32]) -> Self {
        Self::F32(values, [values.len()])
    }

    pub fn f64(values: &'a [f64]) -> Self {
        Self::F64(values, [values.len()])
    }
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::Matrix(_) | Numbers::F32(..) => Dtype::F32,
            Numbers::F64(..) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Numbers::Matrix(matrix) => matrix.shape(),
            Numbers::F32(_, shape) | Numbers::F64(_, shape) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Numbers::Matrix(matrix) => matrix.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::F32(values, _) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::F64(values, _) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match self {
            Numbers::Matrix(matrix) => 4 * matrix.len(),
            Numbers::F32(values, _) => 4 * values.len(),
            Numbers::F64(values, _) => 8 * values.len(),
        }
    }
}
