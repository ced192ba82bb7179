//! GGUF files in parts, and changes of one part.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{bytes, changed, extreme, one_in, pick};

/// Largest file that is made longer to hold the tensors that its header speaks of.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of a scalar of each kind; texts and lists are of kinds 8 and 9.
const SCALARS: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Numbers and bytes of one block of the types that may be read (ggml's numbers).
const TYPES: [(u32, u64, u64); 9] = [
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (8, 32, 34),
    (12, 256, 144),
    (14, 256, 210),
    (30, 1, 2),
];

/// A file in parts, none of which has to be right.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The version.
    pub version: u32,
    /// Metadata.
    pub fields: Vec<Field>,
    /// The table of tensors.
    pub tensors: Vec<Tensor>,
    /// What follows the header, from its alignment on.
    pub data: Vec<u8>,
}

/// A field of the metadata.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name.
    pub key: Vec<u8>,
    /// Kind of the value, or of the items of a list.
    pub kind: u32,
    /// Whether it is a list.
    pub is_list: bool,
    /// The value or the items.
    pub items: Vec<Vec<u8>>,
}

/// A line of the table of tensors.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: Vec<u8>,
    /// Its sizes.
    pub dimensions: Vec<u64>,
    /// ggml's number of its type.
    pub kind: u32,
    /// Where it begins in the data.
    pub offset: u64,
}

/// Changes one part of a file.
pub fn mutate(input: &[u8], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let mut file = Gguf::parse(input)?;
    match rng.random_range(0..8) {
        0 => file.version = changed(rng, file.version.into()) as u32,
        1..=3 => file.change_fields(rng)?,
        4..=6 => file.change_tensors(rng)?,
        _ => file.data = bytes(&file.data, rng),
    }
    if one_in(rng, 2) {
        file.lay_out();
    }
    let mut out = file.to_bytes();
    if one_in(rng, 8) {
        // A count of tensors or fields that is none.
        let at = [8, 16][rng.random_range(0..2)];
        out.get_mut(at..at + 8)?
            .copy_from_slice(&extreme(rng).to_le_bytes());
    }
    Some(out)
}

impl Gguf {
    /// Takes a file apart that has its parts in order.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let mut rest = input.strip_prefix(b"GGUF")?;
        let version = number(&mut rest, 4)? as u32;
        let (tensors, fields) = (number(&mut rest, 8)?, number(&mut rest, 8)?);
        let most = input.len() as u64;
        if tensors > most || fields > most {
            return None;
        }
        let fields = (0..fields)
            .map(|_| Field::parse(&mut rest))
            .collect::<Option<_>>()?;
        let tensors = (0..tensors)
            .map(|_| Tensor::parse(&mut rest))
            .collect::<Option<_>>()?;
        let header = input.len() - rest.len();
        let data = input.get(header.next_multiple_of(32)..).unwrap_or(&[]);
        Some(Self {
            version,
            fields,
            tensors,
            data: data.to_vec(),
        })
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.fields.len() as u64).to_le_bytes());
        for field in &self.fields {
            text(&mut out, &field.key);
            if field.is_list {
                out.extend(LIST.to_le_bytes());
            }
            out.extend(field.kind.to_le_bytes());
            if field.is_list {
                out.extend((field.items.len() as u64).to_le_bytes());
            }
            for item in &field.items {
                match field.kind {
                    TEXT => text(&mut out, item),
                    _ => out.extend(item),
                }
            }
        }
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            let sizes = tensor.dimensions.iter();
            out.extend(sizes.flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    /// Gives each tensor its own place, and the data a length that holds them all.
    pub fn lay_out(&mut self) {
        let mut end = 0u64;
        for tensor in &mut self.tensors {
            tensor.offset = end;
            let Some(bytes) = tensor.bytes().filter(|bytes| *bytes < MAX_BYTES as u64) else {
                continue;
            };
            end = (end + bytes).next_multiple_of(32);
        }
        if end < MAX_BYTES as u64 {
            self.data.resize(end as usize, 0);
        }
    }

    fn change_fields(&mut self, rng: &mut ChaCha8Rng) -> Option<()> {
        let other = pick(rng, &self.fields)?.clone();
        let at = rng.random_range(0..self.fields.len());
        let field = &mut self.fields[at];
        match rng.random_range(0..6) {
            0 => drop(self.fields.remove(at)),
            1 => self.fields.push(other),
            2 => {
                *field = Field {
                    key: field.key.clone(),
                    ..other
                }
            }
            3 => field.change_kind(rng),
            4 if field.is_list => field.change_list(rng),
            _ => field.change_item(rng),
        }
        Some(())
    }

    fn change_tensors(&mut self, rng: &mut ChaCha8Rng) -> Option<()> {
        let other = pick(rng, &self.tensors)?.clone();
        let at = rng.random_range(0..self.tensors.len());
        let tensor = &mut self.tensors[at];
        match rng.random_range(0..8) {
            0 => drop(self.tensors.remove(at)),
            1 => self.tensors.push(other),
            2 => tensor.name = other.name,
            3 => tensor.kind = pick(rng, &TYPES)?.0,
            4 => tensor.offset = changed(rng, tensor.offset),
            5 => tensor.dimensions.reverse(),
            6 => tensor.dimensions.push(changed(rng, 1)),
            _ => {
                let size = rng.random_range(0..tensor.dimensions.len().max(1));
                let size = tensor.dimensions.get_mut(size)?;
                *size = changed(rng, *size);
            }
        }
        Some(())
    }
}

