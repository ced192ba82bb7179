//! Prices of a whole search space, laid out for a search: array look-ups and additions.

use lathe_arch::{BlockShape, HeadConfig, SearchSpace, Workload};

use crate::{LatencyError, LatencyTable};

/// Prices of every choice of a search space at one workload.
#[derive(Debug, Clone)]
pub struct SpacePrices {
    /// Both ends and the offset, for each precision.
    ends: Vec<[f64; 2]>,
    gene_pairs: usize,
    /// Of all layers that a gene decides.
    attention: Vec<[f64; 2]>,
    mlp: Vec<[f64; 2]>,
}

impl SpacePrices {
    /// Looks up every choice of `space`.
    ///
    /// # Errors
    /// When a choice was not measured or the workload lies outside the table.
    pub fn new(
        table: &LatencyTable,
        space: &SearchSpace,
        workload: &Workload,
    ) -> Result<Self, LatencyError> {
        let layers = space.layers_of(0).len() as f64;
        let price = |block: Option<BlockShape>| -> Result<[f64; 2], LatencyError> {
            match block {
                Some(block) => {
                    let price = table.price(&block, workload)?;
                    let gain = table.gain(block.precision());
                    Ok([gain[0] * price.prefill_us, gain[1] * price.decode_us])
                }
                None => Ok([0.0; 2]),
            }
        };
        let ends = space.precisions().iter().map(|&precision| {
            let head = HeadConfig {
                precision,
                ..HeadConfig::default()
            };
            let offset = table.offset(precision);
            let ends = price(Some(BlockShape::EmbeddingAndHead(head)))?;
            Ok([offset[0] + ends[0], offset[1] + ends[1]])
        });
        let alike = |block| price(block).map(|price| price.map(|us| layers * us));
        let attention = space.attention().iter();
        let mlp = space.mlp().iter();
        Ok(Self {
            ends: ends.collect::<Result<_, LatencyError>>()?,
            gene_pairs: space.gene_pairs(),
            attention: attention
                .map(|choice| alike(choice.map(BlockShape::Attention)))
                .collect::<Result<_, _>>()?,
            mlp: mlp
                .map(|choice| alike(choice.map(BlockShape::Mlp)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Time to first token and time per output token of a genome, in microseconds.
    ///
    /// # Panics
    /// When the genome is not one of the space.
    #[inline]
    pub fn ttft_and_tpot_us(&self, genome: &[usize]) -> [f64; 2] {
        let (blocks, head) = genome.split_at(2 * self.gene_pairs);
        let mut sum = self.ends[head.first().copied().unwrap_or(0)];
        for genes in blocks.chunks_exact(2) {
            let (attention, mlp) = (self.attention[genes[0]], self.mlp[genes[1]]);
            sum[0] += attention[0] + mlp[0];
            sum[1] += attention[1] + mlp[1];
        }
        sum
    }
}
