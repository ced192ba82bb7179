//! Reference directions evenly spread over the unit simplex (Das & Dennis 1998,
//! doi:10.1137/S1052623496307510).

/// Number of directions of `objectives` objectives in `partitions` steps, `C(partitions +
/// objectives - 1, objectives - 1)`; at most the greatest `usize`.
pub(super) fn direction_count(objectives: usize, partitions: usize) -> usize {
    let steps = (1..objectives).map(|i| (partitions + i, i));
    steps.fold(1, |count: usize, (above, below)| {
        count.saturating_mul(above) / below
    })
}

/// The most partitions that give no more than `most` directions; 1 where even that gives more.
pub(super) fn partitions_within(objectives: usize, most: usize) -> usize {
    if objectives < 2 {
        return 1;
    }
    let fit = |partitions: &usize| direction_count(objectives, *partitions) <= most;
    (1..).take_while(fit).last().unwrap_or(1)
}

/// All vectors whose coordinates are multiples of `1 / partitions` and add up to 1.
pub(super) fn das_dennis(objectives: usize, partitions: usize) -> Vec<Vec<f64>> {
    let steps = compositions(objectives, partitions).into_iter();
    let share = |steps: Vec<usize>| -> Vec<f64> {
        let shares = steps.iter().map(|s| *s as f64 / partitions as f64);
        shares.collect()
    };
    steps.map(share).collect()
}

/// All ways to write `total` as an ordered sum of `parts` numbers.
fn compositions(parts: usize, total: usize) -> Vec<Vec<usize>> {
    if parts <= 1 {
        return vec![vec![total; parts]];
    }
    let from = |first: usize| {
        let rest = compositions(parts - 1, total - first).into_iter();
        rest.map(move |rest| [vec![first], rest].concat())
    };
    (0..=total).flat_map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_as_many_as_the_binomial_and_lie_on_the_simplex() {
        for (objectives, partitions, count) in [(1, 4, 1), (2, 99, 100), (3, 12, 91), (5, 6, 210)] {
            let directions = das_dennis(objectives, partitions);
            assert_eq!(directions.len(), count);
            assert_eq!(direction_count(objectives, partitions), count);
            let mut distinct = directions.clone();
            distinct.sort_by(|a, b| a.partial_cmp(b).unwrap());
            distinct.dedup();
            assert_eq!(distinct.len(), count);
            for direction in directions {
                assert!((direction.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn partitions_fill_the_population() {
        assert_eq!(partitions_within(2, 100), 99);
        assert_eq!(partitions_within(3, 100), 12);
        assert_eq!(partitions_within(4, 2), 1);
        assert_eq!(partitions_within(1, 24), 1);
    }
}
