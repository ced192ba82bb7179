//! What to measure: blocks, phases, the chains that price them, and for how long.

use std::collections::BTreeSet;

use lathe_arch::{
    AttentionConfig, BlockShape, HeadConfig, LogitRows, ModelConfig, Phase, Precision, SearchSpace,
    SubnetConfig, Workload,
};
use lathe_latency::PhaseKind;
use serde::{Deserialize, Serialize};

use crate::ProfilerError;
use crate::draw::draw_subnets;

/// Bytes of a decode turn over the last-level cache at most. Behind four caches, blocks in f32 were
/// 11 % cheaper than in a network of 500 MB, behind eight 2 to 3 %.
const COLD_CACHES: u64 = 8;
/// Bytes of a decode chain over the last-level cache at most, and a turn over its longer chain and
/// over the reference.
const CHAIN_CACHES: u64 = 2;
const TURN_OVER_CHAIN: u64 = 2;
const TURN_OVER_REFERENCE: u64 = 4;
/// Sizes of fillers, as parts of a decode turn: few, so that they stay loaded.
const FILLER_STEPS: u64 = 8;
/// Operations of a prefill chain at the longest prompt: tens of milliseconds on a small machine.
const PREFILL_OPERATIONS: u64 = 4_000_000_000;
/// Copies of the longer chain.
const COPIES: std::ops::RangeInclusive<usize> = 4..=96;
/// The longer chain over the shorter.
const CHAIN_RATIO: usize = 8;
/// Kinds of attention blocks at most, before only whole and half groups are taken.
const MAX_ATTENTION: usize = 16;

/// What a profile covers and how thoroughly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfilePlan {
    /// Blocks to price.
    pub blocks: Vec<BlockShape>,
    /// Prompt lengths of the prefill.
    pub prompts: Vec<usize>,
    /// Past lengths of decode, for blocks with a KV cache.
    pub depths: Vec<usize>,
    /// Numbers of sequences side by side.
    pub batches: Vec<usize>,
    /// Rounds over all blocks before the rest of the budget goes where it is needed most.
    pub rounds: usize,
    /// Seconds of measuring blocks in one placement of the processors, after which no more visits
    /// are made.
    pub budget_s: f64,
    /// Seconds of measuring anything, after which the profile ends with what it has, as soon as
    /// everything was visited once.
    pub limit_s: f64,
    /// Half the width of an entry's 95 % interval at which it has been measured enough, as a
    /// share of its price.
    pub target: f64,
    /// Microseconds of turns for each phase of a visit.
    pub pass_us: u64,
    /// Whole networks of each precision for the calibration; 0 for none.
    pub networks: usize,
    /// Visits to each of them, spread over the whole profile.
    pub network_visits: usize,
    /// Microseconds of turns for each phase of a visit to a network.
    pub network_pass_us: u64,
    /// The workload at which they are measured.
    pub workload: Workload,
    /// Seed of the orders, draws and inputs.
    pub seed: u64,
    /// Last-level cache in bytes; `profile` takes what the device says.
    pub last_level_cache_bytes: u64,
}

/// What one visit measures: a block in one of the two phases of generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Probe {
    /// The block.
    pub block: BlockShape,
    /// The phase.
    pub kind: PhaseKind,
}

impl ProfilePlan {
    /// A quarter of an hour for a small model: narrow intervals.
    pub fn thorough(blocks: Vec<BlockShape>) -> Self {
        Self {
            blocks,
            prompts: vec![32, 128, 512],
            depths: vec![0, 256, 1024, 2048],
            batches: vec![1],
            rounds: 2,
            budget_s: 480.0,
            limit_s: 780.0,
            target: 0.015,
            pass_us: 100_000,
            networks: 14,
            network_visits: 2,
            network_pass_us: 500_000,
            workload: Workload::default(),
            seed: 1,
            last_level_cache_bytes: 32 << 20,
        }
    }

