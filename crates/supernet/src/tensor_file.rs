//! Tensors of a safetensors file, read one by one: a calibration is larger than the model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::Array2;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::SupernetError;

/// Longest header that is read.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// An open file. Another that takes its name meanwhile changes nothing.
pub(crate) struct TensorFile {
    path: PathBuf,
    file: Mutex<File>,
    header: Metadata,
    /// Where the numbers begin.
    start: u64,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self, SupernetError> {
        let mut file = File::open(path).map_err(|source| io(path, source))?;
        let len = file.metadata().map_err(|source| io(path, source))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|source| io(path, source))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES.min(len) {
            return Err(format(path, "the header is longer than the file or 16 MiB"));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header)
            .map_err(|source| io(path, source))?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| format(path, &error.to_string()))?;
        let start = length.len() as u64 + header_bytes;
        if start + header.data_len() as u64 != len {
            return Err(format(path, "the file is not as long as its header says"));
        }
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            header,
            start,
        })
    }

    /// The texts beside the tensors.
    pub fn fields(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    pub fn format(&self, message: &str) -> SupernetError {
        format(&self.path, message)
    }

    pub fn f64s(&self, name: &str) -> Result<Vec<f64>, SupernetError> {
        let bytes = self.bytes(name, Dtype::F64)?;
        let numbers = bytes.as_chunks().0.iter();
        let numbers: Vec<f64> = numbers.map(|b| f64::from_le_bytes(*b)).collect();
        self.check_finite(name, numbers.iter().all(|v| v.is_finite()))?;
        Ok(numbers)
    }

    /// A matrix that has to have `shape`.
    pub fn matrix_of(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Array2<f32>, SupernetError> {
        let found = self.shape(name)?;
        if found != shape {
            let message = format!("{name} is {found:?}, expected {shape:?}");
            return Err(self.format(&message));
        }
        self.matrix(name)
    }

    pub fn matrix(&self, name: &str) -> Result<Array2<f32>, SupernetError> {
        let shape = self.shape(name)?;
        let bytes = self.bytes(name, Dtype::F32)?;
        let numbers = bytes.as_chunks().0.iter();
        let numbers: Vec<f32> = numbers.map(|b| f32::from_le_bytes(*b)).collect();
        self.check_finite(name, numbers.iter().all(|v| v.is_finite()))?;
        let matrix = Array2::from_shape_vec(shape, numbers);
        matrix.map_err(|error| self.format(&format!("{name}: {error}")))
    }

    fn shape(&self, name: &str) -> Result<(usize, usize), SupernetError> {
        match self.info(name)?.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(self.format(&format!("{name} is no matrix"))),
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, SupernetError> {
        let info = self.header.info(name);
        info.ok_or_else(|| self.format(&format!("{name} is missing")))
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>, SupernetError> {
        let info = self.info(name)?;
        if info.dtype != dtype {
            let message = format!("{name} is {:?}, expected {dtype:?}", info.dtype);
            return Err(self.format(&message));
        }
        let (from, to) = info.data_offsets;
        // The header was held against the file's length: no more is allocated than there is.
        let mut bytes = vec![0; to.saturating_sub(from)];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(self.start + from as u64));
        read.and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| io(&self.path, source))?;
        Ok(bytes)
    }

    fn check_finite(&self, name: &str, is_finite: bool) -> Result<(), SupernetError> {
        if is_finite {
            return Ok(());
        }
        Err(self.format(&format!("{name}: a number is not finite")))
    }
}

/// A matrix in memory, or in a file until it is wanted.
#[derive(Clone)]
pub struct StoredMatrix(Place);

#[derive(Clone)]
enum Place {
    Memory(Arc<Array2<f32>>),
    File {
        file: Arc<TensorFile>,
        name: String,
        shape: (usize, usize),
    },
}

impl StoredMatrix {
    pub(crate) fn in_file(file: &Arc<TensorFile>, name: String) -> Result<Self, SupernetError> {
        Ok(Self(Place::File {
            shape: file.shape(&name)?,
            file: file.clone(),
            name,
        }))
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match &self.0 {
            Place::Memory(matrix) => matrix.dim(),
            Place::File { shape, .. } => *shape,
        }
    }

    /// The matrix.
    ///
    /// # Errors
    /// When the file cannot be read or a number is not finite.
    pub fn load(&self) -> Result<Cow<'_, Array2<f32>>, SupernetError> {
        match &self.0 {
            Place::Memory(matrix) => Ok(Cow::Borrowed(matrix)),
            Place::File { file, name, .. } => file.matrix(name).map(Cow::Owned),
        }
    }
}

impl From<Array2<f32>> for StoredMatrix {
    fn from(matrix: Array2<f32>) -> Self {
        Self(Place::Memory(Arc::new(matrix)))
    }
}

impl fmt::Debug for StoredMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, columns) = self.dim();
        write!(f, "StoredMatrix({rows} x {columns})")
    }
}

/// By their numbers, wherever they are; what cannot be read equals nothing.
impl PartialEq for StoredMatrix {
    fn eq(&self, other: &Self) -> bool {
        matches!((self.load(), other.load()), (Ok(a), Ok(b)) if a == b)
    }
}

fn io(path: &Path, source: std::io::Error) -> SupernetError {
    SupernetError::Io {
        path: path.to_owned(),
        source,
    }
}

fn format(path: &Path, message: &str) -> SupernetError {
    SupernetError::Format {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}
