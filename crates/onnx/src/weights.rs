use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// A tensor of a network by what it does. Matrices are `[in, out]`, as `MatMul` reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// `[vocab_size, hidden_size]`
    Embedding,
    /// Gain of the norm before attention, `[hidden_size]`.
    InputNorm(usize),
    /// Query, key and value side by side, `[hidden_size, (heads + 2 kv_heads) * head_dim]`.
    QkvProj(usize),
    /// `[heads * head_dim, hidden_size]`
    OProj(usize),
    /// Gain of the norm before the MLP, `[hidden_size]`.
    PostAttentionNorm(usize),
    /// `[hidden_size, intermediate_size]`
    GateProj(usize),
    /// `[hidden_size, intermediate_size]`
    UpProj(usize),
    /// `[intermediate_size, hidden_size]`
    DownProj(usize),
    /// Gain of the final norm, `[hidden_size]`.
    FinalNorm,
    /// `[hidden_size, vocab_size]`; asked for only when it is not the embedding.
    LmHead,
}

/// One of a layer's two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// The attention block.
    Attention,
    /// The MLP block.
    Mlp,
}

/// Where a network's weights come from.
pub trait WeightSource {
    /// The values of a tensor, row-major.
    fn tensor(&self, role: TensorRole) -> Vec<f32>;

    /// The constant `[hidden_size]` that a pruned or removed block adds to the residual stream.
    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>>;
}

/// Numbers for measuring: `count` values drawn from a normal distribution of mean 0 and standard
/// deviation 0.02, which neither overflow nor become denormal in a chain.
pub fn random_weights(count: usize, seed: u64) -> Vec<f32> {
    let normal = Normal::new(0.0f32, 0.02).expect("0.02 is a valid standard deviation");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| normal.sample(&mut rng)).collect()
}