    /// Two minutes for a small model: wide intervals.
    pub fn quick(blocks: Vec<BlockShape>) -> Self {
        Self {
            prompts: vec![32, 128],
            depths: vec![0, 1024],
            rounds: 1,
            budget_s: 40.0,
            limit_s: 95.0,
            target: 0.04,
            pass_us: 60_000,
            networks: 5,
            network_visits: 1,
            network_pass_us: 250_000,
            ..Self::thorough(blocks)
        }
    }

    /// The plan with another limit, and as much of it for blocks.
    pub fn lasting(mut self, limit_s: f64) -> Self {
        self.budget_s *= limit_s / self.limit_s;
        self.limit_s = limit_s;
        self
    }

    /// The plan without what is beyond the model's longest context.
    pub fn within(mut self, model: &ModelConfig) -> Self {
        let limit = model.max_position_embeddings;
        self.prompts.retain(|prompt| (1..=limit).contains(prompt));
        self.depths.retain(|depth| *depth < limit);
        self
    }

    /// The blocks of `space` in each of `precisions`, with fewer query heads in each group too,
    /// and both ends of the network with the last row and with all rows of logits.
    pub fn grid(
        space: &SearchSpace,
        model: &ModelConfig,
        precisions: &[Precision],
    ) -> Vec<BlockShape> {
        let groups: Vec<usize> = space
            .attention()
            .iter()
            .flatten()
            .map(|a| a.kv_heads)
            .collect();
        let full = model.heads_per_group();
        let per_group: BTreeSet<usize> = if groups.len() * full <= MAX_ATTENTION {
            (1..=full).collect()
        } else {
            [full.div_ceil(2), full].into()
        };
        let attention = groups.iter().flat_map(|&kv_heads| {
            per_group.iter().map(move |each| AttentionConfig {
                heads: kv_heads * each,
                kv_heads,
                precision: Precision::F32,
            })
        });
        let mlp = space.mlp().iter().flatten().copied();
        let heads = [LogitRows::Last, LogitRows::All].map(|logit_rows| {
            BlockShape::EmbeddingAndHead(HeadConfig {
                precision: Precision::F32,
                logit_rows,
            })
        });
        let blocks: Vec<BlockShape> = heads
            .into_iter()
            .chain(attention.map(BlockShape::Attention))
            .chain(mlp.map(BlockShape::Mlp))
            .collect();
        in_precisions(&blocks, precisions)
    }

    /// The blocks of `space` alone in each of `precisions`.
    pub fn blocks(space: &SearchSpace, precisions: &[Precision]) -> Vec<BlockShape> {
        in_precisions(&space.shapes(), precisions)
    }

    /// Checks that the networks of the calibration run at lengths and batches that the plan prices.
    ///
    /// # Errors
    /// [`ProfilerError::Workload`] when they do not.
    pub fn check_workload(&self) -> Result<(), ProfilerError> {
        let prompts = || self.prompts.iter().copied();
        let is_between = prompts().min() <= Some(self.workload.prompt_tokens)
            && Some(self.workload.prompt_tokens) <= prompts().max();
        if self.networks == 0 || is_between && self.batches.contains(&self.workload.batch) {
            return Ok(());
        }
        Err(ProfilerError::Workload {
            workload: self.workload,
            prompts: self.prompts.clone(),
            batches: self.batches.clone(),
        })
    }

    /// Everything that is visited.
    pub fn probes(&self) -> Vec<Probe> {
        let both = self.blocks.iter().flat_map(|&block| {
            [PhaseKind::Prefill, PhaseKind::Decode].map(|kind| Probe { block, kind })
        });
        both.filter(|probe| !self.phases(probe).is_empty())
            .collect()
    }

    /// Precisions that occur.
    pub fn precisions(&self) -> Vec<Precision> {
        let all: BTreeSet<Precision> = self.blocks.iter().map(BlockShape::precision).collect();
        all.into_iter().collect()
    }

