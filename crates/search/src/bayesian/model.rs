//! A model of one objective: the warp and the scales that make its values most likely.
//!
//! Variances start where they are expected and move by the minorisation-maximisation steps of Zhou,
//! Hu, Qiao, Jamshidian & Lange 2019 (1509.07426), which need no step size; an inverse gamma prior
//! keeps those in place of which little is known. Few steps are made: with fewer evaluations than
//! variables the greatest likelihood fits the noise. Length scales and the warp's power are the best
//! of a few.

use super::kernel::Scales;
use super::process::{Evidence, Process};
use super::warp::Warp;
use crate::{Genome, Space};

/// Length scales of the one-variable kernels.
const LENGTHS: [f64; 3] = [1.0, 0.3, 3.0];
/// Length scales of the joint kernel.
const JOINT_LENGTHS: [f64; 3] = [0.5, 0.2, 1.5];
/// Powers of the warp.
const POWERS: [f64; 3] = [1.0, 0.5, 0.25];
/// Steps of the variances from where they are expected.
const FIRST_STEPS: usize = 6;
/// Steps after another length scale or power.
const NEXT_STEPS: usize = 2;
/// Shares of the values' variance that are expected of all variables' own parts, of the joint part and
/// of noise.
const EXPECTED: [f64; 3] = [0.5, 0.5, 1e-4];
/// Weight of what is expected of a variance, in evaluations.
const PRIOR_WEIGHT: f64 = 1.0;

/// The model.
#[derive(Debug, Clone)]
pub(super) struct Model {
    warp: Warp,
    scales: Scales,
}

impl Model {
    /// The model under which `values` of `genomes` are most likely; `None` where they are all equal.
    pub fn fit(space: &Space, genomes: &[Genome], values: &[f64]) -> Option<Self> {
        let data = Data {
            space,
            genomes,
            values,
        };
        let mut best = data.climb(POWERS[0], expected(space), FIRST_STEPS)?;
        let mut try_next = |change: &dyn Fn(&mut f64, &mut Scales)| {
            let (mut power, mut scales) = (best.power, best.model.scales.clone());
            change(&mut power, &mut scales);
            let next = data.climb(power, scales, NEXT_STEPS);
            if let Some(next) = next.filter(|next| next.log_posterior > best.log_posterior) {
                best = next;
            }
        };
        for other in &POWERS[1..] {
            try_next(&|power, _| *power = *other);
        }
        for other in &LENGTHS[1..] {
            try_next(&|_, scales| scales.length = *other);
        }
        for other in &JOINT_LENGTHS[1..] {
            try_next(&|_, scales| scales.joint_length = *other);
        }
        Some(best.model)
    }

    /// A value as the process sees it.
    pub fn see(&self, value: f64) -> f64 {
        self.warp.apply(value)
    }

    /// The process given values of `genomes` as it sees them; `None` where it cannot be factored.
    pub fn process(&self, space: &Space, genomes: &[Genome], seen: &[f64]) -> Option<Process> {
        Process::new(space, &self.scales, genomes, seen)
    }
}

/// What a model is fitted to.
struct Data<'a> {
    space: &'a Space,
    genomes: &'a [Genome],
    values: &'a [f64],
}

/// A model and how likely it is, up to a constant.
struct Fitted {
    model: Model,
    power: f64,
    log_posterior: f64,
}

impl Data<'_> {
    /// The model with this power after some steps of the variances.
    fn climb(&self, power: f64, mut scales: Scales, steps: usize) -> Option<Fitted> {
        let warp = Warp::new(self.values, power)?;
        let warped: Vec<f64> = self.values.iter().map(|value| warp.apply(*value)).collect();
        let process = |scales: &Scales| Process::new(self.space, scales, self.genomes, &warped);
        let prior = expected(self.space);
        for _ in 0..steps {
            let process = process(&scales)?;
            step(&mut scales, &prior, &process);
        }
        let log_likelihood = process(&scales)?.log_likelihood() + warp.log_slope(self.values);
        Some(Fitted {
            log_posterior: log_likelihood + log_prior(&scales, &prior),
            model: Model { warp, scales },
            power,
        })
    }
}

/// Scales before any evaluation.
fn expected(space: &Space) -> Scales {
    let variables = space.cardinalities().len();
    let [alone, joint, noise] = EXPECTED;
    Scales {
        length: LENGTHS[0],
        joint_length: JOINT_LENGTHS[0],
        alone: vec![alone / variables as f64; variables],
        joint,
        noise,
    }
}

/// Moves all variances towards what the values say.
fn step(scales: &mut Scales, prior: &Scales, process: &Process) {
    let moved = |variance: f64, expected: f64, evidence: Evidence| {
        let found = variance * evidence.found + PRIOR_WEIGHT * expected;
        (variance * found / (evidence.expected + PRIOR_WEIGHT)).sqrt()
    };
    let (alone, joint, noise) = process.evidence();
    for ((variance, expected), evidence) in scales.alone.iter_mut().zip(&prior.alone).zip(alone) {
        *variance = moved(*variance, *expected, evidence);
    }
    scales.joint = moved(scales.joint, prior.joint, joint);
    scales.noise = moved(scales.noise, prior.noise, noise);
}

