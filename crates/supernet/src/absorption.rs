//! Which kept block stands in for removed blocks behind it.
//!
//! A removed block's output is, to a good part, a linear function of the units of the block before
//! it. Where that one is kept, its last matrix is refitted to give both outputs: no operator is
//! added. Training-free replacements of whole layers by a linear map (ReplaceMe, 2505.02819) go
//! through the block's output alone; its units tell more.
//!
//! Blocks are counted through the model: `2 * layer` is an attention block, `2 * layer + 1` an MLP
//! block.

use lathe_arch::{LayerConfig, ModelConfig};

/// How many blocks behind a kept one it may stand in for: those of three removed layers. Further ones
/// have less and less to do with its units, and each takes a matrix in a calibration.
pub(crate) const REACH: usize = 6;

/// How many blocks behind `block` may be stood in for at all: none where norms stand behind them.
pub(crate) fn reach(model: &ModelConfig, block: usize) -> usize {
    let behind = (2 * model.num_hidden_layers).saturating_sub(1 + block);
    if model.post_norms {
        0
    } else {
        REACH.min(behind)
    }
}

/// Removed blocks right behind the kept block `block`, [`REACH`] at most.
pub(crate) fn absorbed_by(layers: &[LayerConfig], block: usize) -> usize {
    let behind = (block + 1..2 * layers.len()).take(REACH);
    behind.take_while(|&at| !is_kept(layers, at)).count()
}

/// Whether anything is left of `block`.
pub(crate) fn is_kept(layers: &[LayerConfig], block: usize) -> bool {
    let layer = &layers[block / 2];
    if block.is_multiple_of(2) {
        layer.attention.is_some()
    } else {
        layer.mlp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use lathe_arch::{AttentionConfig, MlpConfig, Precision};

    use super::*;

    fn layers(kept: &[[bool; 2]]) -> Vec<LayerConfig> {
        let attention = AttentionConfig {
            heads: 3,
            kv_heads: 1,
            precision: Precision::F32,
        };
        let mlp = MlpConfig {
            intermediate_size: 32,
            precision: Precision::F32,
        };
        let layer = |[a, m]: &[bool; 2]| LayerConfig {
            attention: a.then_some(attention),
            mlp: m.then_some(mlp),
        };
        kept.iter().map(layer).collect()
    }

    #[test]
    fn a_kept_block_reaches_as_far_as_blocks_are_removed() {
        let layers = layers(&[
            [false, true],
            [false, false],
            [false, false],
            [false, false],
            [false, true],
            [true, true],
            [true, false],
        ]);
        let absorbed: Vec<usize> = (0..14)
            .filter(|&at| is_kept(&layers, at))
            .map(|at| absorbed_by(&layers, at))
            .collect();
        // Block 8 is out of the reach of 1.
        assert_eq!(absorbed, [6, 0, 0, 0, 1]);
    }
}