    /// Phases at which a probe is timed.
    pub fn phases(&self, probe: &Probe) -> Vec<Phase> {
        let with_batches = |phase: fn(usize, usize) -> Phase, lengths: &[usize]| {
            let batches = self.batches.iter();
            let all = batches.flat_map(|&batch| lengths.iter().map(move |&len| phase(batch, len)));
            all.collect()
        };
        let prefill = |batch, seq_len| Phase::Prefill { batch, seq_len };
        let decode = |batch, past_len| Phase::Decode { batch, past_len };
        match (probe.kind, probe.block) {
            (PhaseKind::Prefill, _) => with_batches(prefill, &self.prompts),
            (PhaseKind::Decode, BlockShape::Attention(_)) => with_batches(decode, &self.depths),
            (PhaseKind::Decode, BlockShape::Mlp(_)) => with_batches(decode, &[0]),
            (PhaseKind::Decode, BlockShape::EmbeddingAndHead(head)) => match head.logit_rows {
                LogitRows::Last => with_batches(decode, &[0]),
                // With one new token, all rows are the last row.
                LogitRows::All => Vec::new(),
            },
        }
    }

    /// Copies of a probe's block in the shorter and the longer chain.
    pub fn chain_lengths(&self, probe: &Probe, model: &ModelConfig) -> [usize; 2] {
        if let BlockShape::EmbeddingAndHead(_) = probe.block {
            return [0, 1];
        }
        let copies = match probe.kind {
            PhaseKind::Decode => {
                let turn = self.turn_bytes(probe.block.precision(), model);
                let bytes =
                    (turn / TURN_OVER_CHAIN).min(CHAIN_CACHES * self.last_level_cache_bytes);
                bytes.div_ceil(probe.block.weight_bytes(model).max(1))
            }
            PhaseKind::Prefill => self.copies_by_operations(&probe.block, model),
        };
        let long = clamp(copies);
        [long.div_ceil(CHAIN_RATIO), long]
    }

    fn copies_by_operations(&self, block: &BlockShape, model: &ModelConfig) -> u64 {
        let longest = Phase::Prefill {
            batch: self.batches.iter().copied().max().unwrap_or(1),
            seq_len: self.prompts.iter().copied().max().unwrap_or(1),
        };
        PREFILL_OPERATIONS.div_ceil(block.flops(model, &longest).max(1))
    }

    /// Bytes of weights that are read in one turn of decode: those of the full model, since that is
    /// what passes through the caches between two tokens, but no more than a few times the caches.
    /// Weights of a small model are partly cached from token to token, and their price says so.
    pub fn turn_bytes(&self, precision: Precision, model: &ModelConfig) -> u64 {
        let full = SubnetConfig::full(model).with_precision(precision);
        let cold = COLD_CACHES * self.last_level_cache_bytes;
        cold.min(full.weight_bytes(model))
    }

    /// What else runs in the turns of a probe, so that its weights are read from where they lie in a
    /// network: a block and its copies.
    ///
    /// In decode full MLP blocks, as many as make a turn as large as [`ProfilePlan::turn_bytes`]. In
    /// prefill chains are bound by arithmetic, but the last row of logits takes as long as its weights
    /// take to read: where those would stay cached, and would not in a network, the same head in f32 runs
    /// before it.
    pub fn filler(&self, probe: &Probe, model: &ModelConfig) -> Option<(BlockShape, usize)> {
        let precision = probe.block.precision();
        let turn = self.turn_bytes(precision, model);
        let timed = self.timed_bytes(probe, model);
        match (probe.kind, probe.block) {
            (PhaseKind::Decode, _) => {
                let step = (turn / FILLER_STEPS).max(1);
                let steps = (turn.saturating_sub(timed) + step / 2) / step;
                let block = reference_block(precision, model);
                let copies = (steps * step) / block.weight_bytes(model).max(1);
                (copies > 0).then_some((block, copies as usize))
            }
            (PhaseKind::Prefill, BlockShape::EmbeddingAndHead(head)) => {
                let cached = turn.min(CHAIN_CACHES * self.last_level_cache_bytes);
                let is_cached = head.logit_rows == LogitRows::Last && timed < cached;
                let wide = probe.block.with_precision(Precision::F32);
                (is_cached && precision != Precision::F32).then_some((wide, 1))
            }
            (PhaseKind::Prefill, _) => None,
        }
    }

