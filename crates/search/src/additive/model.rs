//! What true evaluations say of an additive model of the loss.
//!
//! The loss of a genome is `f(T) + r`, where `T` is the sum of the losses that its choices were
//! expected to have. `f` is a parabola: joint damage is larger than the sum of single ones, and in
//! the end saturates. `r` is a Gaussian process that is itself a sum over the variables: each
//! variable, and each of its choices, may be better or worse than expected by a share of its
//! loss, `cov(r, r') = s^2 sum_v l_v l'_v (1/2 + 1/2 [same choice])`. What is left is noise. Scales
//! are those of largest marginal likelihood (Rasmussen & Williams 2006, sections 2.7 and 5.4).

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Losses of choices count as at least this share of the mean: none is known to be harmless.
const LEAST_LOSS: f64 = 0.05;
/// Evaluations from which on `f` is curved.
const CURVED_FROM: usize = 6;
/// Spread of a variable's loss, as a share of what was expected.
const SPREADS: [f64; 4] = [0.05, 0.15, 0.5, 1.5];
/// Noise, as a share of the spread of the losses seen.
const NOISES: [f64; 3] = [0.01, 0.03, 0.1];

/// Expected losses of every choice, as they are before any evaluation.
pub(super) struct Expected(Vec<Vec<f64>>);

/// How far losses are from what is expected, as [`SPREADS`] and [`NOISES`] say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    spread: f64,
    noise: f64,
}

/// The model after some evaluations.
pub(super) struct Posterior<'a> {
    expected: &'a Expected,
    genomes: &'a [(Vec<usize>, f64)],
    /// What it was fitted with.
    pub scales: Scales,
    /// Coefficients of `1, T, T^2`.
    parabola: [f64; 3],
    least_slope: f64,
    spread: f64,
    noise: f64,
    factor: Llt<f64>,
    residuals: Vec<f64>,
}

impl Expected {
    /// `losses` has one list a variable, one number a choice. A choice of no loss is certain.
    pub fn new(losses: impl Iterator<Item = Vec<f64>>) -> Self {
        let losses: Vec<Vec<f64>> = losses.collect();
        let positive = || losses.iter().flatten().filter(|loss| **loss > 0.0);
        let mean = positive().sum::<f64>() / positive().count().max(1) as f64;
        let certain = |loss: f64| {
            if loss == 0.0 {
                0.0
            } else {
                loss.max(LEAST_LOSS * mean)
            }
        };
        let all = losses
            .iter()
            .map(|choices| choices.iter().map(|l| certain(*l)).collect());
        Self(all.collect())
    }

    pub fn losses(&self) -> &[Vec<f64>] {
        &self.0
    }

    pub fn total(&self, genome: &[usize]) -> f64 {
        genome
            .iter()
            .zip(&self.0)
            .map(|(gene, losses)| losses[*gene])
            .sum()
    }

    /// Covariance of what two genomes are better or worse than expected, for a spread of 1.
    fn covariance(&self, a: &[usize], b: &[usize]) -> f64 {
        let genes = a.iter().zip(b).zip(&self.0);
        genes
            .map(|((a, b), losses)| losses[*a] * losses[*b] * alike(a, b))
            .sum()
    }
}

fn alike(a: &usize, b: &usize) -> f64 {
    if a == b { 1.0 } else { 0.5 }
}

