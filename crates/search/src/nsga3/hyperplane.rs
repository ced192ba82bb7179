//! Adaptive normalisation: objectives between the ideal point and the intercepts of the hyperplane
//! through the extreme points. How the extreme points outlive a generation and what stands for a
//! degenerate hyperplane follow Blank, Deb & Roy 2019 (doi:10.1007/978-3-030-12598-1_19).

use faer::Mat;
use faer::linalg::solvers::{PartialPivLu, Solve};

/// Weight of the other objectives' excess in the achievement scalarising function.
const OFF_AXIS_WEIGHT: f64 = 1e6;
/// Ranges below this share of the largest value count as none.
const LEAST_RANGE: f64 = 1e-9;
/// An intercept below this share of the front's range belongs to a degenerate hyperplane.
const LEAST_INTERCEPT: f64 = 1e-6;

/// What objectives are normalised by, kept from generation to generation.
#[derive(Debug, Clone, Default)]
pub(super) struct Hyperplane {
    ideal: Vec<f64>,
    nadir: Vec<f64>,
    /// One for each objective: nearest to its axis so far.
    extremes: Vec<Vec<f64>>,
}

impl Hyperplane {
    /// Moves with a new generation: `points` are all that may survive, `front` those of them that
    /// nothing dominates.
    pub fn update(&mut self, points: &[&[f64]], front: &[&[f64]]) {
        let old = std::mem::take(&mut self.ideal);
        let all = points
            .iter()
            .copied()
            .chain((!old.is_empty()).then_some(&old[..]));
        self.ideal = extent(all, f64::min);
        let of_front = extent(front.iter().copied(), f64::max);
        let of_all = extent(points.iter().copied(), f64::max);
        self.find_extremes(front, &of_front);
        let nadir = self.intercepts(&of_front, &of_all);
        let nadir = nadir.unwrap_or_else(|| of_front.clone());
        // Where the front has no range, the rest of the population gives one.
        let widened = nadir.iter().zip(&of_all).zip(&self.ideal);
        self.nadir = widened
            .map(|((nadir, worst), ideal)| match has_range(*ideal, *nadir) {
                true => *nadir,
                false => *worst,
            })
            .collect();
    }

    /// 0 at the ideal point and 1 at the nadir point; 0 where these two are one.
    pub fn normalised(&self, point: &[f64]) -> Vec<f64> {
        let ranges = self.ideal.iter().zip(&self.nadir);
        let each = point.iter().zip(ranges);
        each.map(|(value, (ideal, nadir))| match has_range(*ideal, *nadir) {
            true => (value - ideal) / (nadir - ideal),
            false => 0.0,
        })
        .collect()
    }

    /// Of the front and the extremes so far, those of least achievement scalarising function.
    fn find_extremes(&mut self, front: &[&[f64]], worst: &[f64]) {
        let old = std::mem::take(&mut self.extremes);
        let candidates = || old.iter().map(Vec::as_slice).chain(front.iter().copied());
        let axes = 0..self.ideal.len();
        let nearest = |axis: usize| {
            let scalarised = |point: &[f64]| {
                let each = point.iter().zip(self.ideal.iter().zip(worst)).enumerate();
                each.map(|(m, (value, (ideal, worst)))| {
                    let scale = if has_range(*ideal, *worst) {
                        worst - ideal
                    } else {
                        1.0
                    };
                    let weight = if m == axis { 1.0 } else { OFF_AXIS_WEIGHT };
                    weight * (value - ideal) / scale
                })
                .fold(f64::NEG_INFINITY, f64::max)
            };
            candidates().min_by(|a, b| scalarised(a).total_cmp(&scalarised(b)))
        };
        let found = axes.filter_map(|axis| nearest(axis).map(<[f64]>::to_vec));
        let found: Vec<Vec<f64>> = found.collect();
        self.extremes = found;
    }

