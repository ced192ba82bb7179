//! Niching: of the front that does not fit whole, those in the emptiest niches around the reference
//! directions.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// The direction nearest to a normalised point, and the point's distance from its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Niche {
    pub direction: usize,
    pub distance: f64,
}

impl Niche {
    /// The niche of `point` among `directions`, of which there is at least one.
    pub fn of(point: &[f64], directions: &[Vec<f64>]) -> Self {
        let niches = directions
            .iter()
            .enumerate()
            .map(|(index, direction)| Self {
                direction: index,
                distance: distance(point, direction),
            });
        let first = Self {
            direction: 0,
            distance: f64::INFINITY,
        };
        niches.fold(first, |best, niche| {
            if niche.distance < best.distance {
                niche
            } else {
                best
            }
        })
    }
}

/// Perpendicular distance from the line through the origin.
fn distance(point: &[f64], direction: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let along = dot(point, direction) / dot(direction, direction);
    let apart = point
        .iter()
        .zip(direction)
        .map(|(p, d)| (p - along * d).powi(2));
    apart.sum::<f64>().sqrt()
}

/// Indices of `wanted` of the `candidates`. `counts` says how many members are in each niche before.
pub(super) fn pick(
    candidates: &[Niche],
    mut counts: Vec<usize>,
    wanted: usize,
    rng: &mut impl Rng,
) -> Vec<usize> {
    let mut left: Vec<Vec<usize>> = vec![Vec::new(); counts.len()];
    for (index, niche) in candidates.iter().enumerate() {
        left[niche.direction].push(index);
    }
    let mut picked = Vec::new();
    while picked.len() < wanted {
        let open = || (0..left.len()).filter(|niche| !left[*niche].is_empty());
        let least = open().map(|niche| counts[niche]).min();
        let emptiest: Vec<usize> = open()
            .filter(|niche| Some(counts[*niche]) == least)
            .collect();
        let Some(&niche) = emptiest.choose(rng) else {
            break;
        };
        let of_niche = &mut left[niche];
        let nearest = || {
            let distance = |at: &usize| candidates[of_niche[*at]].distance;
            (0..of_niche.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)))
        };
        let at = match counts[niche] {
            0 => nearest().unwrap_or(0),
            _ => rng.random_range(0..of_niche.len()),
        };
        picked.push(of_niche.swap_remove(at));
        counts[niche] += 1;
    }
    picked
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_niche_is_that_of_the_nearest_line() {
        let directions = [vec![1.0, 0.0], vec![0.5, 0.5], vec![0.0, 1.0]];
        let niche = Niche::of(&[2.0, 1.0], &directions);
        assert_eq!(niche.direction, 1);
        assert!((niche.distance - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(Niche::of(&[0.1, 3.0], &directions).direction, 2);
    }

    #[test]
    fn empty_niches_are_filled_first_and_with_the_nearest() {
        let niche = |direction, distance| Niche {
            direction,
            distance,
        };
        let candidates = [niche(0, 0.1), niche(1, 0.3), niche(1, 0.2), niche(2, 0.5)];
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut two = pick(&candidates, vec![3, 0, 0], 2, &mut rng);
            two.sort_unstable();
            assert_eq!(two, [2, 3]);
            let three = pick(&candidates, vec![3, 0, 0], 3, &mut rng);
            assert!(three.contains(&1));
            let all = pick(&candidates, vec![3, 0, 0], 9, &mut rng);
            assert_eq!(all.len(), 4);
        }
    }
}