impl<'a> Posterior<'a> {
    /// The model of largest marginal likelihood, or of given scales; `None` where there are too few
    /// evaluations.
    pub fn fit(
        expected: &'a Expected,
        genomes: &'a [(Vec<usize>, f64)],
        scales: Option<Scales>,
    ) -> Option<Self> {
        let count = genomes.len();
        let totals: Vec<f64> = genomes
            .iter()
            .map(|(genome, _)| expected.total(genome))
            .collect();
        let losses: Vec<f64> = genomes.iter().map(|(_, loss)| *loss).collect();
        let range = |values: &[f64]| {
            let (least, most) = values
                .iter()
                .fold((f64::MAX, f64::MIN), |(least, most), value| {
                    (least.min(*value), most.max(*value))
                });
            most - least
        };
        let (width, height) = (range(&totals), range(&losses));
        if count < 3 || !(width > 0.0 && height > 0.0 && (height / width).is_finite()) {
            return None;
        }
        let slope = height / width;
        let mut kernel = Mat::zeros(count, count);
        for i in 0..count {
            for j in 0..=i {
                let value = slope * slope * expected.covariance(&genomes[i].0, &genomes[j].0);
                kernel[(i, j)] = value;
                kernel[(j, i)] = value;
            }
        }
        let mut best: Option<(f64, Self)> = None;
        let all = SPREADS.map(|spread| NOISES.map(|noise| Scales { spread, noise }));
        let given = scales.map_or(all.as_flattened().to_vec(), |scales| vec![scales]);
        for scales in given {
            let (spread, noise) = (scales.spread, scales.noise * height);
            let covariance = Mat::from_fn(count, count, |i, j| {
                spread * spread * kernel[(i, j)] + if i == j { noise * noise } else { 0.0 }
            });
            let Ok(factor) = Llt::new(covariance.as_ref(), Side::Lower) else {
                continue;
            };
            let parabola = parabola(&factor, &totals, &losses);
            let residual = |(total, loss): (&f64, &f64)| loss - value(&parabola, *total);
            let residuals: Vec<f64> = totals.iter().zip(&losses).map(residual).collect();
            let likelihood = log_likelihood(&factor, &residuals);
            if best
                .as_ref()
                .is_none_or(|(highest, _)| likelihood > *highest)
            {
                let model = Self {
                    expected,
                    genomes,
                    scales,
                    parabola,
                    least_slope: 0.1 * slope,
                    spread: spread * slope,
                    noise,
                    factor,
                    residuals,
                };
                best = Some((likelihood, model));
            }
        }
        best.map(|(_, model)| model)
    }

    /// Losses of all choices that are the model's best guess for genomes with an expected loss
    /// near `total`, up to a constant.
    pub fn mean(&self, total: f64) -> Vec<Vec<f64>> {
        let nothing: Vec<Vec<f64>> = self
            .expected
            .losses()
            .iter()
            .map(|losses| vec![0.0; losses.len()])
            .collect();
        self.conditioned(total, nothing, &vec![0.0; self.genomes.len()])
    }

    /// The same, drawn from the model.
    pub fn draw(&self, total: f64, rng: &mut impl Rng) -> Vec<Vec<f64>> {
        let mut normal = || -> f64 { StandardNormal.sample(rng) };
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let prior = self.expected.losses().iter().map(|losses| {
            let shared = normal();
            let draw = |loss: &f64| self.spread * half * loss * (shared + normal());
            losses.iter().map(draw).collect()
        });
        let prior: Vec<Vec<f64>> = prior.collect();
        let noise: Vec<f64> = self.genomes.iter().map(|_| self.noise * normal()).collect();
        self.conditioned(total, prior, &noise)
    }

    /// `prior`, a draw of what choices are worse than expected, corrected by the evaluations
    /// (pathwise conditioning, 2011.04026), on top of what is expected.
    fn conditioned(&self, total: f64, prior: Vec<Vec<f64>>, noise: &[f64]) -> Vec<Vec<f64>> {
        let of = |genome: &[usize]| -> f64 {
            genome
                .iter()
                .zip(&prior)
                .map(|(gene, losses)| losses[*gene])
                .sum()
        };
        let lacks = Mat::from_fn(self.genomes.len(), 1, |i, _| {
            self.residuals[i] - of(&self.genomes[i].0) - noise[i]
        });
        let weights = self.factor.solve(lacks);
        let slope = (self.parabola[1] + 2.0 * self.parabola[2] * total).max(self.least_slope);
        let square = self.spread * self.spread;
        let variables = self.expected.losses().iter().zip(&prior).enumerate();
        variables
            .map(|(variable, (losses, prior))| {
                let correction = |choice: usize| -> f64 {
                    let seen = self.genomes.iter().enumerate();
                    seen.map(|(i, (genome, _))| {
                        let gene = genome[variable];
                        weights[(i, 0)] * losses[gene] * alike(&gene, &choice)
                    })
                    .sum()
                };
                let choices = losses.iter().zip(prior).enumerate();
                choices
                    .map(|(choice, (loss, prior))| {
                        slope * loss + prior + square * loss * correction(choice)
                    })
                    .collect()
            })
            .collect()
    }
}

