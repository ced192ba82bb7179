//! Robust statistics of latencies, and measures of agreement between prediction and measurement.
//!
//! All functions take finite numbers; quantiles interpolate linearly between order statistics
//! (Hyndman & Fan 1996, definition 7).

/// Quantile `q` in `[0, 1]`; 0 for no values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = q.clamp(0.0, 1.0) * last as f64;
    let low = position.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (position - low as f64) * (sorted[high] - sorted[low])
}

/// Median; 0 for no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Mean; 0 for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Variance of the values themselves; 0 for no values.
pub fn variance(values: &[f64]) -> f64 {
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    squares / values.len().max(1) as f64
}

/// Median absolute deviation from the median.
pub fn median_absolute_deviation(values: &[f64]) -> f64 {
    let center = median(values);
    let deviations: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
    median(&deviations)
}

/// Distribution-free 95 % confidence interval of the median from order statistics (Conover 1999,
/// section 3.2): the widest-in pair of ranks whose binomial coverage is at least 95 %. With fewer
/// than 6 values no pair reaches that, and the range of the values is given.
pub fn median_ci95(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    if count == 0 {
        return [0.0; 2];
    }
    // P(fewer than `rank + 1` values below the median) for a fair coin.
    let mut probability = 0.5f64.powi(count as i32);
    let mut tail = probability;
    let mut rank = 0;
    while rank + 1 < count / 2 {
        probability *= (count - rank) as f64 / (rank + 1) as f64;
        if tail + probability > 0.025 {
            break;
        }
        tail += probability;
        rank += 1;
    }
    [sorted[rank], sorted[count - 1 - rank]]
}

/// Mean of `|predicted / measured - 1|`.
pub fn mean_absolute_percentage_error(predicted: &[f64], measured: &[f64]) -> f64 {
    let errors = relative_errors(predicted, measured);
    errors.iter().map(|error| error.abs()).sum::<f64>() / errors.len().max(1) as f64
}

/// `predicted / measured - 1` of each pair.
pub fn relative_errors(predicted: &[f64], measured: &[f64]) -> Vec<f64> {
    let pairs = predicted.iter().zip(measured);
    pairs
        .map(|(predicted, measured)| predicted / measured - 1.0)
        .collect()
}

/// Kendall's tau-b: agreement of two orders, corrected for ties; 0 when one side is constant.
pub fn kendall_tau(a: &[f64], b: &[f64]) -> f64 {
    let (mut agreement, mut untied_a, mut untied_b) = (0.0, 0.0f64, 0.0f64);
    for i in 0..a.len() {
        for j in 0..i {
            let sign = |values: &[f64]| match values[i].total_cmp(&values[j]) {
                std::cmp::Ordering::Less => -1.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Greater => 1.0,
            };
            let (sign_a, sign_b): (f64, f64) = (sign(a), sign(b));
            agreement += sign_a * sign_b;
            untied_a += sign_a.abs();
            untied_b += sign_b.abs();
        }
    }
    ratio(agreement, (untied_a * untied_b).sqrt())
}

/// Spearman's rank correlation, ties at their average rank; 0 when one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    ratio(product(&a, &b), (product(&a, &a) * product(&b, &b)).sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 {
        numerator / denominator
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.9), 9.0);
        assert_eq!(
            median_absolute_deviation(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0]),
            1.0
        );
        let mape = mean_absolute_percentage_error(&[110.0, 80.0], &[100.0, 100.0]);
        assert!((mape - 0.15).abs() < 1e-12);
        // scipy.stats.kendalltau([12,2,1,12,2],[1,4,7,1,0]) = -0.4714...
        let tau = kendall_tau(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0]);
        assert!((tau + 0.471_404_520_791_03).abs() < 1e-12, "{tau}");
        // scipy.stats.spearmanr([1,2,3,4,5],[5,6,7,8,7]) = 0.8207...
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]);
        assert!((rho - 0.820_782_681_668_123).abs() < 1e-12, "{rho}");
    }

    #[test]
    fn median_interval_uses_the_tabulated_ranks() {
        // Ranks from the binomial table: n = 6: 1 and 6; n = 10: 2 and 9; n = 20: 6 and 15.
        for (count, low) in [(3, 0), (5, 0), (6, 0), (10, 1), (20, 5)] {
            let values: Vec<f64> = (0..count).map(f64::from).collect();
            let want = [f64::from(low), f64::from(count - 1 - low)];
            assert_eq!(median_ci95(&values), want, "{count}");
        }
        assert_eq!(median_ci95(&[7.0]), [7.0, 7.0]);
    }

    proptest! {
        #[test]
        fn order_measures_ignore_monotone_changes(
            values in prop::collection::vec(-100.0f64..100.0, 3..20),
        ) {
            let changed: Vec<f64> = values.iter().map(|v| v.exp()).collect();
            let reversed: Vec<f64> = values.iter().map(|v| -v).collect();
            prop_assert!((kendall_tau(&values, &changed) - 1.0).abs() < 1e-9);
            prop_assert!((spearman(&values, &reversed) + 1.0).abs() < 1e-9);
        }

        #[test]
        fn the_interval_holds_the_median(values in prop::collection::vec(0.0f64..1.0, 1..40)) {
            let [low, high] = median_ci95(&values);
            let center = median(&values);
            prop_assert!(low <= center && center <= high);
        }
    }
}
