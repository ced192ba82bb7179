//! Whether two units of one kind of device agree.

use lathe_latency::LatencyTable;

use crate::statistics::{median, quantile};

/// How far the prices of two units differ, as shares of the second's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnitDifference {
    /// Entries that both tables have.
    pub entries: usize,
    /// Median absolute difference.
    pub median: f64,
    /// 95th percentile of the absolute differences.
    pub p95: f64,
    /// Largest absolute difference.
    pub worst: f64,
}

/// How far two tables differ; `None` when their devices are of different kinds or measured in different
/// ways, or no entry is in both. The speed of a whole unit is part of the difference.
pub fn unit_difference(one: &LatencyTable, other: &LatencyTable) -> Option<UnitDifference> {
    let kind = |table: &LatencyTable| {
        let (device, runtime) = (&table.device, &table.runtime);
        let processors = (
            device.cpu_model.clone(),
            device.cores,
            device.affinity.clone(),
        );
        (processors, runtime.clone(), table.model.dimensions.clone())
    };
    if one.device.cpu_model.is_empty() || kind(one) != kind(other) {
        return None;
    }
    let differences = one.entries.iter().filter_map(|entry| {
        let mut others = other.entries.iter();
        let same = others.find(|e| e.block == entry.block && e.phase == entry.phase)?;
        Some((entry.price_us / same.price_us - 1.0).abs())
    });
    let differences: Vec<f64> = differences.collect();
    (!differences.is_empty()).then(|| UnitDifference {
        entries: differences.len(),
        median: median(&differences),
        p95: quantile(&differences, 0.95),
        worst: quantile(&differences, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn table() -> LatencyTable {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds");
        LatencyTable::load(&seeds.join("table/profile")).unwrap()
    }

    #[test]
    fn units_of_a_kind_are_compared_price_by_price() {
        let (one, mut other) = (table(), table());
        other.device.name = "other".to_owned();
        let same = unit_difference(&one, &other).unwrap();
        assert_eq!(same.entries, one.entries.len());
        assert_eq!((same.median, same.worst), (0.0, 0.0));
        for entry in &mut other.entries {
            entry.price_us *= 1.25;
        }
        other.entries[0].price_us *= 2.0;
        let apart = unit_difference(&one, &other).unwrap();
        assert!((apart.median - 0.2).abs() < 1e-9 && (apart.worst - 0.6).abs() < 1e-9);
    }

    #[test]
    fn devices_of_other_kinds_are_not() {
        let (one, mut other) = (table(), table());
        other.device.cpu_model.push('2');
        assert_eq!(unit_difference(&one, &other), None);
        let mut other = table();
        other.runtime.threads += 1;
        assert_eq!(unit_difference(&one, &other), None);
        other = table();
        other.entries.clear();
        assert_eq!(unit_difference(&one, &other), None);
    }
}
