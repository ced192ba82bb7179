//! Genomes from which a search begins: the full model, uniform prunings, and prunings that
//! remove the attention blocks of least influence.

use lathe_arch::SearchSpace;
use lathe_supernet::Calibration;

/// Shares of the attention blocks removed at most.
const REMOVED_ATTENTION: [f64; 4] = [0.1, 0.2, 0.3, 0.4];

/// First genomes, the full model first, none twice.
pub fn first_genomes(space: &SearchSpace, calibration: &Calibration) -> Vec<Vec<usize>> {
    let full = space.full_genome();
    let widths = space.mlp().len();
    let lowest_width = widths / 2;
    let mut genomes = vec![full.clone()];
    for width in (lowest_width..widths - 1).rev() {
        genomes.push(uniform(&full, width));
    }
    let order = attention_by_influence(calibration);
    for share in REMOVED_ATTENTION {
        let removed = (share * order.len() as f64).round() as usize;
        for width in (lowest_width..widths).rev() {
            let mut genome = uniform(&full, width);
            for layer in &order[..removed.min(order.len())] {
                genome[2 * layer] = 0;
            }
            genomes.push(genome);
        }
    }
    let mut unique = Vec::new();
    for genome in genomes {
        if !unique.contains(&genome) {
            unique.push(genome);
        }
    }
    unique
}

/// The full attention with the same MLP choice in every layer.
fn uniform(full: &[usize], mlp: usize) -> Vec<usize> {
    let pairs = full.chunks_exact(2);
    pairs.flat_map(|pair| [pair[0], mlp]).collect()
}

/// Layers from the least to the most influential attention block.
fn attention_by_influence(calibration: &Calibration) -> Vec<usize> {
    let influence = |layer: &usize| calibration.layers[*layer].attention_influence;
    let mut order: Vec<usize> = (0..calibration.layers.len()).collect();
    order.sort_by(|a, b| influence(a).total_cmp(&influence(b)));
    order
}
