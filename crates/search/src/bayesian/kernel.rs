//! How alike two genomes are: a sum of one-variable Matérn-5/2 kernels (additive Gaussian processes,
//! Duvenaud, Nickisch & Rasmussen 2011, 1112.4394) and one over all variables together. A choice's
//! place is its index, scaled to 0 to 1; variables that matter more alone count for more together.

use crate::Space;

/// What a kernel is made of. Variances are shares of the values' own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scales {
    /// Length scale of the one-variable kernels.
    pub length: f64,
    /// Length scale of the joint kernel.
    pub joint_length: f64,
    /// Variance of each variable's own part.
    pub alone: Vec<f64>,
    /// Variance of the joint part.
    pub joint: f64,
    /// Variance of what evaluations differ from the process by.
    pub noise: f64,
}

/// Covariances of genomes of one space.
pub(super) struct Kernel {
    /// Of each variable, by how many choices two genes are apart: the covariance of its own part,
    /// and its share of the squared distance, in multiples of the joint length scale.
    tables: Vec<Vec<[f64; 2]>>,
    joint: f64,
    variance: f64,
}

impl Kernel {
    pub fn new(space: &Space, scales: &Scales) -> Self {
        let total: f64 = scales.alone.iter().sum();
        let variables = space.cardinalities().iter().zip(&scales.alone);
        let table = |(&count, &variance): (&usize, &f64)| -> Vec<[f64; 2]> {
            let places = (0..count).map(|apart| apart as f64 / (count - 1).max(1) as f64);
            let each = places.map(|apart| {
                let share = variance / total;
                let square = share * (apart / scales.joint_length).powi(2);
                [variance * matern(apart / scales.length), square]
            });
            each.collect()
        };
        Self {
            tables: variables.map(table).collect(),
            joint: scales.joint,
            variance: total + scales.joint,
        }
    }

    /// Covariance of a genome with itself.
    pub fn variance(&self) -> f64 {
        self.variance
    }

    pub fn covariance(&self, a: &[usize], b: &[usize]) -> f64 {
        let (mut alone, mut square) = (0.0, 0.0);
        for ((a, b), table) in a.iter().zip(b).zip(&self.tables) {
            let [own, apart] = table[a.abs_diff(*b)];
            alone += own;
            square += apart;
        }
        alone + self.joint_of(square)
    }

    /// The covariance's parts: adds `weight` times each variable's own to `alone`, and returns the
    /// joint one.
    pub fn add_parts(
        &self,
        a: &[usize],
        b: &[usize],
        weights: [f64; 2],
        parts: &mut [[f64; 2]],
    ) -> f64 {
        let mut square = 0.0;
        for (((a, b), table), parts) in a.iter().zip(b).zip(&self.tables).zip(parts) {
            let [own, apart] = table[a.abs_diff(*b)];
            parts[0] += weights[0] * own;
            parts[1] += weights[1] * own;
            square += apart;
        }
        self.joint_of(square)
    }

    fn joint_of(&self, square: f64) -> f64 {
        self.joint * matern(square.sqrt())
    }
}

/// Matérn's correlation of smoothness 5/2 (Rasmussen & Williams 2006, equation 4.17).
fn matern(distance: f64) -> f64 {
    let scaled = 5f64.sqrt() * distance;
    (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covariances_fall_with_the_distance_and_parts_add_up() {
        let space = Space::new(vec![5, 1, 9]).unwrap();
        let scales = Scales {
            length: 0.5,
            joint_length: 0.3,
            alone: vec![0.2, 0.1, 0.3],
            joint: 0.4,
            noise: 0.0,
        };
        let kernel = Kernel::new(&space, &scales);
        let from = |other: &[usize]| kernel.covariance(&[0, 0, 0], other);
        assert!((from(&[0, 0, 0]) - kernel.variance()).abs() < 1e-12);
        assert!(from(&[1, 0, 0]) > from(&[2, 0, 0]) && from(&[2, 0, 0]) > from(&[2, 0, 8]));
        let mut parts = [[0.0; 2]; 3];
        let joint = kernel.add_parts(&[0, 0, 0], &[2, 0, 8], [1.0, 2.0], &mut parts);
        let alone: f64 = parts.iter().map(|part| part[0]).sum();
        assert!((alone + joint - from(&[2, 0, 8])).abs() < 1e-12);
        assert_eq!(parts[2][1], 2.0 * parts[2][0]);
    }
}
