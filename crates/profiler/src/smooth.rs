//! Prices drawn towards what their neighbours say, as far as their noise calls for.
//!
//! Blocks of one kind lie near a plane: an MLP's latency grows with its width, attention's with
//! its heads and its depth. A plane is fitted through their prices, and each price is moved
//! towards it by the share of its deviation that its own noise explains (empirical Bayes,
//! Efron & Morris 1975; the spread around the plane as DerSimonian & Laird 1986 estimate it).
//! Where prices truly leave the plane, as with a kernel that likes certain widths, their spread
//! is larger than their noise and they stay where they were measured.

use lathe_arch::{BlockShape, Phase};

/// A price to be smoothed, in microseconds or in whatever those of its kind have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noisy {
    pub block: BlockShape,
    pub phase: Phase,
    pub price: f64,
    /// Standard error of the price.
    pub error: f64,
}

/// Smoothed prices in the order of `prices`, with the errors that are left.
pub(crate) fn smooth(prices: &[Noisy]) -> Vec<Noisy> {
    let mut smoothed = prices.to_vec();
    let mut done = vec![false; prices.len()];
    for first in 0..prices.len() {
        if done[first] {
            continue;
        }
        let alike = |index: &usize| group(&prices[*index]) == group(&prices[first]);
        let members: Vec<usize> = (first..prices.len()).filter(alike).collect();
        let points: Vec<Noisy> = members.iter().map(|index| prices[*index]).collect();
        let values = smooth_group(&points);
        for (index, value) in members.into_iter().zip(values) {
            smoothed[index] = value;
            done[index] = true;
        }
    }
    smoothed
}

/// What must agree for two prices to lie near one plane.
fn group(noisy: &Noisy) -> (u8, usize, usize, usize, lathe_arch::Precision) {
    let kind = match noisy.block {
        BlockShape::EmbeddingAndHead(_) => 0,
        BlockShape::Attention(_) => 1,
        BlockShape::Mlp(_) => 2,
    };
    let (prompt, decode) = match noisy.phase {
        Phase::Prefill { seq_len, .. } => (seq_len, 0),
        Phase::Decode { .. } => (0, 1),
    };
    let batch = noisy.phase.batch();
    (kind, prompt, decode, batch, noisy.block.precision())
}

/// What the plane is over; empty where blocks have nothing in common.
fn features(noisy: &Noisy) -> Vec<f64> {
    match (noisy.block, noisy.phase) {
        (BlockShape::EmbeddingAndHead(_), _) => Vec::new(),
        (BlockShape::Mlp(mlp), _) => vec![1.0, mlp.intermediate_size as f64],
        (BlockShape::Attention(a), Phase::Prefill { .. }) => {
            vec![1.0, a.heads as f64, a.kv_heads as f64]
        }
        (BlockShape::Attention(a), Phase::Decode { past_len, .. }) => {
            let (heads, groups, depth) = (a.heads as f64, a.kv_heads as f64, past_len as f64);
            vec![1.0, heads, groups, depth * heads, depth * groups]
        }
    }
}

fn smooth_group(points: &[Noisy]) -> Vec<Noisy> {
    let unchanged = || points.to_vec();
    let rows: Vec<Vec<f64>> = points.iter().map(features).collect();
    let dimensions = rows.first().map_or(0, Vec::len);
    let is_sound = points
        .iter()
        .all(|p| p.price > 0.0 && p.error > 0.0 && p.error.is_finite());
    if dimensions == 0 || points.len() < dimensions + 2 || !is_sound {
        return unchanged();
    }
    // Relative deviations: the noise of a latency is a share of it.
    let mut spread = 0.0;
    let mut plane = Vec::new();
    for _ in 0..3 {
        let weights: Vec<f64> = points
            .iter()
            .map(|p| 1.0 / (p.error.powi(2) + spread * p.price.powi(2)))
            .collect();
        let Some(fitted) = weighted_plane(&rows, points, &weights) else {
            return unchanged();
        };
        plane = fitted;
        spread = relative_spread(points, &plane, dimensions);
    }
    // What a plane through `n` prices with `d` coefficients keeps of their noise, on average.
    let plane_share = dimensions as f64 / points.len() as f64;
    let moved = points.iter().zip(&plane).map(|(point, fitted)| {
        let noise = (point.error / point.price).powi(2);
        let kept = spread / (spread + noise);
        let price = fitted + kept * (point.price - fitted);
        if price <= 0.0 {
            return *point;
        }
        let left = kept * noise + (1.0 - kept).powi(2) * plane_share * noise;
        Noisy {
            price,
            error: price * left.sqrt(),
            ..*point
        }
    });
    moved.collect()
}

/// Variance of the relative deviations from the plane beyond what noise explains.
fn relative_spread(points: &[Noisy], plane: &[f64], dimensions: usize) -> f64 {
    let (mut q, mut weight) = (0.0, 0.0);
    for (point, fitted) in points.iter().zip(plane) {
        let noise = (point.error / point.price).powi(2);
        q += ((point.price - fitted) / point.price).powi(2) / noise;
        weight += 1.0 / noise;
    }
    let freedom = (points.len() - dimensions) as f64;
    let explained = weight * freedom / points.len() as f64;
    ((q - freedom) / explained).max(0.0)
}

