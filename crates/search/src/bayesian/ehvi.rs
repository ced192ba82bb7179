//! Expected hypervolume improvement of two independent Gaussian objectives, in closed form (Emmerich,
//! Deutz & Klinkenberg 2011, doi:10.1109/CEC.2011.5949880; Yang, Emmerich, Deutz & Bäck 2019,
//! doi:10.1016/j.swevo.2018.10.007).

use std::f64::consts::{PI, SQRT_2};

/// What is expected of an objective; known where the deviation is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gaussian {
    pub mean: f64,
    pub deviation: f64,
}

impl Gaussian {
    /// Expectation of what a draw lies below `limit`, 0 where it lies above.
    fn expected_below(&self, limit: f64) -> f64 {
        let room = limit - self.mean;
        if limit == f64::NEG_INFINITY {
            return 0.0;
        }
        if self.deviation == 0.0 {
            return room.max(0.0);
        }
        let z = room / self.deviation;
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        let share = 0.5 * libm::erfc(-z / SQRT_2);
        (self.deviation * density + room * share).max(0.0)
    }
}

/// The edge of what a front of two objectives dominates.
#[derive(Debug, Clone)]
pub(super) struct Staircase {
    /// What nothing dominates, the first objective rising and the second falling, between
    /// `(-inf, reference)` and `(reference, -inf)`.
    steps: Vec<[f64; 2]>,
}

impl Staircase {
    /// The edge of `points` up to `reference`; points beyond it count for nothing.
    pub fn new(points: impl Iterator<Item = [f64; 2]>, reference: [f64; 2]) -> Self {
        let is_inside = |point: &[f64; 2]| point[0] < reference[0] && point[1] < reference[1];
        let mut points: Vec<[f64; 2]> = points.filter(is_inside).collect();
        points.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
        let mut steps = vec![[f64::NEG_INFINITY, reference[1]]];
        for point in points {
            if steps.last().is_some_and(|last| point[1] < last[1]) {
                steps.push(point);
            }
        }
        steps.push([reference[0], f64::NEG_INFINITY]);
        Self { steps }
    }

    /// The points that nothing dominates.
    #[cfg(test)]
    fn front(&self) -> &[[f64; 2]] {
        &self.steps[1..self.steps.len() - 1]
    }

    /// What a point with these objectives is expected to add to the hypervolume: over the strips
    /// between two steps of the first objective, the part of the strip's width that the point
    /// covers times its height above the point.
    pub fn expected_improvement(&self, [first, second]: [Gaussian; 2]) -> f64 {
        let strips = self.steps.windows(2).map(|steps| {
            let [left, right] = [steps[0], steps[1]].map(|step| first.expected_below(step[0]));
            (right - left) * second.expected_below(steps[0][1])
        });
        strips.sum()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::hypervolume;

    fn gaussian(mean: f64, deviation: f64) -> Gaussian {
        Gaussian { mean, deviation }
    }

    #[test]
    fn it_is_the_mean_improvement_of_draws() {
        let points = [[1.0, 4.0], [2.0, 2.5], [3.0, 2.6], [3.5, 1.0], [9.0, 0.0]];
        let reference = [5.0, 5.0];
        let edge = Staircase::new(points.into_iter(), reference);
        assert_eq!(edge.front(), [[1.0, 4.0], [2.0, 2.5], [3.5, 1.0]]);
        let before = hypervolume(&points, &reference);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for objectives in [
            [gaussian(2.0, 1.0), gaussian(2.0, 1.0)],
            [gaussian(1.5, 0.0), gaussian(3.0, 0.7)],
            [gaussian(2.8, 0.4), gaussian(1.2, 0.0)],
            [gaussian(4.5, 0.3), gaussian(4.5, 0.2)],
            [gaussian(0.0, 0.0), gaussian(4.5, 0.0)],
        ] {
            const DRAWS: u32 = 40_000;
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..DRAWS {
                let drawn = objectives.map(|objective| {
                    let normal: f64 = StandardNormal.sample(&mut rng);
                    objective.mean + objective.deviation * normal
                });
                let with = [&points[..], &[drawn]].concat();
                let improvement = hypervolume(&with, &reference) - before;
                sum += improvement;
                squares += improvement * improvement;
            }
            let mean = sum / f64::from(DRAWS);
            let error = ((squares / f64::from(DRAWS) - mean * mean) / f64::from(DRAWS)).sqrt();
            let exact = edge.expected_improvement(objectives);
            let wrong = (exact - mean).abs();
            assert!(wrong < 4.0 * error + 1e-9, "{exact} {mean} +- {error}");
        }
    }

    #[test]
    fn without_a_front_it_is_the_area_up_to_the_reference() {
        let edge = Staircase::new(std::iter::empty(), [2.0, 3.0]);
        let area = edge.expected_improvement([gaussian(1.0, 0.0), gaussian(1.0, 0.0)]);
        assert_eq!(area, 2.0);
    }
}
