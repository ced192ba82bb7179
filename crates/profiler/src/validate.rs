//! Prediction against measurement on whole sub-networks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lathe_arch::{ModelConfig, SearchSpace, SubnetConfig};
use lathe_onnx::{LogitRows, Network, RandomWeights, write_network_graph, write_random_data};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::ProfilerError;
use crate::statistics::{
    kendall_tau, mean_absolute_percentage_error, median, relative_errors, spearman,
};

/// Weights that all measured networks share.
const WEIGHTS_FILE: &str = "weights.data";

/// One network: what was predicted and what was measured, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Predicted latency.
    pub predicted_us: f64,
    /// Measured latency.
    pub measured_us: f64,
}

/// How well predictions agree with measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Networks compared.
    pub networks: usize,
    /// Mean absolute percentage error, as a share.
    pub mape: f64,
    /// Median of the absolute relative errors.
    pub median_error: f64,
    /// Mean signed relative error: negative when predictions are too low.
    pub bias: f64,
    /// Share of networks within 5 %.
    pub within_5_percent: f64,
    /// Share of networks within 10 %.
    pub within_10_percent: f64,
    /// Largest absolute relative error.
    pub worst: f64,
    /// Kendall's tau-b.
    pub kendall_tau: f64,
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Slowest over fastest network: without spread, rank correlations mean little.
    pub spread: f64,
}

/// Summarises comparisons.
pub fn agreement(comparisons: &[Comparison]) -> Agreement {
    let predicted: Vec<f64> = comparisons.iter().map(|c| c.predicted_us).collect();
    let measured: Vec<f64> = comparisons.iter().map(|c| c.measured_us).collect();
    let errors = relative_errors(&predicted, &measured);
    let sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    let count = comparisons.len().max(1) as f64;
    let within = |limit: f64| sizes.iter().filter(|size| **size <= limit).count() as f64 / count;
    let extreme =
        |start: f64, pick: fn(f64, f64) -> f64| measured.iter().copied().fold(start, pick);
    Agreement {
        networks: comparisons.len(),
        mape: mean_absolute_percentage_error(&predicted, &measured),
        median_error: median(&sizes),
        bias: errors.iter().sum::<f64>() / count,
        within_5_percent: within(0.05),
        within_10_percent: within(0.10),
        worst: sizes.iter().copied().fold(0.0, f64::max),
        kendall_tau: kendall_tau(&predicted, &measured),
        spearman: spearman(&predicted, &measured),
        spread: extreme(0.0, f64::max) / extreme(f64::INFINITY, f64::min),
    }
}

/// Draws distinct sub-networks from nearly empty to nearly full, so that their latencies spread
/// over the space (uniform choices would all land in the middle).
pub fn draw_subnets(
    space: &SearchSpace,
    count: usize,
    seed: u64,
) -> Result<Vec<SubnetConfig>, ProfilerError> {
    const TRIES: usize = 100;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let around = Normal::new(0.0, 0.25).expect("0.25 is a valid standard deviation");
    let cardinalities = space.cardinalities();
    let mut seen = BTreeSet::new();
    let mut subnets = Vec::new();
    for index in 0..count {
        let level = (index as f64 + 0.5) / count as f64;
        for _ in 0..TRIES {
            let choice = |&cardinality: &usize| {
                let largest = (cardinality - 1) as f64;
                let gene = (largest * (level + around.sample(&mut rng))).round();
                gene.clamp(0.0, largest) as usize
            };
            let genome: Vec<usize> = cardinalities.iter().map(choice).collect();
            if seen.insert(genome.clone()) {
                subnets.push(space.decode(&genome)?);
                break;
            }
        }
    }
    Ok(subnets)
}

/// Writes the graphs of sub-networks, as an export would, over one file of random weights:
/// latency does not depend on the values. Returns the graphs' paths.
///
/// # Errors
/// When the disk does not take the files.
pub fn write_random_networks(
    folder: &Path,
    model: &ModelConfig,
    subnets: &[SubnetConfig],
) -> Result<Vec<PathBuf>, ProfilerError> {
    fs::create_dir_all(folder).map_err(|source| ProfilerError::Io {
        path: folder.to_owned(),
        source,
    })?;
    let mut paths = Vec::new();
    let mut largest = 0;
    for (index, subnet) in subnets.iter().enumerate() {
        let path = folder.join(format!("{index}.onnx"));
        let network = Network {
            model,
            subnet,
            weights: &RandomWeights {
                model,
                subnet,
                seed: 0,
            },
            logit_rows: LogitRows::Last,
        };
        largest = largest.max(write_network_graph(&path, &network, WEIGHTS_FILE)?);
        paths.push(path);
    }
    write_random_data(&folder.join(WEIGHTS_FILE), largest, 1)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use lathe_arch::SpaceSpec;

    use super::*;

    #[test]
    fn agreement_of_known_pairs() {
        let pair = |predicted_us, measured_us| Comparison {
            predicted_us,
            measured_us,
        };
        let pairs = [pair(104.0, 100.0), pair(184.0, 200.0), pair(345.0, 300.0)];
        let agreement = agreement(&pairs);
        assert!((agreement.mape - 0.09).abs() < 1e-12);
        assert!((agreement.bias - 0.11 / 3.0).abs() < 1e-12);
        assert!((agreement.within_5_percent - 1.0 / 3.0).abs() < 1e-12);
        assert!((agreement.within_10_percent - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(agreement.kendall_tau, 1.0);
        assert_eq!(agreement.spread, 3.0);
    }

    #[test]
    fn drawn_subnets_are_distinct_fit_and_spread() {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let subnets = draw_subnets(&space, 20, 3).unwrap();
        assert_eq!(subnets.len(), 20);
        let sizes: Vec<u64> = subnets.iter().map(|s| s.parameters(&model)).collect();
        let spread = *sizes.iter().max().unwrap() as f64 / *sizes.iter().min().unwrap() as f64;
        assert!(spread > 2.0, "{spread}");
        for subnet in &subnets {
            subnet.check(&model).unwrap();
        }
        assert_eq!(subnets, draw_subnets(&space, 20, 3).unwrap());
    }
}
