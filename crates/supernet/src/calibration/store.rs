//! A calibration as a safetensors file: large matrices are read as they lie on the disk.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ndarray::Array2;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, View};

use super::{Calibration, ChannelStatistics, LayerStatistics, OutputMeans};
use crate::SupernetError;

/// Name of the metadata field that says what a calibration was made of.
const ORIGIN: &str = "origin";
/// Name of the metadata field that says which statistics it holds.
const FORMAT: &str = "format";
/// The present ones.
const PRESENT_FORMAT: &str = "2";
/// Name of the metadata field that counts its tokens.
const TOKENS: &str = "tokens";
/// Last part of the name of a block's mean output after the norm behind it.
const NORMED: &str = "normed_output_mean";

impl Calibration {
    /// Reads a calibration written by [`Calibration::save`]; `None` when it was made of something
    /// else than `origin`, or lacks statistics that are collected now.
    ///
    /// # Errors
    /// When the file cannot be read or is not a calibration.
    pub fn load(path: &Path, origin: &str) -> Result<Option<Self>, SupernetError> {
        let format = |message: String| SupernetError::Format {
            path: path.to_owned(),
            message,
        };
        let bytes = std::fs::read(path).map_err(|source| SupernetError::Io {
            path: path.to_owned(),
            source,
        })?;
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| format(error.to_string()))?;
        let fields = header.metadata().clone().unwrap_or_default();
        let is = |field: &str, value: &str| fields.get(field).is_some_and(|found| found == value);
        if !is(ORIGIN, origin) || !is(FORMAT, PRESENT_FORMAT) {
            return Ok(None);
        }
        let tokens = fields.get(TOKENS).and_then(|text| text.parse().ok());
        let tokens = tokens.ok_or_else(|| format("the number of tokens is missing".to_owned()))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| format(error.to_string()))?;
        let mut layers = Vec::new();
        while tensors.tensor(&influence_name(layers.len())).is_ok() {
            let layer = layers.len();
            let read = |name: &str| {
                let view = tensors.tensor(name).map_err(|error| error.to_string())?;
                Ok::<_, String>(view)
            };
            let channels = |block: &str| {
                Ok(ChannelStatistics {
                    mean: f64s(&read(&name(layer, block, "mean"))?)?,
                    second_moment: matrix(layer, &read(&name(layer, block, "second_moment"))?)?,
                    magnitude: f64s(&read(&name(layer, block, "magnitude"))?)?,
                    following: (0..)
                        .map_while(|at| tensors.tensor(&following(layer, block, at)).ok())
                        .map(|view| matrix(layer, &view))
                        .collect::<Result<_, _>>()?,
                })
            };
            let influence = f64s(&read(&influence_name(layer)).map_err(&format)?);
            let normed = |block: &str| match tensors.tensor(&name(layer, block, NORMED)) {
                Ok(view) => f64s(&view).map(Some),
                Err(_) => Ok(None),
            };
            let normed = normed("attention").and_then(|a| Ok((a, normed("mlp")?)));
            layers.push(LayerStatistics {
                attention: channels("attention").map_err(&format)?,
                mlp: channels("mlp").map_err(&format)?,
                influence: influence.map_err(&format)?.first().copied().unwrap_or(0.0),
                normed_outputs: match normed.map_err(&format)? {
                    (Some(attention), Some(mlp)) => Some(OutputMeans { attention, mlp }),
                    (_, _) => None,
                },
            });
        }
        Ok(Some(Self { tokens, layers }))
    }

    /// Writes the calibration, atomically. `origin` says what it was made of.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, origin: &str) -> Result<(), SupernetError> {
        let mut tensors = Vec::new();
        for (layer, statistics) in self.layers.iter().enumerate() {
            for (block, channels) in [
                ("attention", &statistics.attention),
                ("mlp", &statistics.mlp),
            ] {
                let named = |what| name(layer, block, what);
                let moments = &channels.second_moment;
                tensors.push((named("second_moment"), Numbers::F32(moments)));
                for (at, products) in channels.following.iter().enumerate() {
                    tensors.push((following(layer, block, at), Numbers::F32(products)));
                }
                tensors.push((named("mean"), Numbers::f64(&channels.mean)));
                tensors.push((named("magnitude"), Numbers::f64(&channels.magnitude)));
            }
            if let Some(means) = &statistics.normed_outputs {
                for (block, means) in [("attention", &means.attention), ("mlp", &means.mlp)] {
                    tensors.push((name(layer, block, NORMED), Numbers::f64(means)));
                }
            }
            let influence = std::slice::from_ref(&statistics.influence);
            tensors.push((influence_name(layer), Numbers::f64(influence)));
        }
        let metadata = HashMap::from([
            (ORIGIN.to_owned(), origin.to_owned()),
            (FORMAT.to_owned(), PRESENT_FORMAT.to_owned()),
            (TOKENS.to_owned(), self.tokens.to_string()),
        ]);
        crate::file::write_with(path, |temporary| {
            safetensors::serialize_to_file(tensors, Some(metadata), temporary)
                .map_err(std::io::Error::other)
        })
    }
}

/// Numbers that become bytes only when they are written.
enum Numbers<'a> {
    F32(&'a Array2<f32>),
    F64(&'a [f64], [usize; 1]),
}

impl<'a> Numbers<'a> {
    fn f64(values: &'a [f64]) -> Self {
        Self::F64(values, [values.len()])
    }
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::F32(_) => Dtype::F32,
            Numbers::F64(..) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Numbers::F32(matrix) => matrix.shape(),
            Numbers::F64(_, shape) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Numbers::F32(matrix) => matrix.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::F64(values, _) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match self {
            Numbers::F32(matrix) => 4 * matrix.len(),
            Numbers::F64(values, _) => 8 * values.len(),
        }
    }
}

fn name(layer: usize, block: &str, what: &str) -> String {
    format!("layers.{layer}.{block}.{what}")
}

fn influence_name(layer: usize) -> String {
    format!("layers.{layer}.influence")
}

/// The products with the outputs of the block `at + 1` blocks on.
fn following(layer: usize, block: &str, at: usize) -> String {
    name(layer, block, &format!("following.{at}"))
}

fn matrix(layer: usize, view: &TensorView<'_>) -> Result<Array2<f32>, String> {
    let [rows, columns] = *view.shape() else {
        return Err(format!("layer {layer}: moments are no matrix"));
    };
    Array2::from_shape_vec((rows, columns), f32s(view)?).map_err(|error| error.to_string())
}

fn f32s(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let values = numbers(view, Dtype::F32)?.iter();
    let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
    finite(values.iter().all(|v| v.is_finite()))?;
    Ok(values)
}

fn f64s(view: &TensorView<'_>) -> Result<Vec<f64>, String> {
    let values = numbers(view, Dtype::F64)?.iter();
    let values: Vec<f64> = values.map(|b| f64::from_le_bytes(*b)).collect();
    finite(values.iter().all(|v| v.is_finite()))?;
    Ok(values)
}

fn finite(are_finite: bool) -> Result<(), String> {
    if are_finite {
        return Ok(());
    }
    Err("a number is not finite".to_owned())
}

fn numbers<'a, const BYTES: usize>(
    view: &TensorView<'a>,
    dtype: Dtype,
) -> Result<&'a [[u8; BYTES]], String> {
    if view.dtype() != dtype {
        return Err(format!(
            "numbers are {:?}, expected {dtype:?}",
            view.dtype()
        ));
    }
    Ok(view.data().as_chunks().0)
}
