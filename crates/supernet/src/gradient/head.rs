//! Through the LM head and the final norm, a few rows of logits at a time.

use pulp::Arch;
use rayon::prelude::*;

use super::norm::rms_norm_backward;
use crate::cut::Subnet;
use crate::engine::attention::log_sum_exp;
use crate::engine::elementwise::exp;
use crate::engine::head::{ROWS, final_norm, logits_into};
use crate::engine::matmul::{Threads, Window, Write, matmul};
use crate::supernet::window;

/// The summed loss of some tokens in nats, and the gradient of `weight` times that by the
/// residual stream after the last layer, `[tokens, hidden]`.
///
/// `x` is that stream, `targets` holds the token after each of them.
pub(super) fn loss_backward(
    subnet: &Subnet<'_>,
    x: &[f32],
    targets: &[u32],
    weight: f32,
) -> (f64, Vec<f32>) {
    let model = subnet.supernet().model();
    let (hidden, vocab) = (model.hidden_size, model.vocab_size);
    let head = window(subnet.ends().lm_head());
    let normed = final_norm(subnet, x);
    let mut d_normed = vec![0.0; x.len()];
    let mut buffer = vec![0.0; ROWS.min(targets.len()) * vocab];
    let mut loss = 0.0;
    let chunks = normed.chunks(ROWS * hidden).zip(targets.chunks(ROWS));
    for ((rows, targets), d_rows) in chunks.zip(d_normed.chunks_mut(ROWS * hidden)) {
        let logits = &mut buffer[..targets.len() * vocab];
        logits_into(subnet, rows, logits);
        loss += cross_entropy_backward(logits, targets, weight);
        let logits = Window::whole(logits, targets.len(), vocab);
        let (write, threads) = (Write::Replace, Threads::Pool);
        matmul(d_rows, hidden, logits, head, write, threads);
    }
    let mut d_x = vec![0.0; x.len()];
    let eps = model.rms_norm_eps as f32;
    rms_norm_backward(&mut d_x, x, subnet.supernet().final_norm(), eps, &d_normed);
    (loss, d_x)
}

/// Replaces `logits [tokens, vocab]` by the gradient of `weight` times the summed loss,
/// `weight (softmax - one_hot(target))`, and returns the sum.
fn cross_entropy_backward(logits: &mut [f32], targets: &[u32], weight: f32) -> f64 {
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
    losses.iter().map(|loss| f64::from(*loss)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    #[test]
    fn gradients_are_those_of_the_definition() {
        for (tokens, vocab) in [(1, 1), (3, 5), (4, 17)] {
            let mut logits = random(tokens * vocab, 1);
            let targets: Vec<u32> = (0..tokens).map(|t| (t * 3 % vocab) as u32).collect();
            let losses = |logits: &[f64]| -> Vec<f64> {
                let rows = logits.chunks_exact(vocab).zip(&targets);
                let loss = |(row, target): (&[f64], &u32)| {
                    let total: f64 = row.iter().map(|v| v.exp()).sum();
                    total.ln() - row[*target as usize]
                };
                rows.map(loss).collect()
            };
            let before = to_f64(&logits);
            let loss = cross_entropy_backward(&mut logits, &targets, 0.5);
            assert!((loss - losses(&before).iter().sum::<f64>()).abs() < 1e-5);
            let want = numeric_gradient(&before, &vec![0.5; tokens], losses);
            assert_close(&logits, &want);
        }
    }
}
