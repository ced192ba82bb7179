//! AdamW (1711.05101), and the norm of a gradient.

use pulp::Arch;
use rayon::prelude::*;

use super::trainable::Trainable;
use crate::engine::elementwise::sum;

/// Decay of the mean gradient (2005.14165).
const BETA1: f64 = 0.9;
/// Decay of the mean square.
const BETA2: f64 = 0.95;
const EPSILON: f32 = 1e-8;
/// Numbers handed to one task.
const CHUNK: usize = 1 << 14;

/// Running means of the gradient and of its square.
pub(super) struct Moments {
    pub first: Trainable,
    pub second: Trainable,
}

/// One update.
pub(super) struct Update {
    /// Counted from 0.
    pub step: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// What the gradient is multiplied by.
    pub scale: f64,
}

/// The Euclidean norm of all numbers.
pub(super) fn norm(gradient: &Trainable) -> f64 {
    let arch = Arch::new();
    let squares = gradient.values().into_iter().map(|values| {
        let parts = values.numbers.par_chunks(CHUNK);
        let parts: Vec<f32> = parts
            .map(|chunk| arch.dispatch(|| sum(chunk, |v| v * v)))
            .collect();
        // In the order of the numbers, whoever worked on them.
        parts.into_iter().map(f64::from).sum::<f64>()
    });
    squares.sum::<f64>().sqrt()
}

impl Moments {
    pub fn new(weights: &Trainable) -> Self {
        Self {
            first: weights.zeros_like(),
            second: weights.zeros_like(),
        }
    }

    /// Moves `weights` against `gradient`.
    pub fn apply(&mut self, weights: &mut Trainable, gradient: &Trainable, update: &Update) {
        let t = update.step as i32 + 1;
        let rate = update.learning_rate / (1.0 - BETA1.powi(t));
        let of_square = 1.0 / (1.0 - BETA2.powi(t)).sqrt();
        let constants = Constants {
            scale: update.scale as f32,
            rate: rate as f32,
            of_square: of_square as f32,
            keep: 1.0,
        };
        let decayed = Constants {
            keep: (1.0 - update.learning_rate * update.weight_decay) as f32,
            ..constants
        };
        let moments = self
            .first
            .values_mut()
            .into_iter()
            .zip(self.second.values_mut());
        let tensors = weights.values_mut().into_iter().zip(gradient.values());
        for ((weights, gradient), (first, second)) in tensors.zip(moments) {
            let constants = if weights.is_matrix {
                decayed
            } else {
                constants
            };
            apply(
                weights.numbers,
                gradient.numbers,
                first.numbers,
                second.numbers,
                constants,
            );
        }
    }
}

#[derive(Clone, Copy)]
struct Constants {
    scale: f32,
    /// Learning rate with the first moment's correction for its beginning at zero.
    rate: f32,
    /// The same correction of the second moment's root.
    of_square: f32,
    /// What decay leaves.
    keep: f32,
}

fn apply(w: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32], with: Constants) {
    let arch = Arch::new();
    let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
    w.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .for_each(|(((w, g), first), second)| {
            arch.dispatch(|| {
                let numbers = w.iter_mut().zip(g).zip(first.iter_mut().zip(second));
                for ((w, g), (m, v)) in numbers {
                    let g = g * with.scale;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *w = *w * with.keep - with.rate * *m / (v.sqrt() * with.of_square + EPSILON);
                }
            });
        });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ndarray::Array2;

    use super::*;
    use crate::gradient::reference::random;
    use crate::parameters::{Parameters, Role};

    fn one(values: Vec<f32>, rows: usize) -> Trainable {
        let shape = (rows, values.len() / rows);
        let tensor = Array2::from_shape_vec(shape, values).unwrap();
        Trainable::Whole(Parameters::from_tensors(BTreeMap::from([(
            Role::FinalNorm,
            tensor,
        )])))
    }

    fn numbers(trainable: &Trainable) -> Vec<f32> {
        trainable.values()[0].numbers.to_vec()
    }

    #[test]
    fn updates_are_those_of_the_paper() {
        let count = 40;
        for (rows, decay) in [(1, 0.0), (4, 0.1)] {
            let mut weights = one(random(count, 1), rows);
            let mut want: Vec<f64> = numbers(&weights).iter().map(|w| f64::from(*w)).collect();
            let (mut m, mut v) = (vec![0.0; count], vec![0.0; count]);
            let mut moments = Moments::new(&weights);
            for step in 0..5 {
                let gradient = one(random(count, 10 + step as u64), rows);
                let update = Update {
                    step,
                    learning_rate: 0.01,
                    weight_decay: 0.1,
                    scale: 0.5,
                };
                moments.apply(&mut weights, &gradient, &update);
                for (i, g) in numbers(&gradient).iter().enumerate() {
                    let g = 0.5 * f64::from(*g);
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.95 * v[i] + 0.05 * g * g;
                    let t = step as i32 + 1;
                    let (m, v): (f64, f64) = (
                        m[i] / (1.0 - 0.9f64.powi(t)),
                        v[i] / (1.0 - 0.95f64.powi(t)),
                    );
                    want[i] -= 0.01 * (m / (v.sqrt() + 1e-8) + decay * want[i]);
                }
            }
            for (got, want) in numbers(&weights).iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    #[test]
    fn the_norm_is_that_of_all_numbers() {
        let values = random(50_000, 3);
        let want: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((norm(&one(values, 2)) / want.sqrt() - 1.0).abs() < 1e-6);
    }
}
