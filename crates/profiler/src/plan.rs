//! What to measure: chains, passes and the order of the visits.

use lathe_agent::Pass;
use lathe_arch::{BlockShape, ModelConfig, Phase};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Weights of the longer chain over the last-level cache.
const LONG_CHAIN_CACHES: u64 = 6;
/// Copies of the longer chain.
const COPIES: std::ops::RangeInclusive<usize> = 9..=192;
/// The longer chain over the shorter.
const CHAIN_RATIO: usize = 3;

/// What a profile covers and how thoroughly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfilePlan {
    /// Blocks to price.
    pub shapes: Vec<BlockShape>,
    /// Prompt lengths of the prefill.
    pub prompts: Vec<usize>,
    /// Past lengths of decode, for blocks with a KV cache.
    pub depths: Vec<usize>,
    /// Sequences side by side.
    pub batch: usize,
    /// Rounds over all blocks.
    pub rounds: usize,
    /// Timed decode runs of one visit; prefill runs are fewer, as they take longer.
    pub runs: u32,
    /// Seed of the orders and inputs.
    pub seed: u64,
    /// Last-level cache in bytes.
    pub last_level_cache_bytes: u64,
}

/// One visit to a block: both of its chains are timed at all its phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Round, from 0.
    pub round: usize,
    /// The block.
    pub block: BlockShape,
}

impl ProfilePlan {
    /// All visits, the rounds one after another, each in a random order of its own.
    pub fn visits(&self) -> Vec<Visit> {
        let rounds = (0..self.rounds).flat_map(|round| {
            let mut order = self.shapes.clone();
            let seed = self.seed.wrapping_add(round as u64);
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            order.into_iter().map(move |block| Visit { round, block })
        });
        rounds.collect()
    }

    /// Phases at which a block is timed.
    pub fn phases(&self, block: &BlockShape) -> Vec<Phase> {
        let batch = self.batch;
        let depths: &[usize] = match block {
            BlockShape::Attention(_) => &self.depths,
            BlockShape::Mlp(_) | BlockShape::EmbeddingAndHead => &[0],
        };
        let prefill = self.prompts.iter();
        let prefill = prefill.map(|&seq_len| Phase::Prefill { batch, seq_len });
        let decode = depths
            .iter()
            .map(|&past_len| Phase::Decode { batch, past_len });
        prefill.chain(decode).collect()
    }

    /// The agent's passes for the phases of a block.
    pub fn passes(&self, block: &BlockShape) -> Vec<Pass> {
        let phases = self.phases(block);
        phases.iter().map(|phase| pass(phase, self.runs)).collect()
    }

    /// Copies of the block in the shorter and the longer chain.
    pub fn chain_lengths(&self, block: &BlockShape, model: &ModelConfig) -> [usize; 2] {
        let footprint = LONG_CHAIN_CACHES * self.last_level_cache_bytes;
        let copies = footprint.div_ceil(block.weight_bytes(model).max(1));
        let long = usize::try_from(copies).unwrap_or(usize::MAX);
        let long = long.clamp(*COPIES.start(), *COPIES.end());
        [long.div_ceil(CHAIN_RATIO), long]
    }

    /// Longest context of any pass.
    pub fn positions(&self) -> usize {
        let longest = self.prompts.iter().copied();
        let deepest = self.depths.iter().map(|depth| depth + 1);
        longest.chain(deepest).max().unwrap_or(1)
    }
}

/// A pass over `phase` with as many runs as suit its length.
pub(crate) fn pass(phase: &Phase, decode_runs: u32) -> Pass {
    let runs = match phase.new_tokens() {
        1 => decode_runs,
        2..=64 => decode_runs.div_ceil(2),
        65..=256 => decode_runs.div_ceil(3),
        _ => decode_runs.div_ceil(5),
    };
    Pass {
        batch: phase.batch(),
        new_tokens: phase.new_tokens(),
        past_tokens: phase.past_tokens(),
        runs,
        max_warmup_runs: runs.max(2),
    }
}

#[cfg(test)]
mod tests {
    use lathe_arch::{AttentionConfig, SearchSpace, SpaceSpec};

    use super::*;

    fn plan() -> (ModelConfig, ProfilePlan) {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let plan = ProfilePlan {
            shapes: space.shapes(),
            prompts: vec![32, 128],
            depths: vec![0, 256, 1024],
            batch: 1,
            rounds: 4,
            runs: 9,
            seed: 1,
            last_level_cache_bytes: 32 << 20,
        };
        (model, plan)
    }

    #[test]
    fn every_round_visits_every_block_once_in_its_own_order() {
        let (_, plan) = plan();
        let visits = plan.visits();
        let blocks = |round: usize| {
            let visits = visits.iter().filter(|visit| visit.round == round);
            visits.map(|visit| visit.block).collect::<Vec<_>>()
        };
        for round in 0..4 {
            let mut sorted = blocks(round);
            sorted.sort();
            let mut want = plan.shapes.clone();
            want.sort();
            assert_eq!(sorted, want);
        }
        assert_ne!(blocks(0), blocks(1));
        assert_eq!(visits, plan.visits());
    }

    #[test]
    fn chains_are_larger_than_the_cache() {
        let (model, plan) = plan();
        for shape in &plan.shapes[1..] {
            let [short, long] = plan.chain_lengths(shape, &model);
            assert!(short < long);
            let footprint = long as u64 * shape.weight_bytes(&model);
            assert!(footprint >= 4 * plan.last_level_cache_bytes, "{shape}");
        }
    }

    #[test]
    fn only_attention_is_timed_at_depth() {
        let (model, plan) = plan();
        let attention = BlockShape::Attention(AttentionConfig::full(&model));
        assert_eq!(plan.phases(&attention).len(), 5);
        assert_eq!(plan.phases(&BlockShape::EmbeddingAndHead).len(), 3);
        assert_eq!(plan.positions(), 1025);
    }
}
