//! Attainment: how far fronts of several runs reach together (Grunert da Fonseca, Fonseca & Hall 2001,
//! doi:10.1007/3-540-44719-9_15).

use crate::dominates;

/// The points that at least `runs` of the fronts attain, sorted by the first objective; both objectives
/// are minimised. A front attains a point when one of its members is nowhere worse. With half of the
/// fronts it is the median front, with all of them the worst.
///
/// ```
/// # use lathe_search::attainment_front;
/// let fronts = [vec![[1.0, 3.0], [2.0, 1.0]], vec![[1.0, 2.0]]];
/// assert_eq!(attainment_front(&fronts, 2), [[1.0, 3.0], [2.0, 2.0]]);
/// assert_eq!(attainment_front(&fronts, 3), [[0.0; 2]; 0]);
/// ```
pub fn attainment_front(fronts: &[Vec<[f64; 2]>], runs: usize) -> Vec<[f64; 2]> {
    if runs == 0 || runs > fronts.len() {
        return Vec::new();
    }
    let mut firsts: Vec<f64> = fronts.iter().flatten().map(|point| point[0]).collect();
    firsts.sort_by(f64::total_cmp);
    firsts.dedup();
    let mut attained: Vec<[f64; 2]> = Vec::new();
    for first in firsts {
        let lowest = fronts.iter().map(|front| {
            let reached = front.iter().filter(|point| point[0] <= first);
            reached.map(|point| point[1]).fold(f64::INFINITY, f64::min)
        });
        let mut lowest: Vec<f64> = lowest.collect();
        lowest.sort_by(f64::total_cmp);
        let point = [first, lowest[runs - 1]];
        let is_new = attained.last().is_none_or(|last| !dominates(last, &point));
        if point[1].is_finite() && is_new {
            attained.push(point);
        }
    }
    attained
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fronts() -> impl Strategy<Value = Vec<Vec<[f64; 2]>>> {
        let point = (0u8..8, 0u8..8).prop_map(|(a, b)| [f64::from(a), f64::from(b)]);
        prop::collection::vec(prop::collection::vec(point, 0..6), 1..5)
    }

    proptest! {
        #[test]
        fn it_is_where_so_many_runs_get(fronts in fronts(), runs in 1usize..5) {
            let attained = attainment_front(&fronts, runs);
            let reaches = |front: &[[f64; 2]], at: [f64; 2]| {
                front.iter().any(|point| point[0] <= at[0] && point[1] <= at[1])
            };
            for x in 0..9 {
                for y in 0..9 {
                    let at = [f64::from(x), f64::from(y)];
                    let count = fronts.iter().filter(|front| reaches(front, at)).count();
                    prop_assert_eq!(reaches(&attained, at), count >= runs, "{:?}", at);
                }
            }
            for (a, b) in attained.iter().zip(attained.iter().skip(1)) {
                prop_assert!(a[0] < b[0] && a[1] > b[1]);
            }
        }
    }
}
