//! The metadata and the table of tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::TensorType;

/// Longest header accepted. A vocabulary of 262,144 tokens with merges takes about 15 MB.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// Most tensors accepted.
const MAX_TENSORS: u64 = 1 << 16;
/// Most metadata fields accepted.
const MAX_FIELDS: u64 = 1 << 16;
/// GGUF allows four dimensions.
const MAX_DIMENSIONS: u32 = 4;

/// What stands before the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Metadata by name.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the file's order. They lie inside the file and do not overlap.
    pub tensors: Vec<TensorInfo>,
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any floating point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    String(String),
    /// A list of strings.
    Strings(Vec<String>),
    /// A list of numbers or truth values.
    Numbers(Vec<f64>),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "found an integer",
            Value::Float(_) => "found a floating point number",
            Value::Bool(_) => "found a truth value",
            Value::String(_) => "found a string",
            Value::Strings(_) => "found a list of strings",
            Value::Numbers(_) => "found a list of numbers",
        }
    }
}

/// Where one tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions, the fastest-varying first (columns, then rows).
    pub dimensions: Vec<usize>,
    /// How its numbers are stored.
    pub tensor_type: TensorType,
    /// Its first byte, from the start of the file.
    pub position: u64,
    /// Its bytes.
    pub byte_len: usize,
}

impl Header {
    /// Reads the header of a file of `file_len` bytes.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn read(source: &mut impl Read, file_len: u64) -> Result<Self, String> {
        let mut reader = Reader {
            source,
            position: 0,
            limit: file_len.min(MAX_HEADER_BYTES),
        };
        if reader.array::<4>("magic")? != *b"GGUF" {
            return Err("not a GGUF file: it does not begin with `GGUF`".to_owned());
        }
        let version = reader.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version}, supported are 2 and 3"));
        }
        let tensor_count = reader.count("tensor count", MAX_TENSORS)?;
        let field_count = reader.count("metadata count", MAX_FIELDS)?;
        let mut metadata = BTreeMap::new();
        for index in 0..field_count {
            let key = reader.string(&format!("key of metadata field {index}"))?;
            let kind = reader.u32(&key)?;
            let value = reader.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata field `{key}` stands twice"));
            }
        }
        let entries = (0..tensor_count).map(|index| Entry::read(&mut reader, index));
        let entries = entries.collect::<Result<Vec<_>, String>>()?;
        let alignment = alignment(&metadata)?;
        let data_start = reader.position.next_multiple_of(alignment);
        let tensors = place(entries, data_start, alignment, file_len)?;
        Ok(Self { metadata, tensors })
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => Ok(*n),
        Some(found) => Err(format!(
            "field `general.alignment`: expected a power of two from 8 to 1048576, found {found:?}"
        )),
    }
}

/// A line of the tensor table before it is checked.
struct Entry {
    name: String,
    dimensions: Vec<usize>,
    tensor_type: TensorType,
    offset: u64,
    byte_len: usize,
}

impl Entry {
    fn read(reader: &mut Reader<'_, impl Read>, index: u64) -> Result<Self, String> {
        let name = reader.string(&format!("name of tensor {index}"))?;
        let count = reader.u32(&name)?;
        if !(1..=MAX_DIMENSIONS).contains(&count) {
            return Err(format!(
                "tensor `{name}`: {count} dimensions, expected 1 to 4"
            ));
        }
        let dimensions = (0..count).map(|_| reader.u64(&name));
        let dimensions = dimensions.collect::<Result<Vec<u64>, String>>()?;
        let kind = reader.u32(&name)?;
        let tensor_type = TensorType::from_id(kind).ok_or_else(|| {
            let known = TensorType::names();
            format!("tensor `{name}`: data type {kind} is not supported; supported: {known}")
        })?;
        let offset = reader.u64(&name)?;
        let too_large = || format!("tensor `{name}`: dimensions {dimensions:?} overflow");
        let mut sizes = Vec::new();
        let mut numbers = 1usize;
        for dimension in &dimensions {
            let dimension = usize::try_from(*dimension).map_err(|_| too_large())?;
            numbers = numbers.checked_mul(dimension).ok_or_else(too_large)?;
            sizes.push(dimension);
        }
        let byte_len = tensor_type.byte_len(sizes[0], numbers).ok_or_else(|| {
            format!(
                "tensor `{name}`: rows of {} do not divide into {tensor_type:?} blocks",
                sizes[0]
            )
        })?;
        Ok(Self {
            dimensions: sizes,
            tensor_type,
            offset,
            byte_len,
            name,
        })
    }
}

