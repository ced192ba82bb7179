//! The seam between what is done with networks and what computes them: scoring and training ask an
//! [`Engine`] for [`Network`]s, and do not know where these run.
//!
//! Rows cross the seam in f32 and lie in this machine's memory: of a model with 4096 channels 16 KB a
//! token, little beside the arithmetic that a token takes. The embedding is looked up on this side;
//! matrices, the head's included, are the engine's.

use crate::SupernetError;
use crate::cut::Subnet;
use crate::train::GradientSums;

/// What runs networks that are cut from one super-network. [`Cpu`](crate::Cpu) is this crate's own.
pub trait Engine: Send + Sync {
    /// Makes a network ready to run.
    ///
    /// # Errors
    /// When the engine cannot hold it.
    fn network<'n>(
        &'n self,
        subnet: &'n Subnet<'n>,
    ) -> Result<Box<dyn Network + 'n>, SupernetError>;

    /// The full model as the checkpoint has it, which networks are held against. It is made ready once.
    ///
    /// # Errors
    /// When the engine cannot hold it.
    fn teacher(&self) -> Result<Box<dyn Network + '_>, SupernetError>;
}

/// A network that is ready to run.
pub trait Network {
    /// Runs the layers from `first` on over the residual stream `x [tokens, hidden]` before it, whole
    /// sequences of `seq_len` tokens. Gives the last hidden states after the final norm, in the same
    /// shape; `keep` is given the stream before each layer after `first`.
    ///
    /// # Errors
    /// When the engine fails.
    fn run_from(
        &self,
        first: usize,
        x: Vec<f32>,
        seq_len: usize,
        keep: Option<&mut dyn FnMut(Vec<f32>)>,
    ) -> Result<Vec<f32>, SupernetError>;

    /// Runs all layers over sequences that begin alike, on `x [tokens, hidden]` with the rows of each
    /// fork's stem before those of its branches. Gives the last hidden states after the final norm, in
    /// the same shape.
    ///
    /// An engine without a way of its own runs every branch behind a stem of its own.
    ///
    /// # Errors
    /// When the engine fails.
    fn run_forks(&self, x: Vec<f32>, forks: &[Fork]) -> Result<Vec<f32>, SupernetError> {
        run_unfolded(self, &x, forks)
    }

    /// Negative log-likelihood of each target in nats, from what [`Self::run_from`] gave at its place.
    ///
    /// # Errors
    /// When the engine fails.
    fn losses(&self, normed: &[f32], targets: &[u32]) -> Result<Vec<f32>, SupernetError>;

    /// The same, and the divergence from the teacher, whose last hidden states are `of_teacher`.
    ///
    /// # Errors
    /// When the engine fails.
    fn scores(
        &self,
        normed: &[f32],
        of_teacher: &[f32],
        targets: &[u32],
    ) -> Result<Vec<Score>, SupernetError>;

    /// Adds the gradient of a lesson's loss to `sums`, and returns the summed loss. Layers have to be
    /// in f32: rounded weights have no gradient.
    ///
    /// # Errors
    /// When the engine fails.
    fn differentiate(
        &self,
        lesson: Lesson<'_>,
        sums: &mut GradientSums<'_>,
    ) -> Result<HeadLoss, SupernetError>;
}

/// A sequence that goes on in several ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// Tokens that all ways begin with.
    pub stem: usize,
    /// Tokens of each way after them.
    pub branches: Vec<usize>,
}

impl Fork {
    /// Tokens in all, each of them once.
    pub fn tokens(&self) -> usize {
        self.stem + self.branches.iter().sum::<usize>()
    }

    /// Tokens of the longest way, the stem included.
    pub fn longest(&self) -> usize {
        self.stem + self.branches.iter().max().unwrap_or(&0)
    }

    /// The position of each token in its way.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let branch = |count: &usize| self.stem..self.stem + count;
        (0..self.stem).chain(self.branches.iter().flat_map(branch))
    }
}

/// Rows of a stem, and of one branch.
type Rows = std::iter::Chain<std::ops::Range<usize>, std::ops::Range<usize>>;

/// Tokens run together where forks are unfolded.
const UNFOLDED_TOKENS: usize = 2048;

/// [`Network::run_forks`] by [`Network::run_from`].
fn run_unfolded<N: Network + ?Sized>(
    network: &N,
    x: &[f32],
    forks: &[Fork],
) -> Result<Vec<f32>, SupernetError> {
    let tokens: usize = forks.iter().map(Fork::tokens).sum();
    let seq_len = forks.iter().map(Fork::longest).max().unwrap_or(0);
    if seq_len == 0 {
        return Ok(Vec::new());
    }
    let hidden = x.len() / tokens;
    // Of every sequence the rows of its stem and of its branch.
    let mut sequences = Vec::new();
    let mut start = 0;
    for fork in forks {
        let stem = start..start + fork.stem;
        start = stem.end;
        let ways = [fork.branches.as_slice(), &[0]];
        for branch in ways[usize::from(fork.branches.is_empty())] {
            sequences.push(stem.clone().chain(start..start + branch));
            start += branch;
        }
    }
    let mut folded = vec![0.0; x.len()];
    let row = |at: usize| at * hidden..(at + 1) * hidden;
    for some in sequences.chunks((UNFOLDED_TOKENS / seq_len).max(1)) {
        // Sequences are filled up at their ends, where causal attention does not see it.
        let mut unfolded = vec![0.0; some.len() * seq_len * hidden];
        let places = || {
            let of = |(at, rows): (usize, &Rows)| (at * seq_len..).zip(rows.clone());
            some.iter().enumerate().flat_map(of)
        };
        places().for_each(|(to, from)| unfolded[row(to)].copy_from_slice(&x[row(from)]));
        let normed = network.run_from(0, unfolded, seq_len, None)?;
        places().for_each(|(from, to)| folded[row(to)].copy_from_slice(&normed[row(from)]));
    }
    Ok(folded)
}

/// How a network's prediction of one token compares, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// `KL(teacher || network)`.
    pub kl_divergence: f32,
    /// Of the target, by the network.
    pub negative_log_likelihood: f32,
}

/// Some sequences to learn from.
#[derive(Clone)]
pub struct Lesson<'l> {
    /// The residual stream before layer 0, `[tokens, hidden]`.
    pub embedded: Vec<f32>,
    /// Tokens of each sequence.
    pub seq_len: usize,
    /// The token after each, `[tokens]`.
    pub targets: &'l [u32],
    /// What a token's loss counts in the gradient.
    pub weight: f32,
    /// What is learnt of the teacher; without it the loss is the next token's.
    pub distillation: Option<Distillation<'l>>,
}

/// The full model's answer to the same tokens, and how much it counts (2407.14679; temperature as in
/// 1503.02531).
#[derive(Debug, Clone, Copy)]
pub struct Distillation<'a> {
    /// The teacher's last hidden states after the final norm, `[tokens, hidden]`.
    pub normed: &'a [f32],
    /// Share of the divergence in the loss; the rest is the next token's.
    pub share: f32,
    /// What logits are divided by in the divergence, which is multiplied by its square.
    pub temperature: f32,
}

/// Losses summed over tokens, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HeadLoss {
    /// What the gradient is of.
    pub loss: f64,
    /// Of the next token alone.
    pub next_token: f64,
}

impl std::ops::AddAssign for HeadLoss {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.next_token += other.next_token;
    }
}
