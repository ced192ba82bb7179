//! Model files on disk, written atomically and one tensor at a time.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use prost::Message;
use tempfile::NamedTempFile;

use crate::graph::{External, ExternalTensor, Plan};
use crate::weights::{WeightSource, random_weights};
use crate::{Chain, DATA_FILE, MODEL_FILE, Network, OnnxError};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all files.
    pub bytes: u64,
    /// Numbers in weights, gains and biases.
    pub parameters: u64,
}

/// Writes `model.onnx` and `model.onnx.data` into `folder`, which is made if need be.
///
/// # Errors
/// When the sub-network does not fit the model, the weight source gives a wrong number of
/// values, or the disk does not take the files.
pub fn write_network(folder: &Path, network: &Network<'_>) -> Result<Written, OnnxError> {
    let plan = network.plan()?;
    fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
    write_data(&folder.join(DATA_FILE), &plan, network.weights)?;
    let model_bytes = write_model(&folder.join(MODEL_FILE), &plan)?;
    Ok(Written {
        bytes: plan.data_bytes + model_bytes,
        parameters: parameters(&plan),
    })
}

/// Writes a chain's graph to `path`. Its weights are the first bytes of `data_file`, a file in
/// the same folder written by [`write_random_data`]; returns how many bytes of it are used.
///
/// # Errors
/// When the chain is empty or the disk does not take the file.
pub fn write_chain(path: &Path, chain: &Chain<'_>, data_file: &str) -> Result<u64, OnnxError> {
    let plan = chain.plan(data_file)?;
    write_model(path, &plan)?;
    Ok(plan.data_bytes)
}

/// Bytes of weights that `chain` uses, each copy's own.
///
/// # Errors
/// When the chain is empty.
pub fn chain_data_bytes(chain: &Chain<'_>) -> Result<u64, OnnxError> {
    Ok(chain.plan("")?.data_bytes)
}

/// Writes `bytes` bytes of random weights that chains in the same folder share.
///
/// # Errors
/// When the disk does not take the file.
pub fn write_random_data(path: &Path, bytes: u64, seed: u64) -> Result<(), OnnxError> {
    const CHUNK: usize = 1 << 20;
    let numbers = usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX);
    write_atomically(path, |file| {
        for (index, start) in (0..numbers).step_by(CHUNK).enumerate() {
            let count = CHUNK.min(numbers - start);
            write_floats(
                file,
                &random_weights(count, seed.wrapping_add(index as u64)),
            )?;
        }
        Ok(())
    })
}

fn parameters(plan: &Plan) -> u64 {
    let sizes = plan
        .external
        .iter()
        .map(|tensor| tensor.shape.iter().product::<usize>());
    sizes.sum::<usize>() as u64
}

fn write_model(path: &Path, plan: &Plan) -> Result<u64, OnnxError> {
    let bytes = plan.model.encode_to_vec();
    write_atomically(path, |file| file.write_all(&bytes))?;
    Ok(bytes.len() as u64)
}

fn write_data(path: &Path, plan: &Plan, weights: &dyn WeightSource) -> Result<(), OnnxError> {
    let mut wrong_length = None;
    write_atomically(path, |file| {
        let mut position = 0;
        for tensor in &plan.external {
            let zeros = vec![0; (tensor.offset - position) as usize];
            file.write_all(&zeros)?;
            match values(tensor, weights) {
                Ok(values) => write_floats(file, &values)?,
                Err(error) => {
                    wrong_length = Some(error);
                    return Err(std::io::Error::other("a weight has a wrong length"));
                }
            }
            position = tensor.offset + 4 * tensor.shape.iter().product::<usize>() as u64;
        }
        Ok(())
    })
    .map_err(|error| wrong_length.unwrap_or(error))
}

fn values(tensor: &ExternalTensor, weights: &dyn WeightSource) -> Result<Vec<f32>, OnnxError> {
    let role = match &tensor.content {
        External::Values(values) => return Ok(values.clone()),
        External::Weight(role) => *role,
    };
    let values = weights.tensor(role);
    let expected = tensor.shape.iter().product();
    if values.len() != expected {
        return Err(OnnxError::WeightLength {
            role,
            found: values.len(),
            shape: tensor.shape.clone(),
            expected,
        });
    }
    Ok(values)
}

fn write_floats(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    const CHUNK: usize = 1 << 14;
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes beside `path`, flushes to the disk, then takes the name: a reader sees the whole file
/// or none.
fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<NamedTempFile>) -> std::io::Result<()>,
) -> Result<(), OnnxError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let run = || {
        let mut file = BufWriter::new(NamedTempFile::new_in(folder)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    run().map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> OnnxError {
    OnnxError::Io {
        path: path.to_owned(),
        source,
    }
}