/// Values on the plane of least weighted squares at each row; `None` when the rows do not span it.
fn weighted_plane(rows: &[Vec<f64>], points: &[Noisy], weights: &[f64]) -> Option<Vec<f64>> {
    let size = rows.first()?.len();
    let mut normal = vec![vec![0.0; size + 1]; size];
    for ((row, point), weight) in rows.iter().zip(points).zip(weights) {
        for i in 0..size {
            for j in 0..size {
                normal[i][j] += weight * row[i] * row[j];
            }
            normal[i][size] += weight * row[i] * point.price;
        }
    }
    let solution = solve(normal)?;
    let value = |row: &Vec<f64>| row.iter().zip(&solution).map(|(a, b)| a * b).sum();
    Some(rows.iter().map(value).collect())
}

/// Gaussian elimination with pivoting of a system `[matrix | right side]`.
fn solve(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = system.len();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| {
            system[*a][column]
                .abs()
                .total_cmp(&system[*b][column].abs())
        })?;
        system.swap(column, pivot);
        let scale = system[column][column];
        let largest = system[column].iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if scale.abs() <= 1e-12 * largest || !scale.is_finite() {
            return None;
        }
        let row = system[column].clone();
        for (other, values) in system.iter_mut().enumerate() {
            if other == column {
                continue;
            }
            let factor = values[column] / scale;
            for (value, pivot) in values.iter_mut().zip(&row) {
                *value -= factor * pivot;
            }
        }
    }
    let solution = (0..size).map(|i| system[i][size] / system[i][i]);
    Some(solution.collect())
}

#[cfg(test)]
mod tests {
    use lathe_arch::{AttentionConfig, MlpConfig, Precision};

    use super::*;

    fn mlp(width: usize, price: f64, error: f64) -> Noisy {
        Noisy {
            block: BlockShape::Mlp(MlpConfig::with_width(width)),
            phase: Phase::Prefill {
                batch: 1,
                seq_len: 8,
            },
            price,
            error,
        }
    }

    #[test]
    fn noise_is_taken_out() {
        let noise = [3.0, -2.0, 1.0, -3.0, 2.0, -1.0, 2.0, -2.0];
        let truth = |i: usize| 20.0 + 10.0 * (i + 1) as f64;
        let prices: Vec<Noisy> = (0..8)
            .map(|i| mlp(100 * (i + 1), truth(i) + noise[i], 2.5))
            .collect();
        let smoothed = smooth(&prices);
        let error = |values: &dyn Fn(usize) -> f64| {
            (0..8).map(|i| (values(i) - truth(i)).powi(2)).sum::<f64>()
        };
        let (before, after) = (error(&|i| prices[i].price), error(&|i| smoothed[i].price));
        assert!(after < before / 3.0, "{before} {after}");
        // Eight prices on a line of two coefficients: half the error is left.
        for (smoothed, noisy) in smoothed.iter().zip(&prices) {
            let left = (smoothed.error / smoothed.price) / (noisy.error / noisy.price);
            assert!((0.45..0.8).contains(&left), "{left}");
        }
    }

    #[test]
    fn what_is_known_well_stays() {
        // A step between the fourth and fifth width, measured within 0.1 %.
        let price = |i: usize| 100.0 + 10.0 * i as f64 + if i < 4 { 0.0 } else { 40.0 };
        let prices: Vec<Noisy> = (0..8)
            .map(|i| mlp(100 * (i + 1), price(i), price(i) / 1000.0))
            .collect();
        for (smoothed, noisy) in smooth(&prices).iter().zip(&prices) {
            assert!((smoothed.price / noisy.price - 1.0).abs() < 2e-3);
            assert!(smoothed.error <= noisy.error * 1.01);
        }
    }

    #[test]
    fn kinds_phases_and_precisions_do_not_mix() {
        let mut prices: Vec<Noisy> = (1..9).map(|i| mlp(100 * i, 10.0 * i as f64, 1.0)).collect();
        let smoothed = |prices: &[Noisy]| -> Vec<f64> {
            let smoothed = smooth(prices);
            smoothed.iter().map(|noisy| noisy.price).collect()
        };
        let alone = smoothed(&prices);
        let attention = AttentionConfig {
            heads: 3,
            kv_heads: 3,
            precision: Precision::F32,
        };
        prices.push(Noisy {
            block: BlockShape::Attention(attention),
            price: 5000.0,
            ..prices[0]
        });
        prices.push(Noisy {
            block: prices[3].block.with_precision(Precision::Int8),
            price: 7000.0,
            ..prices[0]
        });
        let together = smoothed(&prices);
        assert_eq!(alone, together[..8]);
        assert_eq!(together[8..], [5000.0, 7000.0]);
    }
}