    /// Where the hyperplane through the extreme points meets the axes, no farther than the worst of
    /// all; `None` where it does not meet one of them on the side of the front.
    fn intercepts(&self, of_front: &[f64], worst: &[f64]) -> Option<Vec<f64>> {
        let count = self.ideal.len();
        let scale: Vec<f64> = of_front
            .iter()
            .zip(&self.ideal)
            .map(|(w, i)| w - i)
            .collect();
        if self.extremes.len() < count || scale.iter().any(|range| *range <= 0.0) {
            return None;
        }
        let scaled = |row: usize, m: usize| (self.extremes[row][m] - self.ideal[m]) / scale[m];
        let points = Mat::from_fn(count, count, scaled);
        let ones = Mat::from_fn(count, 1, |_, _| 1.0);
        let plane = PartialPivLu::new(points.as_ref()).solve(&ones);
        let is_solution = (0..count).all(|row| {
            let value: f64 = (0..count).map(|m| points[(row, m)] * plane[(m, 0)]).sum();
            (value - 1.0).abs() < 1e-6
        });
        let meets = (0..count).all(|m| {
            let intercept = 1.0 / plane[(m, 0)];
            intercept.is_finite() && intercept > LEAST_INTERCEPT
        });
        let at = |m: usize| (self.ideal[m] + scale[m] / plane[(m, 0)]).min(worst[m]);
        (is_solution && meets).then(|| (0..count).map(at).collect())
    }
}

fn has_range(low: f64, high: f64) -> bool {
    high - low > LEAST_RANGE * low.abs().max(high.abs())
}

/// The least or greatest value of each objective.
fn extent<'a>(points: impl Iterator<Item = &'a [f64]>, of: fn(f64, f64) -> f64) -> Vec<f64> {
    let pairs = |a: Vec<f64>, b: &[f64]| a.iter().zip(b).map(|(a, b)| of(*a, *b)).collect();
    let mut points = points;
    let first = points.next().map_or(Vec::new(), <[f64]>::to_vec);
    points.fold(first, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(points: &[&[f64]], front: &[&[f64]]) -> Hyperplane {
        let mut plane = Hyperplane::default();
        plane.update(points, front);
        plane
    }

    #[test]
    fn the_intercepts_of_a_plane_are_one() {
        // x/2 + y/3 + z/5 = 1 above the ideal point (10, 20, 30), and a point farther off.
        let front: [&[f64]; 4] = [
            &[12.0, 20.0, 30.0],
            &[10.0, 23.0, 30.0],
            &[10.0, 20.0, 35.0],
            &[11.0, 20.75, 31.25],
        ];
        let all = [&front[..], &[&[14.0, 26.0, 40.0]]].concat();
        let plane = after(&all, &front);
        let middle = plane.normalised(front[3]);
        for (value, expected) in middle.iter().zip([0.5, 0.25, 0.25]) {
            assert!((value - expected).abs() < 1e-9, "{middle:?}");
        }
    }

    #[test]
    fn an_extreme_point_outlives_its_generation() {
        let mut plane = after(&[&[0.0, 1.0], &[1.0, 0.0]], &[&[0.0, 1.0], &[1.0, 0.0]]);
        plane.update(&[&[0.5, 0.5], &[0.4, 0.7]], &[&[0.5, 0.5], &[0.4, 0.7]]);
        assert_eq!(plane.extremes, [[1.0, 0.0], [0.0, 1.0]]);
    }

    #[test]
    fn a_degenerate_front_is_normalised_by_what_there_is() {
        let one = after(&[&[1.0, 2.0], &[3.0, 6.0]], &[&[1.0, 2.0]]);
        assert_eq!(one.normalised(&[2.0, 3.0]), [0.5, 0.25]);
        let twice: [&[f64]; 2] = [&[1.0, 2.0]; 2];
        let equal = after(&twice, &twice);
        assert_eq!(equal.normalised(&[1.0, 2.0]), [0.0, 0.0]);
        // All three on a line: the hyperplane through them is not defined.
        let line: [&[f64]; 3] = [&[0.0, 2.0, 2.0], &[1.0, 1.0, 1.0], &[2.0, 0.0, 0.0]];
        let line = after(&line, &line);
        assert_eq!(line.normalised(&[1.0, 1.0, 2.0]), [0.5, 0.5, 1.0]);
    }
}
