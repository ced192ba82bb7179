//! Through the LM head and the final norm, a few rows of logits at a time.

use pulp::Arch;
use rayon::prelude::*;

use super::norm::rms_norm_backward;
use super::sink::GradientSink;
use crate::cut::Subnet;
use crate::engine::attention::log_sum_exp;
use crate::engine::elementwise::exp;
use crate::engine::head::{ROWS, final_norm, logits_into};
use crate::engine::matmul::{Threads, Window, Write, matmul};
use crate::network::{Distillation, HeadLoss};
use crate::parameters::Role;
use crate::supernet::window;

/// The summed loss of some tokens, and the gradient of `weight` times that by the residual stream
/// after the last layer, `[tokens, hidden]`; `sink` is told that of the final norm's gain.
///
/// `x` is that stream, `targets` holds the token after each of them. Without a teacher and its answer
/// the loss is the next token's.
pub(crate) fn loss_backward(
    subnet: &Subnet<'_>,
    x: &[f32],
    targets: &[u32],
    distillation: Option<(&Subnet<'_>, Distillation<'_>)>,
    weight: f32,
    sink: &mut dyn GradientSink,
) -> (HeadLoss, Vec<f32>) {
    let model = subnet.supernet().model();
    let (hidden, vocab) = (model.hidden_size, model.vocab_size);
    let head = window(subnet.ends().lm_head());
    let normed = final_norm(subnet, x);
    let mut d_normed = vec![0.0; x.len()];
    let mut buffer = vec![0.0; ROWS.min(targets.len()) * vocab];
    let mut of_teacher = match distillation {
        Some(_) => buffer.clone(),
        None => Vec::new(),
    };
    let mut loss = HeadLoss::default();
    let chunks = normed.chunks(ROWS * hidden).zip(targets.chunks(ROWS));
    let chunks = chunks.zip(d_normed.chunks_mut(ROWS * hidden)).enumerate();
    for (at, ((rows, targets), d_rows)) in chunks {
        let logits = &mut buffer[..targets.len() * vocab];
        logits_into(subnet, rows, logits);
        loss += match distillation {
            Some((teacher, distillation)) => {
                let teacher_logits = &mut of_teacher[..targets.len() * vocab];
                let rows = &distillation.normed[at * ROWS * hidden..][..rows.len()];
                logits_into(teacher, rows, teacher_logits);
                let Distillation {
                    share, temperature, ..
                } = distillation;
                let mix = Mix {
                    share,
                    temperature,
                    weight,
                };
                mixed_backward(logits, teacher_logits, targets, mix)
            }
            None => cross_entropy_backward(logits, targets, weight),
        };
        let logits = Window::whole(logits, targets.len(), vocab);
        let (write, threads) = (Write::Replace, Threads::Pool);
        matmul(d_rows, hidden, logits, head, write, threads);
    }
    let mut d_x = vec![0.0; x.len()];
    let eps = model.rms_norm_eps as f32;
    let d_gain = rms_norm_backward(&mut d_x, x, subnet.final_gain(), eps, &d_normed);
    sink.vector(Role::FinalNorm, &d_gain);
    (loss, d_x)
}

/// Replaces `logits [tokens, vocab]` by the gradient of `weight` times the summed loss,
/// `weight (softmax - one_hot(target))`, and returns the sum.
fn cross_entropy_backward(logits: &mut [f32], targets: &[u32], weight: f32) -> HeadLoss {
    let arch = Arch::new();
    let vocab = logits.len() / targets.len().max(1);
    let rows = logits.par_chunks_exact_mut(vocab).zip(targets);
    let losses: Vec<f32> = rows
        .map(|(row, target)| {
            arch.dispatch(|| {
                let total = log_sum_exp(row);
                let loss = total - row[*target as usize];
                for v in row.iter_mut() {
                    *v = weight * exp(*v - total);
                }
                row[*target as usize] -= weight;
                loss
            })
        })
        .collect();
    let loss = losses.iter().map(|loss| f64::from(*loss)).sum();
    HeadLoss {
        loss,
        next_token: loss,
    }
}

/// How divergence and next token make one loss.
#[derive(Clone, Copy)]
struct Mix {
    share: f32,
    temperature: f32,
    weight: f32,
}

/// Replaces `logits [tokens, vocab]` by the gradient of `weight` times the summed loss
/// `share T^2 KL(softmax(teacher / T) || softmax(logits / T)) + (1 - share) next token`, and returns
/// the sum. `teacher` is changed too.
fn mixed_backward(logits: &mut [f32], teacher: &mut [f32], targets: &[u32], mix: Mix) -> HeadLoss {
    let arch = Arch::new();
    let vocab = logits.len() / targets.len().max(1);
    let rows = logits
        .par_chunks_exact_mut(vocab)
        .zip(teacher.par_chunks_exact_mut(vocab))
        .zip(targets);
    let losses: Vec<[f64; 2]> = rows
        .map(|((row, teacher), target)| {
            arch.dispatch(|| mixed_row(row, teacher, *target as usize, mix))
        })
        .collect();
    let share = f64::from(mix.share);
    let mut sum = HeadLoss::default();
    for [divergence, next_token] in losses {
        sum += HeadLoss {
            loss: share * divergence + (1.0 - share) * next_token,
            next_token,
        };
    }
    sum
}

