//! Low-rank adapters (LoRA, 2106.09685): a matrix `W [in, out]` becomes `W + (alpha / rank) A B` with
//! `A [in, rank]` and `B [rank, out]`, and only these are trained, besides gains and biases.
//!
//! The product is added to the weights before a step, which costs little beside it, so that the
//! network runs as it will when adapters are merged; the gradients of `A` and `B` are made of the
//! rows that enter and leave the matrix, without that of the matrix itself.

use std::collections::BTreeMap;
use std::str::FromStr;

use lathe_arch::{ModelConfig, SubnetConfig};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::SupernetError;
use crate::engine::matmul::{
    Threads, Window, Write, add_transposed_matmul, matmul, matmul_transposed,
};
use crate::gradient::{GradientSink, add_rows};
use crate::numbers::Numbers;
use crate::parameters::{Parameters, Part, Role, Values, shapes};
use crate::supernet::{slice, window};
use crate::tensor_file::TensorFile;

const LAID_OUT: &str = "a matrix that was made row by row is laid out so";

/// Matrices that can have an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// `q_proj`
    Q,
    /// `k_proj`
    K,
    /// `v_proj`
    V,
    /// `o_proj`
    O,
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    fn part(self) -> Part {
        match self {
            Target::Q => Part::Query,
            Target::K => Part::Key,
            Target::V => Part::Value,
            Target::O => Part::Output,
            Target::Gate => Part::Gate,
            Target::Up => Part::Up,
            Target::Down => Part::Down,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "q" => Ok(Self::Q),
            "k" => Ok(Self::K),
            "v" => Ok(Self::V),
            "o" => Ok(Self::O),
            "gate" => Ok(Self::Gate),
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            other => Err(format!("`{other}`: expected q, k, v, o, gate, up or down")),
        }
    }
}

/// What adapters there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSettings {
    /// Rank of the products.
    pub rank: usize,
    /// They are multiplied by this over the rank.
    pub alpha: f64,
    /// Matrices that have one.
    pub targets: Vec<Target>,
}

impl LoraSettings {
    pub(super) fn has(&self, role: Role) -> bool {
        let Role::Layer(_, part) = role else {
            return false;
        };
        self.targets.iter().any(|target| target.part() == part)
    }

    fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }
}

/// One matrix's adapter, or numbers that go with it.
struct Pair {
    /// `[in, rank]`
    a: Array2<f32>,
    /// `[rank, out]`
    b: Array2<f32>,
}

/// The adapter of a matrix: `scale A B` is added to it.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'s> {
    /// `[in, rank]`
    pub a: &'s Array2<f32>,
    /// `[rank, out]`
    pub b: &'s Array2<f32>,
    /// What their product is multiplied by.
    pub scale: f32,
}

/// Adapters of the matrices of a sub-network, and its vectors.
pub(super) struct Adapters {
    pairs: BTreeMap<Role, Pair>,
    vectors: Parameters,
    scale: f32,
}

