//! The final norm and the LM head, a few rows of logits at a time.

use std::borrow::Cow;

use lathe_arch::Precision;
use pulp::Arch;
use rayon::prelude::*;

use super::attention::log_sum_exp;
use super::elementwise::{exp, rms_norm};
use super::forward::round;
use super::matmul::{Threads, Window, Write, matmul_transposed};
use crate::cut::Subnet;
use crate::supernet::window;

/// Rows of logits that exist at once: 128 x 49152 x 4 bytes = 25 MB for the default model.
pub(crate) const ROWS: usize = 128;

/// The final norm of every row of `x [tokens, hidden]`.
pub(crate) fn final_norm(subnet: &Subnet<'_>, x: &[f32]) -> Vec<f32> {
    let supernet = subnet.supernet();
    let mut normed = vec![0.0; x.len()];
    let eps = supernet.model().rms_norm_eps as f32;
    rms_norm(&mut normed, x, supernet.final_norm(), eps);
    normed
}

/// Logits of rows that already passed the final norm, `[rows, vocab]`.
pub(crate) fn logits(subnet: &Subnet<'_>, normed: &[f32]) -> Vec<f32> {
    let model = subnet.supernet().model();
    let rows = normed.len() / model.hidden_size;
    let mut out = vec![0.0; rows * model.vocab_size];
    logits_into(subnet, normed, &mut out);
    out
}

pub(crate) fn logits_into(subnet: &Subnet<'_>, normed: &[f32], out: &mut [f32]) {
    let model = subnet.supernet().model();
    let rows = normed.len() / model.hidden_size;
    let precision = subnet.config().head_precision;
    let mut normed = Cow::Borrowed(normed);
    if precision != Precision::F32 {
        round(normed.to_mut(), model.hidden_size, precision);
    }
    matmul_transposed(
        out,
        model.vocab_size,
        Window::whole(&normed, rows, model.hidden_size),
        window(subnet.ends().lm_head()),
        1.0,
        Write::Replace,
        Threads::Pool,
    );
}

/// Negative log-likelihood of each target, in nats.
pub(crate) fn negative_log_likelihood(
    subnet: &Subnet<'_>,
    normed: &[f32],
    targets: &[u32],
) -> Vec<f32> {
    let model = subnet.supernet().model();
    let (hidden, vocab) = (model.hidden_size, model.vocab_size);
    let arch = Arch::new();
    let mut buffer = vec![0.0; ROWS.min(targets.len()) * vocab];
    let mut losses = Vec::with_capacity(targets.len());
    for (rows, targets) in normed.chunks(ROWS * hidden).zip(targets.chunks(ROWS)) {
        let logits = &mut buffer[..targets.len() * vocab];
        logits_into(subnet, rows, logits);
        losses.par_extend(
            logits
                .par_chunks_exact(vocab)
                .zip(targets)
                .map(|(row, target)| arch.dispatch(|| log_sum_exp(row)) - row[*target as usize]),
        );
    }
    losses
}

/// `KL(teacher || student)` at each position, in nats. Both inputs passed their final norm.
pub(crate) fn kl_divergence(
    teacher_net: &Subnet<'_>,
    subnet: &Subnet<'_>,
    teacher_normed: &[f32],
    student_normed: &[f32],
) -> Vec<f32> {
    let model = subnet.supernet().model();
    let (hidden, vocab) = (model.hidden_size, model.vocab_size);
    let arch = Arch::new();
    let positions = student_normed.len() / hidden;
    let mut teacher = vec![0.0; ROWS.min(positions) * vocab];
    let mut student = teacher.clone();
    let mut divergences = Vec::with_capacity(positions);
    let chunks = teacher_normed.chunks(ROWS * hidden);
    for (teacher_rows, student_rows) in chunks.zip(student_normed.chunks(ROWS * hidden)) {
        let numbers = teacher_rows.len() / hidden * vocab;
        logits_into(teacher_net, teacher_rows, &mut teacher[..numbers]);
        logits_into(subnet, student_rows, &mut student[..numbers]);
        let rows = teacher[..numbers].par_chunks_exact(vocab);
        let rows = rows.zip(student[..numbers].par_chunks_exact(vocab));
        divergences.par_extend(rows.map(|(t, s)| arch.dispatch(|| row_divergence(t, s))));
    }
    divergences
}

#[inline(always)]
fn row_divergence(teacher: &[f32], student: &[f32]) -> f32 {
    let (teacher_total, student_total) = (log_sum_exp(teacher), log_sum_exp(student));
    let mut partial = [0.0f32; 16];
    let term = |t: f32, s: f32| {
        let log_p = t - teacher_total;
        exp(log_p) * (log_p - (s - student_total))
    };
    let chunks = teacher.chunks_exact(16).zip(student.chunks_exact(16));
    for (t, s) in chunks {
        for ((partial, t), s) in partial.iter_mut().zip(t).zip(s) {
            *partial += term(*t, *s);
        }
    }
    let rest = teacher.len() / 16 * 16;
    let tail = teacher[rest..].iter().zip(&student[rest..]);
    let tail: f32 = tail.map(|(t, s)| term(*t, *s)).sum();
    // Rounding can leave a tiny negative number where the two rows are equal.
    (partial.iter().sum::<f32>() + tail).max(0.0)
}