fn log_prior(scales: &Scales, prior: &Scales) -> f64 {
    let each = |variance: f64, expected: f64| {
        let share = variance / expected;
        -0.5 * PRIOR_WEIGHT * (share.ln() + 1.0 / share)
    };
    let alone = scales.alone.iter().zip(&prior.alone);
    let alone: f64 = alone
        .map(|(variance, expected)| each(*variance, *expected))
        .sum();
    alone + each(scales.joint, prior.joint) + each(scales.noise, prior.noise)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    fn root_mean_square(values: impl Iterator<Item = f64>) -> f64 {
        let squares: Vec<f64> = values.map(|value| value * value).collect();
        (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
    }

    #[test]
    fn steps_of_the_variances_make_the_values_more_likely() {
        let space = Space::new(vec![5; 8]).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let genomes: Vec<Genome> = (0..40).map(|_| space.draw(&mut rng)).collect();
        let values = genomes.iter().map(|g| (g[0] * g[0]) as f64 + g[1] as f64);
        let values: Vec<f64> = values.collect();
        let data = Data {
            space: &space,
            genomes: &genomes,
            values: &values,
        };
        let mut last = f64::NEG_INFINITY;
        for steps in 0..6 {
            let log_posterior = data
                .climb(1.0, expected(&space), steps)
                .unwrap()
                .log_posterior;
            assert!(log_posterior >= last, "{steps}");
            last = log_posterior;
        }
    }

    #[test]
    fn it_predicts_what_it_has_not_seen_and_knows_how_well() {
        let space = Space::new(vec![5; 20]).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let draws: Vec<Genome> = (0..160).map(|_| space.draw(&mut rng)).collect();
        let loss = |genome: &Genome| -> f64 {
            let genes = genome.iter().enumerate();
            let sum: f64 = genes
                .map(|(i, g)| (1 + i % 7) as f64 / (1.0 + *g as f64))
                .sum();
            (sum / 10.0).exp()
        };
        let losses: Vec<f64> = draws.iter().map(loss).collect();
        let (seen, unseen) = draws.split_at(120);
        let model = Model::fit(&space, seen, &losses[..120]).unwrap();
        let warped: Vec<f64> = losses[..120].iter().map(|loss| model.see(*loss)).collect();
        let process = model.process(&space, seen, &warped).unwrap();
        let predictions = process.predict(unseen);
        let truth: Vec<f64> = losses[120..].iter().map(|loss| model.see(*loss)).collect();
        let wrong = || predictions.iter().zip(&truth).map(|(p, t)| p.mean - t);
        assert!(
            root_mean_square(wrong()) < 0.3,
            "{}",
            root_mean_square(wrong())
        );
        let in_deviations = wrong()
            .zip(&predictions)
            .map(|(wrong, p)| wrong / p.deviation);
        let spread = root_mean_square(in_deviations);
        assert!((0.5..2.0).contains(&spread), "{spread}");
        // There is no noise, and so nothing to be smoothed.
        let smoothed = process.smoothed(&warped);
        let moved = smoothed.iter().zip(&warped).map(|(s, w)| s - w);
        assert!(root_mean_square(moved) < 0.05);
        let again = process.predict(&seen[..1]);
        assert!((again[0].mean - smoothed[0]).abs() < 1e-6);
    }

    #[test]
    fn noise_is_told_from_what_genomes_do() {
        let space = Space::new(vec![5; 4]).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let genomes: Vec<Genome> = (0..120).map(|_| space.draw(&mut rng)).collect();
        let truth: Vec<f64> = genomes
            .iter()
            .map(|g| g.iter().sum::<usize>() as f64)
            .collect();
        let noisy = truth.iter().map(|value| {
            let normal: f64 = StandardNormal.sample(&mut rng);
            value + normal
        });
        let noisy: Vec<f64> = noisy.collect();
        let model = Model::fit(&space, &genomes, &noisy).unwrap();
        let warped: Vec<f64> = noisy.iter().map(|value| model.see(*value)).collect();
        let process = model.process(&space, &genomes, &warped).unwrap();
        let smoothed = process.smoothed(&warped);
        let truth: Vec<f64> = truth.iter().map(|value| model.see(*value)).collect();
        let before = root_mean_square(warped.iter().zip(&truth).map(|(a, b)| a - b));
        let after = root_mean_square(smoothed.iter().zip(&truth).map(|(a, b)| a - b));
        assert!(after < 0.5 * before, "{after} {before}");
    }

    #[test]
    fn equal_values_make_no_model() {
        let space = Space::new(vec![3]).unwrap();
        assert!(Model::fit(&space, &[vec![0], vec![1]], &[2.0, 2.0]).is_none());
    }
}