impl Adapters {
    /// Adapters whose products are zero, and the vectors of `weights`.
    pub fn new(weights: &Parameters, settings: &LoraSettings, seed: u64) -> Self {
        let targets = weights.iter().filter(|(role, _)| settings.has(*role));
        let pairs = targets.enumerate().map(|(stream, (role, matrix))| {
            let (inputs, outputs) = matrix.dim();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream as u64);
            // As `nn.Linear` begins: uniform with a variance of a third of one over the inputs.
            let bound = 1.0 / (inputs as f32).sqrt();
            let a =
                Array2::from_shape_fn((inputs, settings.rank), |_| rng.random_range(-bound..bound));
            let b = Array2::zeros((settings.rank, outputs));
            (role, Pair { a, b })
        });
        Self {
            pairs: pairs.collect(),
            vectors: weights.vectors(),
            scale: settings.scale(),
        }
    }

    pub fn zeros_like(&self) -> Self {
        let zeros = |pair: &Pair| Pair {
            a: Array2::zeros(pair.a.dim()),
            b: Array2::zeros(pair.b.dim()),
        };
        let pairs = self.pairs.iter();
        Self {
            pairs: pairs.map(|(role, pair)| (*role, zeros(pair))).collect(),
            vectors: Parameters::zeros_like(&self.vectors),
            scale: self.scale,
        }
    }

    pub fn values(&self) -> Vec<Values<&[f32]>> {
        let pairs = self.pairs.values().flat_map(|pair| [&pair.a, &pair.b]);
        let pairs = pairs.map(|matrix| Values {
            numbers: slice(matrix),
            is_matrix: true,
        });
        pairs.chain(self.vectors.values()).collect()
    }

    pub fn values_mut(&mut self) -> Vec<Values<&mut [f32]>> {
        let pairs = self.pairs.values_mut();
        let pairs = pairs.flat_map(|pair| [&mut pair.a, &mut pair.b]);
        let pairs = pairs.map(|matrix| Values {
            numbers: matrix.as_slice_mut().expect(LAID_OUT),
            is_matrix: true,
        });
        pairs.chain(self.vectors.values_mut()).collect()
    }

    /// Puts `base` with the adapters' products added, and the vectors, into `weights`.
    pub fn merge(&self, base: &Parameters, weights: &mut Parameters) {
        weights.copy_from(base);
        weights.copy_from(&self.vectors);
        for (role, pair) in &self.pairs {
            if let Some(matrix) = weights.get_mut(*role) {
                let outputs = matrix.ncols();
                let mut a = pair.a.clone();
                a *= self.scale;
                let out = matrix.as_slice_mut().expect(LAID_OUT);
                let (a, b) = (window(&a), window(&pair.b));
                matmul(out, outputs, a, b, Write::Add, Threads::Pool);
            }
        }
    }

    /// The adapter of a matrix, where it has one.
    pub fn adapter(&self, role: Role) -> Option<LowRank<'_>> {
        let pair = self.pairs.get(&role)?;
        Some(LowRank {
            a: &pair.a,
            b: &pair.b,
            scale: self.scale,
        })
    }

    /// Puts the gradients of these adapters in `sums`, from those of the matrices that they are added
    /// to: that of `A` is `s G B^T` and that of `B` is `s A^T G`.
    pub fn project(&self, gradient: &Parameters, sums: &mut Self) {
        sums.vectors.copy_from(gradient);
        for (role, pair) in &self.pairs {
            let (Some(d), Some(sum)) = (gradient.get(*role), sums.pairs.get_mut(role)) else {
                continue;
            };
            let (d, rank) = (window(d), pair.a.ncols());
            let out = sum.a.as_slice_mut().expect(LAID_OUT);
            let (write, pool) = (Write::Replace, Threads::Pool);
            matmul_transposed(out, rank, d, window(&pair.b), self.scale, write, pool);
            let out = sum.b.as_slice_mut().expect(LAID_OUT);
            out.fill(0.0);
            add_transposed_matmul(out, d.col_count(), window(&pair.a), d, self.scale, pool);
        }
    }

    /// Adds up gradients of these adapters in `sums`.
    pub fn sums<'s>(&'s self, sums: &'s mut Self) -> AdapterSums<'s> {
        AdapterSums {
            adapters: self,
            sums,
        }
    }

    pub fn named(&self, prefix: &str) -> Vec<(String, Numbers<'_>)> {
        let pairs = self.pairs.iter().flat_map(|(role, pair)| {
            let [a, b] = names(prefix, *role);
            [
                (a, Numbers::borrowed(&pair.a)),
                (b, Numbers::borrowed(&pair.b)),
            ]
        });
        pairs.chain(self.vectors.named(prefix)).collect()
    }

    pub fn read(
        file: &TensorFile,
        prefix: &str,
        model: &ModelConfig,
        config: &SubnetConfig,
        settings: &LoraSettings,
    ) -> Result<Self, SupernetError> {
        let mut pairs = BTreeMap::new();
        for (role, expected) in shapes(model, config) {
            if settings.has(role) {
                let (inputs, outputs) = expected.shape;
                let [a, b] = names(prefix, role);
                let pair = Pair {
                    a: file.matrix_of(&a, (inputs, settings.rank))?,
                    b: file.matrix_of(&b, (settings.rank, outputs))?,
                };
                pairs.insert(role, pair);
            }
        }
        Ok(Self {
            pairs,
            vectors: Parameters::read_vectors(file, prefix, model, config)?,
            scale: settings.scale(),
        })
    }
}

fn names(prefix: &str, role: Role) -> [String; 2] {
    [format!("{prefix}{role}.a"), format!("{prefix}{role}.b")]
}

/// Adapters, and where their gradients are added up.
pub struct AdapterSums<'s> {
    adapters: &'s Adapters,
    sums: &'s mut Adapters,
}

impl AdapterSums<'_> {
    pub(super) fn adapter(&self, role: Role) -> Option<LowRank<'_>> {
        self.adapters.adapter(role)
    }

    /// Adds gradients of `A` and `B`, row by row.
    pub(super) fn add_to_adapter(&mut self, role: Role, [a, b]: [&[f32]; 2]) {
        if let Some(sum) = self.sums.pairs.get_mut(&role) {
            add_rows(&mut sum.a, a);
            add_rows(&mut sum.b, b);
        }
    }

    /// The sums of what is no matrix.
    pub(super) fn vectors(&self) -> &Parameters {
        &self.sums.vectors
    }

    pub(super) fn vectors_mut(&mut self) -> &mut Parameters {
        &mut self.sums.vectors
    }
}

impl GradientSink for AdapterSums<'_> {
    /// With `W = s A B` and the gradient `G = x^T d` of `W`: that of `A` is `s G B^T = s x^T (d B^T)`
    /// and that of `B` is `s A^T G = s (x A)^T d`.
    fn matrix(&mut self, role: Role, x: Window<'_>, d: Window<'_>) {
        let pair = self.adapters.pairs.get(&role);
        let (Some(pair), Some(sum)) = (pair, self.sums.pairs.get_mut(&role)) else {
            return;
        };
        let scale = self.adapters.scale;
        let (tokens, rank) = (x.row_count(), pair.a.ncols());
        let mut rows = vec![0.0; tokens * rank];
        let (write, pool) = (Write::Replace, Threads::Pool);
        matmul_transposed(&mut rows, rank, d, window(&pair.b), 1.0, write, pool);
        let through = Window::whole(&rows, tokens, rank);
        let out = sum.a.as_slice_mut().expect(LAID_OUT);
        add_transposed_matmul(out, rank, x, through, scale, pool);
        matmul(&mut rows, rank, x, window(&pair.a), write, pool);
        let through = Window::whole(&rows, tokens, rank);
        let out = sum.b.as_slice_mut().expect(LAID_OUT);
        add_transposed_matmul(out, d.col_count(), through, d, scale, pool);
    }

    fn vector(&mut self, role: Role, d: &[f32]) {
        self.sums.vectors.vector(role, d);
    }
}
