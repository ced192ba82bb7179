//! A Gaussian process through evaluations (Rasmussen & Williams 2006, sections 2.2 and 2.7), with a
//! constant mean by generalised least squares.

use faer::linalg::solvers::{DenseSolveCore, Llt, Solve};
use faer::{Mat, Side};

use super::ehvi::Gaussian;
use super::kernel::{Kernel, Scales};
use crate::{Genome, Space};

/// The process after evaluations of some genomes.
pub(super) struct Process {
    kernel: Kernel,
    genomes: Vec<Genome>,
    noise: f64,
    factor: Llt<f64>,
    mean: f64,
    /// The inverse covariance times what values differ from the mean by.
    weights: Vec<f64>,
    log_likelihood: f64,
}

/// What the evaluations say of the variance of one part of the kernel: both numbers are equal where
/// the likelihood is stationary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// `w K w`, with the weights `w` and the part `K` of the covariance.
    pub found: f64,
    /// `tr(S K)`, with the inverse covariance `S`.
    pub expected: f64,
}

impl Process {
    /// The process given `values` of `genomes`; `None` where the covariance cannot be factored.
    pub fn new(space: &Space, scales: &Scales, genomes: &[Genome], values: &[f64]) -> Option<Self> {
        let kernel = Kernel::new(space, scales);
        let count = genomes.len();
        let mut covariance = Mat::zeros(count, count);
        for i in 0..count {
            for j in 0..i {
                covariance[(i, j)] = kernel.covariance(&genomes[i], &genomes[j]);
            }
            covariance[(i, i)] = kernel.variance() + scales.noise;
        }
        let factor = Llt::new(covariance.as_ref(), Side::Lower).ok()?;
        let columns = Mat::from_fn(count, 2, |i, column| [1.0, values[i]][column]);
        let solved = factor.solve(&columns);
        let sum = |column: usize| (0..count).map(|i| solved[(i, column)]).sum::<f64>();
        let mean = sum(1) / sum(0);
        let weights = (0..count).map(|i| solved[(i, 1)] - mean * solved[(i, 0)]);
        let weights: Vec<f64> = weights.collect();
        let square: f64 = weights
            .iter()
            .zip(values)
            .map(|(w, v)| w * (v - mean))
            .sum();
        let lower = factor.L();
        let determinant: f64 = (0..count).map(|i| lower[(i, i)].ln()).sum();
        Some(Self {
            kernel,
            genomes: genomes.to_vec(),
            noise: scales.noise,
            factor,
            mean,
            weights,
            log_likelihood: -0.5 * square - determinant,
        })
    }

    /// Of the values, up to a constant.
    pub fn log_likelihood(&self) -> f64 {
        self.log_likelihood
    }

    /// What is expected of `genomes`, without the noise.
    pub fn predict(&self, genomes: &[Genome]) -> Vec<Gaussian> {
        let covariance = Mat::from_fn(self.genomes.len(), genomes.len(), |i, j| {
            self.kernel.covariance(&self.genomes[i], &genomes[j])
        });
        let solved = self.factor.solve(&covariance);
        let each = (0..genomes.len()).map(|j| {
            let rows = || 0..self.genomes.len();
            let mean: f64 = rows().map(|i| self.weights[i] * covariance[(i, j)]).sum();
            let known: f64 = rows().map(|i| solved[(i, j)] * covariance[(i, j)]).sum();
            Gaussian {
                mean: self.mean + mean,
                deviation: (self.kernel.variance() - known).max(0.0).sqrt(),
            }
        });
        each.collect()
    }

    /// `values` without what the process takes for noise: its means at its own genomes.
    pub fn smoothed(&self, values: &[f64]) -> Vec<f64> {
        let pairs = values.iter().zip(&self.weights);
        pairs
            .map(|(value, weight)| value - self.noise * weight)
            .collect()
    }

    /// What the values say of the variances: of each variable's own part, the joint part and the noise.
    pub fn evidence(&self) -> (Vec<Evidence>, Evidence, Evidence) {
        let inverse = self.factor.inverse();
        let mut alone = vec![[0.0; 2]; self.genomes.first().map_or(0, Vec::len)];
        let (mut joint, mut noise) = ([0.0; 2], [0.0; 2]);
        for (i, a) in self.genomes.iter().enumerate() {
            for (j, b) in self.genomes[..=i].iter().enumerate() {
                let times = if i == j { 1.0 } else { 2.0 };
                let products = [self.weights[i] * self.weights[j], inverse[(i, j)]];
                let products = products.map(|product| times * product);
                let part = self.kernel.add_parts(a, b, products, &mut alone);
                for (sum, product) in joint.iter_mut().zip(products) {
                    *sum += product * part;
                }
                if i == j {
                    for (sum, product) in noise.iter_mut().zip(products) {
                        *sum += product * self.noise;
                    }
                }
            }
        }
        let evidence = |[found, expected]: [f64; 2]| Evidence { found, expected };
        let alone = alone.into_iter().map(evidence).collect();
        (alone, evidence(joint), evidence(noise))
    }
}
