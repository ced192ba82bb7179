//! A calibration as a safetensors file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Calibration, ChannelStatistics, LayerStatistics, OutputMeans};
use crate::SupernetError;
use crate::numbers::Numbers;
use crate::tensor_file::{StoredMatrix, TensorFile};

/// Name of the metadata field that says what a calibration was made of.
const ORIGIN: &str = "origin";
/// Name of the metadata field that says which statistics it holds.
const FORMAT: &str = "format";
/// The present ones.
const PRESENT_FORMAT: &str = "3";
/// Name of the metadata field that counts its tokens.
const TOKENS: &str = "tokens";
/// Last part of the name of a block's mean output after the norm behind it.
const NORMED: &str = "normed_output_mean";

impl Calibration {
    /// Reads a calibration written by [`Calibration::save`]; `None` when it was made of something
    /// else than `origin`, or lacks statistics that are collected now. Its matrices stay in the
    /// file until they are wanted.
    ///
    /// # Errors
    /// When the file cannot be read or is not a calibration.
    pub fn load(path: &Path, origin: &str) -> Result<Option<Self>, SupernetError> {
        let file = Arc::new(TensorFile::open(path)?);
        let fields = file.fields();
        let is = |field: &str, value: &str| fields.get(field).is_some_and(|found| found == value);
        if !is(ORIGIN, origin) || !is(FORMAT, PRESENT_FORMAT) {
            return Ok(None);
        }
        let tokens = fields.get(TOKENS).and_then(|text| text.parse().ok());
        let tokens = tokens.ok_or_else(|| file.format("the number of tokens is missing"))?;
        let layers = (0..).take_while(|layer| file.has(&influence_name(*layer)));
        let layers = layers.map(|layer| read_layer(&file, layer));
        Ok(Some(Self {
            tokens,
            layers: layers.collect::<Result<_, _>>()?,
        }))
    }

    /// Writes the calibration, atomically. `origin` says what it was made of.
    ///
    /// # Errors
    /// When the file cannot be written, or what it holds in another file cannot be read.
    pub fn save(&self, path: &Path, origin: &str) -> Result<(), SupernetError> {
        let mut tensors = Vec::new();
        for (layer, statistics) in self.layers.iter().enumerate() {
            for (block, channels) in [
                ("attention", &statistics.attention),
                ("mlp", &statistics.mlp),
            ] {
                let named = |what| name(layer, block, what);
                let moments = Numbers::Matrix(channels.second_moment.load()?);
                tensors.push((named("second_moment"), moments));
                for (at, products) in channels.following.iter().enumerate() {
                    let products = Numbers::Matrix(products.load()?);
                    tensors.push((following_name(layer, block, at), products));
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

fn read_layer(file: &Arc<TensorFile>, layer: usize) -> Result<LayerStatistics, SupernetError> {
    let channels = |block: &str| {
        let following = (0..).map(|at| following_name(layer, block, at));
        let following = following.take_while(|name| file.has(name));
        let second_moment = StoredMatrix::in_file(file, name(layer, block, "second_moment"))?;
        let mean_square = second_moment.load()?;
        let mean_square = mean_square.diag().iter().map(|v| f64::from(*v)).collect();
        Ok::<_, SupernetError>(ChannelStatistics {
            mean: file.f64s(&name(layer, block, "mean"))?,
            mean_square,
            second_moment,
            magnitude: file.f64s(&name(layer, block, "magnitude"))?,
            following: following
                .map(|name| StoredMatrix::in_file(file, name))
                .collect::<Result<_, _>>()?,
        })
    };
    let normed = |block: &str| {
        let name = name(layer, block, NORMED);
        file.has(&name).then(|| file.f64s(&name)).transpose()
    };
    let normed_outputs = match (normed("attention")?, normed("mlp")?) {
        (Some(attention), Some(mlp)) => Some(OutputMeans { attention, mlp }),
        (_, _) => None,
    };
    let influence = file.f64s(&influence_name(layer))?;
    Ok(LayerStatistics {
        attention: channels("attention")?,
        mlp: channels("mlp")?,
        influence: influence.first().copied().unwrap_or(0.0),
        normed_outputs,
    })
}

fn name(layer: usize, block: &str, what: &str) -> String {
    format!("layers.{layer}.{block}.{what}")
}

fn influence_name(layer: usize) -> String {
    format!("layers.{layer}.influence")
}

/// The products with the outputs of the block `at + 1` blocks on.
fn following_name(layer: usize, block: &str, at: usize) -> String {
    name(layer, block, &format!("following.{at}"))
}
