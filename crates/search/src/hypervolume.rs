//! Hypervolume: the part of objective space that a front dominates (Zitzler & Thiele 1999,
//! doi:10.1109/4235.797969).

use crate::dominates;

/// Volume dominated by `points` up to `reference`, all objectives minimised; exact. Points that are
/// not better than the reference in every objective count for nothing.
///
/// Slices along the last objective (Knowles 2002; While et al. 2006, doi:10.1109/TEVC.2005.851275)
/// down to a sweep of two: `O(n^(m-2) n log n)` for `n` points of `m` objectives, so for fronts of up
/// to a thousand points in three objectives, a hundred in four.
///
/// ```
/// # use lathe_search::hypervolume;
/// let front = [[1.0, 3.0, 1.0], [2.0, 1.0, 2.0]];
/// assert_eq!(hypervolume(&front, &[4.0, 4.0, 4.0]), 3.0 * 1.0 * 3.0 + 2.0 * 3.0 * 2.0 - 2.0 * 1.0 * 2.0);
/// ```
pub fn hypervolume<P: AsRef<[f64]>>(points: &[P], reference: &[f64]) -> f64 {
    let points = points.iter().map(AsRef::as_ref);
    let is_inside = |point: &&[f64]| {
        let mut pairs = point.iter().zip(reference);
        point.len() == reference.len() && pairs.all(|(value, limit)| value < limit)
    };
    volume(points.filter(is_inside).collect(), reference)
}

/// Of points that all lie below `reference` in its first objectives.
fn volume(mut points: Vec<&[f64]>, reference: &[f64]) -> f64 {
    let Some((&limit, others)) = reference.split_last() else {
        return 0.0;
    };
    let last = others.len();
    points.sort_by(|a, b| a[last].total_cmp(&b[last]));
    match last {
        0 => points.first().map_or(0.0, |lowest| limit - lowest[0]),
        1 => area(&points, reference),
        _ => {
            let mut volume = 0.0;
            let mut slice: Vec<&[f64]> = Vec::new();
            for (index, point) in points.iter().enumerate() {
                let end = points.get(index + 1).map_or(limit, |next| next[last]);
                insert(&mut slice, &point[..last]);
                if end > point[last] {
                    volume += (end - point[last]) * self::volume(slice.clone(), others);
                }
            }
            volume
        }
    }
}

/// Of points with two objectives, the second rising: a sweep.
fn area(points: &[&[f64]], reference: &[f64]) -> f64 {
    let mut area = 0.0;
    let mut lowest = reference[0];
    for point in points {
        if point[0] < lowest {
            area += (reference[1] - point[1]) * (lowest - point[0]);
            lowest = point[0];
        }
    }
    area
}

/// Keeps only what nothing dominates.
fn insert<'a>(front: &mut Vec<&'a [f64]>, point: &'a [f64]) {
    if front
        .iter()
        .any(|other| *other == point || dominates(other, point))
    {
        return;
    }
    front.retain(|other| !dominates(point, other));
    front.push(point);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// On a grid of unit cells the volume is the number of cells with a point below them.
    fn covered_cells(points: &[Vec<f64>], objectives: u32, side: usize) -> f64 {
        let cells = (0..side.pow(objectives)).map(|index| {
            let axes = 0..objectives;
            let cell = axes.map(|axis| (index / side.pow(axis) % side) as f64);
            cell.collect::<Vec<f64>>()
        });
        let is_covered = |cell: &Vec<f64>| {
            let below = |point: &Vec<f64>| point.iter().zip(cell).all(|(p, c)| p <= c);
            points.iter().any(below)
        };
        cells.filter(is_covered).count() as f64
    }

    proptest! {
        #[test]
        fn it_counts_dominated_cells(
            objectives in 1u32..5,
            numbers in prop::collection::vec(0u8..7, 0..60),
        ) {
            let points = numbers.chunks_exact(objectives as usize);
            let points: Vec<Vec<f64>> =
                points.map(|p| p.iter().map(|v| f64::from(*v)).collect()).collect();
            let reference = vec![6.0; objectives as usize];
            let expected = covered_cells(&points, objectives, 6);
            prop_assert_eq!(hypervolume(&points, &reference), expected);
        }
    }

    #[test]
    fn what_is_not_below_the_reference_counts_for_nothing() {
        assert_eq!(hypervolume(&[[1.0, 5.0], [5.0, 1.0]], &[5.0, 5.0]), 0.0);
        assert_eq!(hypervolume(&[[1.0, 1.0, f64::NAN]], &[2.0; 3]), 0.0);
        assert_eq!(hypervolume::<[f64; 2]>(&[], &[1.0, 1.0]), 0.0);
        assert_eq!(hypervolume(&[[0.0]], &[1.0, 1.0]), 0.0);
    }
}
