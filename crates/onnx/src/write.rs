//! Model files on disk, written atomically and one tensor at a time.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use lathe_arch::Precision;
use lathe_arch::quantize::{Quantized, quantize, quantize_columns};
use prost::Message;
use tempfile::NamedTempFile;

use crate::graph::{External, ExternalTensor, Plan};
use crate::random::random_weights;
use crate::weights::{TensorRole, WeightSource};
use crate::{Chain, DATA_FILE, MODEL_FILE, Network, OnnxError};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all files.
    pub bytes: u64,
    /// Numbers in weights, gains and biases as stored: a tied matrix counts once, and so do
    /// biases that meet in one norm.
    pub parameters: u64,
    /// Weights, gains and biases as stored.
    pub tensors: usize,
}

/// Writes `model.onnx` and `model.onnx.data` into `folder`, which is made if need be. The graph
/// takes its name last, when its weights are in place.
///
/// # Errors
/// When the sub-network does not fit the model, the weight source gives a wrong number of
/// values, or the disk does not take the files. What was there before stays until the new file
/// is whole.
pub fn write_network(folder: &Path, network: &Network<'_>) -> Result<Written, OnnxError> {
    let plan = network.plan(DATA_FILE)?;
    fs::create_dir_all(folder).map_err(|source| OnnxError::from_io(folder, 0, source))?;
    let path = folder.join(DATA_FILE);
    write_atomically(&path, plan.data_bytes, |file| {
        write_data(file, &path, &plan, network.weights)
    })?;
    let model_bytes = write_model(&folder.join(MODEL_FILE), &plan)?;
    let sizes = plan.external.iter().filter_map(parameters);
    Ok(Written {
        bytes: plan.data_bytes + model_bytes,
        parameters: sizes.clone().sum(),
        tensors: sizes.count(),
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

/// Writes a network's graph alone to `path`, for measuring: its weights are the first bytes of
/// `data_file`, a file in the same folder written by [`write_random_data`]. Returns how many
/// bytes of it are used. Every tensor there is random, gains and rotary tables too: the network
/// costs what it costs with its own weights, and says nothing.
///
/// # Errors
/// When the sub-network does not fit the model or the disk does not take the file.
pub fn write_network_graph(
    path: &Path,
    network: &Network<'_>,
    data_file: &str,
) -> Result<u64, OnnxError> {
    let plan = network.plan(data_file)?;
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
    const CHUNK: u64 = 1 << 20;
    let numbers = bytes.div_ceil(4);
    write_atomically(path, bytes, |file| {
        for chunk in 0..numbers.div_ceil(CHUNK) {
            let count = CHUNK.min(numbers - chunk * CHUNK) as usize;
            let values = random_weights(count, seed.wrapping_add(chunk));
            write_floats(file, &values)
                .map_err(|source| OnnxError::from_io(path, bytes, source))?;
        }
        Ok(())
    })
}

/// Numbers in a stored tensor, if it is a parameter.
fn parameters(tensor: &ExternalTensor) -> Option<u64> {
    match tensor.content {
        External::Weight(_) | External::Values(_) => Some(tensor.bytes / 4),
        External::Quantized { .. } => Some(tensor.shape.iter().product::<usize>() as u64),
        External::Rotary(_) => None,
    }
}

fn write_model(path: &Path, plan: &Plan) -> Result<u64, OnnxError> {
    let message = plan.model.encode_to_vec();
    let bytes = message.len() as u64;
    write_atomically(path, bytes, |file| {
        file.write_all(&message)
            .map_err(|source| OnnxError::from_io(path, bytes, source))
    })?;
    Ok(bytes)
}

/// Writes the tensors at their offsets, zeros between them.
fn write_data(
    out: &mut impl Write,
    path: &Path,
    plan: &Plan,
    weights: &dyn WeightSource,
) -> Result<(), OnnxError> {
    let failed = |source| OnnxError::from_io(path, plan.data_bytes, source);
    let mut position = 0;
    for tensor in &plan.external {
        // Less than the alignment.
        let gap = vec![0; (tensor.offset - position) as usize];
        out.write_all(&gap).map_err(failed)?;
        match &tensor.content {
            External::Weight(role) => {
                let values = weights.tensor(*role);
                check_length(tensor, *role, values.len())?;
                write_floats(out, &values).map_err(failed)?;
            }
            External::Quantized {
                role,
                precision,
                inputs,
                scales,
            } => {
                let values = weights.tensor(*role);
                check_length(tensor, *role, values.len())?;
                let quantized = quantized(&values, *role, *inputs, *precision);
                out.write_all(&quantized.weights).map_err(failed)?;
                // Less than the alignment.
                let gap = *scales - quantized.weights.len() as u64;
                out.write_all(&vec![0; gap as usize]).map_err(failed)?;
                write_floats(out, &quantized.scales).map_err(failed)?;
            }
            External::Values(values) => write_floats(out, values).map_err(failed)?,
            External::Rotary(table) => {
                for row in table.rows() {
                    write_floats(out, &row).map_err(failed)?;
                }
            }
        }
        position = tensor.offset + tensor.bytes;
    }
    Ok(())
}

/// Blocks run along the inputs. The embedding has its inputs in rows already.
fn quantized(values: &[f32], role: TensorRole, inputs: usize, precision: Precision) -> Quantized {
    if role == TensorRole::Embedding {
        return quantize(values.chunks(inputs), precision);
    }
    let outputs = values.len() / inputs.max(1);
    if precision == Precision::W8A8 {
        return quantize_columns(values, outputs);
    }
    let column = |output: usize| (0..inputs).map(move |input| values[input * outputs + output]);
    let transposed: Vec<f32> = (0..outputs).flat_map(column).collect();
    quantize(transposed.chunks(inputs), precision)
}

fn check_length(tensor: &ExternalTensor, role: TensorRole, found: usize) -> Result<(), OnnxError> {
    let expected = tensor.shape.iter().product();
    if found != expected {
        return Err(OnnxError::WeightLength {
            role,
            found,
            shape: tensor.shape.clone(),
            expected,
        });
    }
    Ok(())
}

fn write_floats(out: &mut impl Write, values: &[f32]) -> io::Result<()> {
    const CHUNK: usize = 1 << 14;
    let mut bytes = Vec::with_capacity(4 * CHUNK.min(values.len()));
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes a file of `bytes` bytes beside `path`, flushes it to the disk, then gives it the name:
/// a reader sees the whole file or none.
fn write_atomically(
    path: &Path,
    bytes: u64,
    write: impl FnOnce(&mut BufWriter<NamedTempFile>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let failed = |source| OnnxError::from_io(path, bytes, source);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = BufWriter::new(temporary_file(folder).map_err(failed)?);
    write(&mut file)?;
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// A file with the permissions of any other new file; a temporary one is its owner's alone.
fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666))
    };
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use lathe_arch::{ModelConfig, SubnetConfig};

    use super::*;
    use crate::{LogitRows, RandomWeights};

    /// A disk with room for so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_named_with_the_bytes_that_the_file_needs() {
        let model = ModelConfig {
            vocab_size: 50,
            max_position_embeddings: 16,
            ..ModelConfig::smollm2_135m()
        };
        let subnet = SubnetConfig::uniform(&model, None, None);
        let weights = RandomWeights {
            model: &model,
            subnet: &subnet,
            seed: 0,
        };
        let network = Network {
            model: &model,
            subnet: &subnet,
            weights: &weights,
            logit_rows: LogitRows::Last,
        };
        let plan = network.plan(DATA_FILE).unwrap();
        let path = Path::new(DATA_FILE);
        let all = plan.data_bytes as usize;
        for room in [0, 100, 4096, all - 1] {
            let error = write_data(&mut Disk(room), path, &plan, &weights).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, OnnxError::DiskFull { .. }), "{message}");
            assert!(message.contains(&format!("{all} bytes")), "{message}");
        }
        write_data(&mut Disk(all), path, &plan, &weights).unwrap();
    }
}
