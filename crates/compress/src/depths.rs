//! Networks of fewer layers beside the best: those whose order healing may turn.

use std::collections::BTreeMap;

/// How many times the loss of the best one shallower ones may have.
const MOST_LOST: f64 = 1.5;

/// A network, its layers, and what it loses.
pub(crate) struct Deep<T> {
    pub depth: usize,
    pub loss: f64,
    pub network: T,
}

/// Of each number of layers below that of the best, the network that loses least, where none of still
/// fewer loses less and it loses at most half as much again as the best; the fewest layers first.
pub(crate) fn shallower<T>(networks: impl IntoIterator<Item = Deep<T>>) -> Vec<T> {
    let mut nearest: BTreeMap<usize, Deep<T>> = BTreeMap::new();
    for found in networks {
        let known = nearest.get(&found.depth);
        if known.is_none_or(|known| found.loss < known.loss) {
            nearest.insert(found.depth, found);
        }
    }
    let best = nearest.values();
    let best = best.min_by(|a, b| a.loss.total_cmp(&b.loss));
    let Some((depth, loss)) = best.map(|best| (best.depth, best.loss)) else {
        return Vec::new();
    };
    let mut nearer_than = MOST_LOST * loss;
    let below = nearest
        .into_values()
        .take_while(|found| found.depth < depth);
    let kept = below.filter(|found| {
        let is_nearer = found.loss < nearer_than;
        nearer_than = nearer_than.min(found.loss);
        is_nearer
    });
    kept.map(|found| found.network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_layers_must_pay() {
        let found = |depth, loss| Deep {
            depth,
            loss,
            network: (depth, loss),
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
        let networks = networks.map(|(depth, loss)| found(depth, loss));
        assert_eq!(shallower(networks), [(25, 0.5), (28, 0.42)]);
        assert!(shallower([found(3, 0.0), found(2, 0.1)]).is_empty());
        assert!(shallower(Vec::<Deep<()>>::new()).is_empty());
    }
}
