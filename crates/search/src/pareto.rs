//! Dominance, fronts and crowding (Deb, Pratap, Agarwal & Meyarivan 2002,
//! doi:10.1109/4235.996017).

use crate::Evaluation;

/// True when `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
}

/// Indices in fronts: the first front is dominated by nothing, each next one only by earlier
/// fronts.
pub fn non_dominated_sort(objectives: &[&[f64]]) -> Vec<Vec<usize>> {
    let count = objectives.len();
    let mut dominated_by = vec![0usize; count];
    let mut dominated: Vec<Vec<usize>> = vec![Vec::new(); count];
    for i in 0..count {
        for j in 0..count {
            if dominates(objectives[i], objectives[j]) {
                dominated[i].push(j);
                dominated_by[j] += 1;
            }
        }
    }
    let mut front: Vec<usize> = (0..count).filter(|i| dominated_by[*i] == 0).collect();
    let mut fronts = Vec::new();
    while !front.is_empty() {
        let mut next = Vec::new();
        for i in &front {
            for j in &dominated[*i] {
                dominated_by[*j] -= 1;
                if dominated_by[*j] == 0 {
                    next.push(*j);
                }
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// How lonely each member of a front is: the sum over objectives of the gap between its
/// neighbours, normalised by the front's range; infinite at the ends.
pub fn crowding_distance(front: &[&[f64]]) -> Vec<f64> {
    let mut distance = vec![0.0; front.len()];
    let objectives = front.first().map_or(0, |first| first.len());
    for m in 0..objectives {
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|&a, &b| front[a][m].total_cmp(&front[b][m]));
        let (first, last) = (order[0], order[order.len() - 1]);
        let range = front[last][m] - front[first][m];
        distance[first] = f64::INFINITY;
        distance[last] = f64::INFINITY;
        for window in order.windows(3) {
            if range > 0.0 {
                distance[window[1]] += (front[window[2]][m] - front[window[0]][m]) / range;
            }
        }
    }
    distance
}

/// The evaluations that nothing dominates, one of each point, sorted by the first objective.
pub fn pareto_front(evaluations: &[Evaluation]) -> Vec<Evaluation> {
    let is_dominated = |evaluation: &Evaluation| {
        let mut others = evaluations.iter();
        others.any(|other| dominates(&other.objectives, &evaluation.objectives))
    };
    let mut front: Vec<Evaluation> = evaluations
        .iter()
        .filter(|e| !is_dominated(e))
        .cloned()
        .collect();
    front.sort_by(|a, b| compare(&a.objectives, &b.objectives));
    front.dedup_by(|a, b| a.objectives == b.objectives);
    front
}

fn compare(a: &[f64], b: &[f64]) -> std::cmp::Ordering {
    let mut pairs = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
    pairs
        .find(|order| order.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

/// Index of the knee of a two-objective front sorted by the first objective: the point farthest
/// below the line between its ends, both axes scaled to the front's range (Das 1999,
/// doi:10.1007/s001580050111). `None` for an empty front.
pub fn knee_point(front: &[[f64; 2]]) -> Option<usize> {
    let (first, last) = (front.first()?, front.last()?);
    let scale = |m: usize| (last[m] - first[m]).abs().max(f64::MIN_POSITIVE);
    let below = |point: &[f64; 2]| {
        let x = (point[0] - first[0]) / scale(0);
        let y = (first[1] - point[1]) / scale(1);
        y - x
    };
    (0..front.len()).max_by(|&a, &b| below(&front[a]).total_cmp(&below(&front[b])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Trial;

    fn points() -> impl Strategy<Value = Vec<Vec<f64>>> {
        let coordinate = (0u8..6).prop_map(f64::from);
        prop::collection::vec(prop::collection::vec(coordinate, 3), 1..25)
    }

    proptest! {
        #[test]
        fn fronts_are_a_partition_in_order_of_dominance(points in points()) {
            let objectives: Vec<&[f64]> = points.iter().map(Vec::as_slice).collect();
            let fronts = non_dominated_sort(&objectives);
            let mut all: Vec<usize> = fronts.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
            for (rank, front) in fronts.iter().enumerate() {
                for &i in front {
                    let by = |js: &[usize]| js.iter().any(|&j| dominates(objectives[j], objectives[i]));
                    prop_assert!(!by(front));
                    prop_assert!(rank == 0 || by(&fronts[rank - 1]));
                }
            }
        }

        #[test]
        fn the_front_is_what_nothing_dominates(points in points()) {
            let evaluations: Vec<Evaluation> = points
                .iter()
                .map(|p| Trial::full(vec![]).with_objectives(p.clone()))
                .collect();
            let front = pareto_front(&evaluations);
            for point in &points {
                let on_front = front.iter().any(|e| e.objectives == *point);
                let dominated = points.iter().any(|other| dominates(other, point));
                prop_assert_eq!(on_front, !dominated);
            }
        }
    }

    #[test]
    fn crowding_of_a_known_front() {
        let front: Vec<&[f64]> = vec![&[0.0, 4.0], &[1.0, 2.0], &[4.0, 0.0], &[2.0, 1.0]];
        let distance = crowding_distance(&front);
        assert_eq!(distance[0], f64::INFINITY);
        assert_eq!(distance[2], f64::INFINITY);
        assert_eq!(distance[1], 2.0 / 4.0 + 3.0 / 4.0);
        assert_eq!(distance[3], 3.0 / 4.0 + 2.0 / 4.0);
    }

    #[test]
    fn the_knee_is_the_point_that_bends_most() {
        let front = [[0.0, 10.0], [1.0, 3.0], [5.0, 2.0], [10.0, 0.0]];
        assert_eq!(knee_point(&front), Some(1));
        assert_eq!(knee_point(&[]), None);
        assert_eq!(knee_point(&[[1.0, 1.0]]), Some(0));
    }
}