/// The parabola through the evaluations by generalised least squares, a line while they are few.
fn parabola(factor: &Llt<f64>, totals: &[f64], losses: &[f64]) -> [f64; 3] {
    let terms = if totals.len() < CURVED_FROM { 2 } else { 3 };
    let basis = Mat::from_fn(totals.len(), terms, |i, power| totals[i].powi(power as i32));
    let right = Mat::from_fn(totals.len(), 1, |i, _| losses[i]);
    let weighted = factor.solve(&basis);
    let normal = weighted.transpose() * &basis;
    let mut coefficients = [0.0; 3];
    if let Ok(normal) = Llt::new(normal.as_ref(), Side::Lower) {
        let solution = normal.solve(weighted.transpose() * right);
        (0..terms).for_each(|power| coefficients[power] = solution[(power, 0)]);
    }
    coefficients
}

fn value(parabola: &[f64; 3], total: f64) -> f64 {
    parabola[0] + total * (parabola[1] + total * parabola[2])
}

/// Up to a constant.
fn log_likelihood(factor: &Llt<f64>, residuals: &[f64]) -> f64 {
    let column = Mat::from_fn(residuals.len(), 1, |i, _| residuals[i]);
    let solved = factor.solve(&column);
    let square = residuals
        .iter()
        .enumerate()
        .map(|(i, r)| r * solved[(i, 0)])
        .sum::<f64>();
    let lower = factor.L();
    let determinant = (0..residuals.len())
        .map(|i| lower[(i, i)].ln())
        .sum::<f64>();
    -0.5 * square - determinant
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    type Told = Vec<(Vec<usize>, f64)>;

    /// Expected losses of eight variables, and true ones that are up to three times as large.
    fn problem() -> (Expected, Vec<Vec<f64>>, Told) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let expected: Vec<Vec<f64>> = (0..8)
            .map(|v| {
                (0..4)
                    .map(|c| (3 - c) as f64 * (1.0 + v as f64 / 8.0))
                    .collect()
            })
            .collect();
        let truth: Vec<Vec<f64>> = expected
            .iter()
            .map(|losses| {
                let factor = rng.random_range(0.3..3.0);
                losses.iter().map(|loss| factor * loss).collect()
            })
            .collect();
        let genomes =
            (0..60).map(|_| -> Vec<usize> { (0..8).map(|_| rng.random_range(0..4)).collect() });
        let told = genomes.map(|genome| {
            let loss = genome
                .iter()
                .zip(&truth)
                .map(|(gene, losses)| losses[*gene])
                .sum();
            (genome, loss)
        });
        let told = told.collect();
        (Expected::new(expected.into_iter()), truth, told)
    }

    #[test]
    fn evaluations_teach_what_each_choice_loses() {
        let (expected, truth, told) = problem();
        let model = Posterior::fit(&expected, &told, None).unwrap();
        let mean = model.mean(20.0);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let draw = model.draw(20.0, &mut rng);
        for (variable, losses) in truth.iter().enumerate() {
            let asked = &mean[variable];
            for choice in 0..3 {
                let difference = |l: &[f64]| l[choice] - l[3];
                let wrong = (difference(asked) - difference(losses)).abs();
                assert!(
                    wrong < 0.15 * difference(losses) + 0.3,
                    "{asked:?} {losses:?}"
                );
                let wrong = (difference(&draw[variable]) - difference(losses)).abs();
                assert!(
                    wrong < 0.3 * difference(losses) + 0.6,
                    "{draw:?} {losses:?}"
                );
            }
        }
    }

    #[test]
    fn too_few_or_equal_evaluations_make_no_model() {
        let (expected, _, told) = problem();
        assert!(Posterior::fit(&expected, &told[..2], None).is_none());
        let equal = vec![told[0].clone(); 9];
        assert!(Posterior::fit(&expected, &equal, None).is_none());
    }
}