impl Field {
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let key = take_text(rest)?;
        let kind = number(rest, 4)? as u32;
        let is_list = kind == LIST;
        let (kind, count) = match kind {
            LIST => (number(rest, 4)? as u32, number(rest, 8)?),
            kind => (kind, 1),
        };
        if count > rest.len() as u64 {
            return None;
        }
        let item = |_| match kind {
            TEXT => take_text(rest),
            kind => take(
                rest,
                *SCALARS.get(kind as usize).filter(|width| **width > 0)?,
            ),
        };
        let items = (0..count).map(item).collect::<Option<_>>()?;
        Some(Self {
            key,
            kind,
            is_list,
            items,
        })
    }

    /// Another kind, with bytes that are one.
    fn change_kind(&mut self, rng: &mut ChaCha8Rng) {
        self.kind = rng.random_range(0..14);
        let width = SCALARS.get(self.kind as usize).copied().unwrap_or(4);
        for item in &mut self.items {
            item.resize(if self.kind == TEXT { item.len() } else { width }, 0);
        }
        self.is_list ^= one_in(rng, 4);
    }

    fn change_list(&mut self, rng: &mut ChaCha8Rng) {
        let at = rng.random_range(0..=self.items.len());
        let item = self.items.get(at).or(self.items.first()).cloned();
        match rng.random_range(0..4) {
            0 => self.items.truncate(at),
            1 => drop(self.items.drain(at..(at + 1).min(self.items.len()))),
            2 => self.items.extend(item),
            _ => self.items.insert(at, item.unwrap_or_default()),
        }
    }

    fn change_item(&mut self, rng: &mut ChaCha8Rng) {
        let count = self.items.len();
        let Some(item) = (count > 0).then(|| &mut self.items[rng.random_range(0..count)]) else {
            return;
        };
        if self.kind == TEXT {
            *item = bytes(item, rng);
            return;
        }
        let mut wide = [0; 8];
        wide[..item.len()].copy_from_slice(item);
        let new = match self.kind {
            6 => u64::from(
                [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e30][rng.random_range(0..5)].to_bits(),
            ),
            _ => changed(rng, u64::from_le_bytes(wide)),
        };
        let width = item.len();
        item.copy_from_slice(&new.to_le_bytes()[..width]);
    }
}

impl Tensor {
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let name = take_text(rest)?;
        let count = number(rest, 4)?;
        if count > 64 {
            return None;
        }
        let dimensions = (0..count).map(|_| number(rest, 8)).collect::<Option<_>>()?;
        Some(Self {
            name,
            dimensions,
            kind: number(rest, 4)? as u32,
            offset: number(rest, 8)?,
        })
    }

    /// Its size; `None` where it overflows or the type is not known.
    pub fn bytes(&self) -> Option<u64> {
        let (_, block, bytes) = TYPES.iter().find(|(kind, ..)| *kind == self.kind)?;
        let mut sizes = self.dimensions.iter();
        let numbers = sizes.try_fold(1u64, |product, size| product.checked_mul(*size))?;
        numbers.div_ceil(*block).checked_mul(*bytes)
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn take(rest: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken.to_vec())
}

fn take_text(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(number(rest, 8)?).ok()?;
    take(rest, length)
}

fn number(rest: &mut &[u8], width: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(&take(rest, width)?);
    Some(u64::from_le_bytes(wide))
}
