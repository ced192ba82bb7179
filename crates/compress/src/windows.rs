//! Windows of whole layers, for a search to begin with the networks that lack them.
//!
//! A kept block stands in for the layers that are removed behind it, so layers that follow each other lose
//! less together than they do one by one, and sums of block losses hardly recommend to remove them. Gromov et
//! al. (2403.17887) remove such a window and nothing else. Here the rest of the time is saved in the blocks
//! that are left, by what these lose without it. Such networks lose about as much as others when they are
//! cut, and less once they are healed.

use std::ops::Range;

use lathe_arch::SearchSpace;
use lathe_search::Genome;

/// The choice that removes a block, where a space has it.
pub(crate) const REMOVED: usize = 0;
/// Windows of one size that are scored.
const SCORED: usize = 4;

/// How many layers windows have: an eighth, a sixth and a fifth of all; none where a space keeps all blocks.
pub(crate) fn window_sizes(space: &SearchSpace) -> Vec<usize> {
    if space.attention()[REMOVED].is_some() || space.mlp()[REMOVED].is_some() {
        return Vec::new();
    }
    sizes_of(space.gene_pairs())
}

fn sizes_of(layers: usize) -> Vec<usize> {
    let mut sizes = vec![layers.div_ceil(8), layers / 6, layers / 5];
    sizes.sort_unstable();
    sizes.dedup();
    sizes.retain(|size| *size > 1);
    sizes
}

/// The windows of `size` layers whose layers lose the least one by one, the least first.
pub(crate) fn likely_windows(layer_losses: &[f64], size: usize) -> Vec<Range<usize>> {
    let loss = |window: &Range<usize>| layer_losses[window.clone()].iter().sum::<f64>();
    let begins = 0..(layer_losses.len() + 1).saturating_sub(size);
    let mut windows: Vec<Range<usize>> = begins.map(|begin| begin..begin + size).collect();
    windows.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
    windows.truncate(SCORED);
    windows
}

/// `full` without the layers of a window.
pub(crate) fn without_window(full: &[usize], window: &Range<usize>) -> Genome {
    let mut genome = full.to_vec();
    genome[2 * window.start..2 * window.end].fill(REMOVED);
    genome
}

#[cfg(test)]
pub(crate) mod tests {
    use lathe_arch::{ModelConfig, SpaceSpec};

    use super::*;

    /// The choices of SmolLM2-135M with these numbers of KV groups.
    pub(crate) fn space(kv_heads: Vec<usize>) -> SearchSpace {
        let model = ModelConfig::smollm2_135m();
        let choices = SpaceSpec {
            kv_heads,
            ..SpaceSpec::standard(&model)
        };
        SearchSpace::new(&model, "smollm2-135m", &choices).unwrap()
    }

    #[test]
    fn windows_are_of_the_layers_that_lose_the_least() {
        let space = space(vec![0, 1, 2, 3]);
        assert_eq!(window_sizes(&space), [4, 5, 6]);
        assert_eq!(sizes_of(10), [2], "no window is scored twice");
        assert_eq!(sizes_of(17), [2, 3]);
        let mut losses = vec![1.0; 30];
        losses[12..16].copy_from_slice(&[0.1, 0.2, 0.2, 0.3]);
        let windows = likely_windows(&losses, 4);
        assert_eq!(windows.len(), SCORED);
        assert_eq!(windows[..2], [12..16, 11..15]);
        let genome = without_window(&space.full_genome(), &windows[0]);
        let kept = |layer: usize| genome[2 * layer..2 * layer + 2] != [REMOVED; 2];
        let removed: Vec<usize> = (0..30).filter(|layer| !kept(*layer)).collect();
        assert_eq!(removed, [12, 13, 14, 15]);
    }

    #[test]
    fn a_space_that_keeps_all_blocks_has_none() {
        assert_eq!(window_sizes(&space(vec![1, 2, 3])), [0; 0]);
        assert!(likely_windows(&[1.0; 3], 4).is_empty());
    }
}