    /// Copies of the full MLP block in the reference chain: a share of a turn in decode, as many
    /// operations as any other chain in prefill.
    pub fn reference_copies(
        &self,
        precision: Precision,
        kind: PhaseKind,
        model: &ModelConfig,
    ) -> usize {
        let block = reference_block(precision, model);
        clamp(match kind {
            PhaseKind::Decode => {
                let bytes = self.turn_bytes(precision, model) / TURN_OVER_REFERENCE;
                bytes.div_ceil(block.weight_bytes(model).max(1))
            }
            PhaseKind::Prefill => self.copies_by_operations(&block, model),
        })
    }

    /// Bytes of weights that are read in a turn of a probe.
    pub fn footprint_bytes(&self, probe: &Probe, model: &ModelConfig) -> u64 {
        let filler = self.filler(probe, model);
        let filler = filler.map(|(block, copies)| copies as u64 * block.weight_bytes(model));
        self.timed_bytes(probe, model) + filler.unwrap_or_default()
    }

    /// Bytes of the reference and of the chains.
    fn timed_bytes(&self, probe: &Probe, model: &ModelConfig) -> u64 {
        let precision = probe.block.precision();
        let reference = self.reference_copies(precision, probe.kind, model) as u64;
        let [short, long] = self.chain_lengths(probe, model);
        reference * reference_block(precision, model).weight_bytes(model)
            + (short + long) as u64 * probe.block.weight_bytes(model)
    }

    /// The networks of one precision on which the calibration is fitted.
    pub fn draw_networks(&self, precision: Precision, model: &ModelConfig) -> Vec<SubnetConfig> {
        draw_subnets(model, &self.blocks, precision, self.networks, self.seed)
    }

    /// Longest context of any pass.
    pub fn positions(&self) -> usize {
        let longest = self.prompts.iter().copied();
        let deepest = self.depths.iter().map(|depth| depth + 1);
        longest.chain(deepest).max().unwrap_or(1)
    }
}

/// Each block in each precision, once.
fn in_precisions(blocks: &[BlockShape], precisions: &[Precision]) -> Vec<BlockShape> {
    let mut all = Vec::new();
    for &precision in precisions {
        for block in blocks {
            let block = block.with_precision(precision);
            if !all.contains(&block) {
                all.push(block);
            }
        }
    }
    all
}

/// The block of which the reference chains consist.
pub(crate) fn reference_block(precision: Precision, model: &ModelConfig) -> BlockShape {
    BlockShape::Mlp(lathe_arch::MlpConfig::full(model)).with_precision(precision)
}

fn clamp(copies: u64) -> usize {
    let copies = usize::try_from(copies).unwrap_or(usize::MAX);
    copies.clamp(*COPIES.start(), *COPIES.end())
}

/// The network beside which whole networks are measured: like them in every respect, and half as
/// deep as the deepest.
pub(crate) fn baseline(precision: Precision, model: &ModelConfig) -> SubnetConfig {
    let mut subnet = SubnetConfig::full(model).with_precision(precision);
    for layer in subnet.layers.iter_mut().skip(1).step_by(2) {
        layer.attention = None;
        layer.mlp = None;
    }
    subnet
}

/// Whether a phase is prefill or decode.
pub(crate) fn kind(phase: &Phase) -> PhaseKind {
    match phase {
        Phase::Prefill { .. } => PhaseKind::Prefill,
        Phase::Decode { .. } => PhaseKind::Decode,
    }
}

#[cfg(test)]
mod tests {
    use lathe_arch::SpaceSpec;

    use super::*;

    fn plan() -> (ModelConfig, ProfilePlan) {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let plan = ProfilePlan {
            blocks: ProfilePlan::grid(&space, &model, &Precision::ALL),
            prompts: vec![32, 128],
            depths: vec![0, 256, 1024],
            batches: vec![1],
            rounds: 2,
            budget_s: 10.0,
            limit_s: 20.0,
            target: 0.02,
            pass_us: 100_000,
            networks: 12,
            network_visits: 3,
            network_pass_us: 100_000,
            workload: Workload::default(),
            seed: 1,
            last_level_cache_bytes: 32 << 20,
        };
        (model, plan)
    }

