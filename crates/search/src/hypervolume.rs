//! Hypervolume: the part of objective space that a front dominates (Zitzler & Thiele 1999,
//! doi:10.1109/4235.797969).

/// Area dominated by `points` up to `reference`, both objectives minimised; exact, by a sweep.
/// Points that do not dominate the reference count for nothing.
pub fn hypervolume_2d(points: &[[f64; 2]], reference: [f64; 2]) -> f64 {
    let is_inside = |point: &&[f64; 2]| point[0] < reference[0] && point[1] < reference[1];
    let mut inside: Vec<[f64; 2]> = points.iter().filter(is_inside).copied().collect();
    inside.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut area = 0.0;
    let mut lowest = reference[1];
    for [x, y] in inside {
        if y < lowest {
            area += (reference[0] - x) * (lowest - y);
            lowest = y;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_sweep_counts_dominated_cells(
            points in prop::collection::vec((0u8..12, 0u8..12), 0..12),
        ) {
            // On a grid of unit cells the area is the number of cells with a point below them.
            let points: Vec<[f64; 2]> =
                points.iter().map(|&(x, y)| [f64::from(x), f64::from(y)]).collect();
            let cells = (0..10).flat_map(|x| (0..10).map(move |y| [f64::from(x), f64::from(y)]));
            let covered = cells.filter(|cell| {
                points.iter().any(|point| point[0] <= cell[0] && point[1] <= cell[1])
            });
            prop_assert_eq!(hypervolume_2d(&points, [10.0, 10.0]), covered.count() as f64);
        }
    }
}
