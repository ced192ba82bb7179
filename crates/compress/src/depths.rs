//! Networks of fewer layers beside the best: those whose order healing may turn.

use std::collections::BTreeMap;

/// How many times the divergence of the best one shallower ones may have.
const MOST_LOST: f64 = 1.5;

/// A network, its layers, and its divergence from the full model.
pub(crate) struct Deep<T> {
    pub depth: usize,
    pub divergence: f64,
    pub network: T,
}

/// Of each number of layers below that of the best, the network that diverges least, where none of still
/// fewer diverges less and it diverges at most half as much again as the best; the fewest layers first.
pub(crate) fn shallower<T>(networks: impl IntoIterator<Item = Deep<T>>) -> Vec<T> {
    let mut nearest: BTreeMap<usize, Deep<T>> = BTreeMap::new();
    for found in networks {
        let known = nearest.get(&found.depth);
        if known.is_none_or(|known| found.divergence < known.divergence) {
            nearest.insert(found.depth, found);
        }
    }
    let best = nearest.values();
    let best = best.min_by(|a, b| a.divergence.total_cmp(&b.divergence));
    let Some((depth, divergence)) = best.map(|best| (best.depth, best.divergence)) else {
        return Vec::new();
    };
    let mut nearer_than = MOST_LOST * divergence;
    let below = nearest
        .into_values()
        .take_while(|found| found.depth < depth);
    let kept = below.filter(|found| {
        let is_nearer = found.divergence < nearer_than;
        nearer_than = nearer_than.min(found.divergence);
        is_nearer
    });
    kept.map(|found| found.network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_layers_must_pay() {
        let found = |depth, divergence| Deep {
            depth,
            divergence,
            network: (depth, divergence),
        };
        let networks = [
            (30, 0.6),
            (29, 0.4),
            (29, 0.5),
            (28, 0.42),
            (26, 0.55),
            (25, 0.5),
            (24, 0.61),
        ];
        let networks = networks.map(|(depth, divergence)| found(depth, divergence));
        assert_eq!(shallower(networks), [(25, 0.5), (28, 0.42)]);
        assert!(shallower([found(3, 0.0), found(2, 0.1)]).is_empty());
        assert!(shallower(Vec::<Deep<()>>::new()).is_empty());
    }
}