    #[test]
    fn a_shorter_profile_has_as_large_a_share_for_blocks() {
        let (_, plan) = plan();
        let share = plan.budget_s / plan.limit_s;
        let short = plan.lasting(60.0);
        assert_eq!(short.limit_s, 60.0);
        assert!((short.budget_s - 60.0 * share).abs() < 1e-9);
    }

    #[test]
    fn the_grid_holds_every_kind_of_block_in_every_precision() {
        let (_, plan) = plan();
        // Two heads, 3 x 3 attention blocks, 8 widths.
        let precisions = Precision::ALL.len();
        assert_eq!(plan.blocks.len(), precisions * (2 + 9 + 8));
        assert_eq!(plan.precisions(), Precision::ALL);
        let distinct: BTreeSet<_> = plan.blocks.iter().collect();
        assert_eq!(distinct.len(), plan.blocks.len());
        // All rows of logits have no decode of their own.
        assert_eq!(plan.probes().len(), 2 * plan.blocks.len() - precisions);
    }

    #[test]
    fn a_turn_reads_as_much_as_a_token_of_the_full_model() {
        let (model, plan) = plan();
        for probe in plan.probes() {
            let [short, long] = plan.chain_lengths(&probe, &model);
            assert!(short < long, "{probe:?}");
            if probe.kind == PhaseKind::Decode {
                let footprint = plan.footprint_bytes(&probe, &model) as f64;
                let turn = plan.turn_bytes(probe.block.precision(), &model) as f64;
                assert!((0.85..1.25).contains(&(footprint / turn)), "{probe:?}");
            }
        }
        let turn = |precision| plan.turn_bytes(precision, &model);
        assert_eq!(turn(Precision::F32), 8 * plan.last_level_cache_bytes);
        // The whole model is smaller than that.
        assert!(turn(Precision::Int4) < 3 * plan.last_level_cache_bytes);
    }

    #[test]
    fn fillers_come_in_few_sizes() {
        let (model, plan) = plan();
        for precision in Precision::ALL {
            let probes = plan.probes().into_iter();
            let alike = probes.filter(|probe| probe.block.precision() == precision);
            let sizes: BTreeSet<_> = alike.filter_map(|p| plan.filler(&p, &model)).collect();
            assert!(sizes.len() <= 8, "{sizes:?}");
        }
    }

    #[test]
    fn a_head_that_would_stay_cached_has_a_filler_in_prefill() {
        let (model, plan) = plan();
        let filler = |precision, logit_rows| {
            let block = BlockShape::EmbeddingAndHead(HeadConfig {
                precision,
                logit_rows,
            });
            let kind = PhaseKind::Prefill;
            let probe = Probe { block, kind };
            let footprint = plan.footprint_bytes(&probe, &model);
            (plan.filler(&probe, &model), footprint)
        };
        let (wide, footprint) = filler(Precision::Int4, LogitRows::Last);
        let (block, copies) = wide.unwrap();
        assert_eq!((block.precision(), copies), (Precision::F32, 1));
        assert!(footprint > 4 * plan.last_level_cache_bytes, "{footprint}");
        assert_eq!(filler(Precision::F32, LogitRows::Last).0, None);
        assert_eq!(filler(Precision::Int4, LogitRows::All).0, None);
    }

    #[test]
    fn only_attention_is_timed_at_depth() {
        let (model, plan) = plan();
        let decode = |block| {
            let kind = PhaseKind::Decode;
            plan.phases(&Probe { block, kind }).len()
        };
        assert_eq!(
            decode(BlockShape::Attention(AttentionConfig::full(&model))),
            3
        );
        assert_eq!(decode(reference_block(Precision::Int4, &model)), 1);
        assert_eq!(plan.positions(), 1025);
    }
}