/// Of one token: `T^2 KL`, and the loss of the next token.
#[inline(always)]
fn mixed_row(row: &mut [f32], teacher: &mut [f32], target: usize, mix: Mix) -> [f64; 2] {
    let Mix {
        share,
        temperature,
        weight,
    } = mix;
    let plain_total = log_sum_exp(row);
    let next_token = f64::from(plain_total) - f64::from(row[target]);
    let cool = 1.0 / temperature;
    let mut total = plain_total;
    if temperature != 1.0 {
        teacher.iter_mut().for_each(|v| *v *= cool);
        let mut cooled = row.to_vec();
        cooled.iter_mut().for_each(|v| *v *= cool);
        total = log_sum_exp(&cooled);
    }
    let teacher_total = log_sum_exp(teacher);
    // The gradient by cooled logits is `softmax - softmax(teacher)`, that by logits `1 / T` of it.
    let (of_divergence, of_target) = (weight * share * temperature, weight * (1.0 - share));
    let mut partial = [0.0f32; 16];
    let one = |partial: &mut f32, v: &mut f32, t: f32| {
        let p = exp(t - teacher_total);
        let s = *v * cool;
        *partial += p * (t - s);
        let mut d = of_divergence * (exp(s - total) - p);
        if of_target != 0.0 {
            d += of_target * exp(*v - plain_total);
        }
        *v = d;
    };
    let whole = row.len() / 16 * 16;
    let (blocks, rest) = row.split_at_mut(whole);
    for (row, teacher) in blocks.chunks_exact_mut(16).zip(teacher.chunks_exact(16)) {
        for ((partial, v), t) in partial.iter_mut().zip(row).zip(teacher) {
            one(partial, v, *t);
        }
    }
    for (v, t) in rest.iter_mut().zip(&teacher[whole..]) {
        one(&mut partial[0], v, *t);
    }
    row[target] -= of_target;
    let mean_difference: f64 = partial.iter().map(|part| f64::from(*part)).sum();
    let divergence = mean_difference - f64::from(teacher_total) + f64::from(total);
    let square = f64::from(temperature) * f64::from(temperature);
    [square * divergence, next_token]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    fn log_softmax(row: &[f64], temperature: f64) -> Vec<f64> {
        let total: f64 = row.iter().map(|v| (v / temperature).exp()).sum();
        row.iter().map(|v| v / temperature - total.ln()).collect()
    }

    #[test]
    fn gradients_are_those_of_the_definition() {
        for (tokens, vocab) in [(1, 1), (3, 5), (4, 17)] {
            let mut logits = random(tokens * vocab, 1);
            let targets: Vec<u32> = (0..tokens).map(|t| (t * 3 % vocab) as u32).collect();
            let losses = |logits: &[f64]| -> Vec<f64> {
                let rows = logits.chunks_exact(vocab).zip(&targets);
                rows.map(|(row, target)| -log_softmax(row, 1.0)[*target as usize])
                    .collect()
            };
            let before = to_f64(&logits);
            let loss = cross_entropy_backward(&mut logits, &targets, 0.5).loss;
            assert!((loss - losses(&before).iter().sum::<f64>()).abs() < 1e-5);
            let want = numeric_gradient(&before, &vec![0.5; tokens], losses);
            assert_close(&logits, &want);
        }
    }

    #[test]
    fn gradients_of_a_distillation_are_those_of_the_definition() {
        for (tokens, vocab, share, temperature) in [
            (1, 1, 1.0, 1.0),
            (3, 5, 1.0, 1.0),
            (4, 17, 0.25, 1.0),
            (3, 33, 0.75, 2.5),
            (2, 40, 1.0, 0.5),
            (2, 40, 0.0, 1.0),
        ] {
            let mut logits = random(tokens * vocab, 1);
            let mut teacher = random(tokens * vocab, 2);
            teacher.iter_mut().for_each(|v| *v *= 3.0);
            let targets: Vec<u32> = (0..tokens).map(|t| (t * 3 % vocab) as u32).collect();
            let of_teacher = to_f64(&teacher);
            let losses = |logits: &[f64]| -> Vec<f64> {
                let rows = logits.chunks_exact(vocab);
                let rows = rows.zip(of_teacher.chunks_exact(vocab)).zip(&targets);
                let loss = |((row, teacher), target): ((&[f64], &[f64]), &u32)| {
                    let temperature = f64::from(temperature);
                    let q = log_softmax(row, temperature);
                    let p = log_softmax(teacher, temperature);
                    let terms = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
                    let divergence = temperature.powi(2) * terms.sum::<f64>();
                    let next_token = -log_softmax(row, 1.0)[*target as usize];
                    let share = f64::from(share);
                    share * divergence + (1.0 - share) * next_token
                };
                rows.map(loss).collect()
            };
            let before = to_f64(&logits);
            let mix = Mix {
                share,
                temperature,
                weight: 0.5,
            };
            let loss = mixed_backward(&mut logits, &mut teacher, &targets, mix);
            let want: f64 = losses(&before).iter().sum();
            assert!((loss.loss - want).abs() < 1e-5, "{} {want}", loss.loss);
            let want = numeric_gradient(&before, &vec![0.5; tokens], losses);
            assert_close(&logits, &want);
        }
    }
}