/// Checks that the tensors lie inside the file, aligned and apart.
fn place(
    entries: Vec<Entry>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo>, String> {
    let mut names = BTreeSet::new();
    let mut spans = Vec::new();
    let mut tensors = Vec::new();
    for entry in entries {
        let name = entry.name;
        if !names.insert(name.clone()) {
            return Err(format!("tensor `{name}` stands twice"));
        }
        if !entry.offset.is_multiple_of(alignment) {
            let offset = entry.offset;
            return Err(format!(
                "tensor `{name}`: offset {offset} is not a multiple of {alignment}"
            ));
        }
        let position = data_start.checked_add(entry.offset);
        let end = position.and_then(|p| p.checked_add(entry.byte_len as u64));
        let (Some(position), Some(end)) = (position, end) else {
            return Err(format!("tensor `{name}`: its offset overflows"));
        };
        if end > file_len {
            return Err(format!(
                "tensor `{name}` ends at byte {end}, but the file has {file_len}: it is cut short"
            ));
        }
        spans.push((position, end, name.clone()));
        tensors.push(TensorInfo {
            name,
            dimensions: entry.dimensions,
            tensor_type: entry.tensor_type,
            position,
            byte_len: entry.byte_len,
        });
    }
    spans.sort();
    match spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(format!(
            "tensors `{}` and `{}` overlap",
            pair[0].2, pair[1].2
        )),
        None => Ok(tensors),
    }
}

/// Reads little-endian numbers and never past the limit.
struct Reader<'a, R> {
    source: &'a mut R,
    position: u64,
    limit: u64,
}

impl<R: Read> Reader<'_, R> {
    /// Reserves `bytes` before they are read, so that no length in the file can ask for more
    /// memory than the file has bytes.
    fn reserve(&mut self, bytes: u64, what: &str) -> Result<(), String> {
        let end = self
            .position
            .checked_add(bytes)
            .filter(|end| *end <= self.limit);
        self.position = end.ok_or_else(|| {
            format!(
                "`{what}` at byte {} needs {bytes} bytes, past the end of the header's {}",
                self.position, self.limit
            )
        })?;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        self.reserve(N as u64, what)?;
        let mut bytes = [0; N];
        let read = self.source.read_exact(&mut bytes);
        read.map_err(|error| format!("`{what}`: {error}"))?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64, String> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(format!("{what} is {count}, at most {limit} are accepted"));
        }
        Ok(count)
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let len = self.u64(what)?;
        self.reserve(len, what)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|error| error.to_string())?];
        let read = self.source.read_exact(&mut bytes);
        read.map_err(|error| format!("`{what}`: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("`{what}` is not UTF-8"))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(key)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(self.u32(key)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Value::Bool(self.array::<1>(key)?[0] != 0),
            8 => Value::String(self.string(key)?),
            9 => self.list(key)?,
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(format!("metadata field `{key}` has unknown type {other}")),
        })
    }

    fn list(&mut self, key: &str) -> Result<Value, String> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        if kind == 9 {
            return Err(format!(
                "metadata field `{key}`: lists of lists are not supported"
            ));
        }
        if kind == 8 {
            let strings = (0..count).map(|_| self.string(key));
            return Ok(Value::Strings(strings.collect::<Result<_, String>>()?));
        }
        let numbers = (0..count).map(|_| {
            Ok(match self.value(key, kind)? {
                Value::Unsigned(n) => n as f64,
                Value::Signed(n) => n as f64,
                Value::Float(x) => x,
                Value::Bool(b) => f64::from(u8::from(b)),
                Value::String(_) | Value::Strings(_) | Value::Numbers(_) => {
                    return Err(format!("metadata field `{key}`: expected numbers"));
                }
            })
        });
        Ok(Value::Numbers(numbers.collect::<Result<_, String>>()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// A file with one field, and two F32 tensors of four numbers at the given offsets.
    fn file(offsets: [u64; 2]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        string(&mut out, "general.architecture");
        out.extend(8u32.to_le_bytes());
        string(&mut out, "llama");
        for (name, offset) in ["a", "b"].iter().zip(offsets) {
            string(&mut out, name);
            out.extend(1u32.to_le_bytes());
            out.extend(4u64.to_le_bytes());
            out.extend(0u32.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + 48, 0);
        out
    }

    fn read(bytes: &[u8]) -> Result<Header, String> {
        Header::read(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn a_sound_file_is_read() {
        let header = read(&file([0, 32])).unwrap();
        assert_eq!(header.tensors[1].byte_len, 16);
        let llama = Value::String("llama".to_owned());
        assert_eq!(header.metadata["general.architecture"], llama);
    }

    #[test]
    fn overlapping_misaligned_and_outside_tensors_are_named() {
        assert!(read(&file([0, 0])).unwrap_err().contains("overlap"));
        assert!(read(&file([0, 8])).unwrap_err().contains("multiple of 32"));
        assert!(read(&file([0, 64])).unwrap_err().contains("cut short"));
        assert!(
            read(&file([0, u64::MAX - 31]))
                .unwrap_err()
                .contains("overflows")
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = file([0, 32]);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn huge_lengths_allocate_nothing() {
        for position in [8, 16, 24] {
            let mut bytes = file([0, 32]);
            bytes[position..position + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(read(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(
            damage in prop::collection::vec((0usize..200, any::<u8>()), 1..6),
        ) {
            let mut bytes = file([0, 32]);
            for (at, byte) in damage {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            let _outcome = read(&bytes);
        }
    }
}
