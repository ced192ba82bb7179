//! The final norm and the LM head. All logits of a batch never exist at once: losses take a slice
//! of the vocabulary at a time and remember the sum of exponentials so far, so that the head's
//! matrix is read once for all tokens and logits stay in the cache.

use std::borrow::Cow;

use lathe_arch::Precision;
use pulp::Arch;
use rayon::prelude::*;

use super::attention::log_sum_exp;
use super::elementwise::{exp, rms_norm};
use super::forward::round;
use super::matmul::{Threads, Window, Write, matmul_transposed};
use crate::cut::Subnet;
use crate::network::Score;
use crate::supernet::window;

/// Rows of whole logits that exist at once: 128 x 49152 x 4 bytes = 25 MB for the default model.
pub(crate) const ROWS: usize = 128;
/// Tokens of the vocabulary in a slice: 1024 x 2048 rows x 4 bytes = 8 MB.
const SLICE: usize = 1024;

/// The final norm of every row of `x [tokens, hidden]`.
pub(crate) fn final_norm(subnet: &Subnet<'_>, x: &[f32]) -> Vec<f32> {
    let mut normed = vec![0.0; x.len()];
    let eps = subnet.supernet().model().rms_norm_eps as f32;
    rms_norm(&mut normed, x, subnet.final_gain(), eps);
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
    let normed = rounded(subnet, normed);
    slice_into(
        subnet,
        &normed,
        0,
        subnet.supernet().model().vocab_size,
        out,
    );
}

/// What the head's product takes in.
fn rounded<'a>(subnet: &Subnet<'_>, normed: &'a [f32]) -> Cow<'a, [f32]> {
    let hidden = subnet.supernet().model().hidden_size;
    let precision = subnet.config().head_precision.of_ends();
    let mut normed = Cow::Borrowed(normed);
    if precision != Precision::F32 {
        round(normed.to_mut(), hidden, precision);
    }
    normed
}

/// Logits of `count` tokens of the vocabulary from `first` on, `[rows, count]`.
fn slice_into(subnet: &Subnet<'_>, rounded: &[f32], first: usize, count: usize, out: &mut [f32]) {
    let hidden = subnet.supernet().model().hidden_size;
    matmul_transposed(
        out,
        count,
        Window::whole(rounded, rounded.len() / hidden, hidden),
        window(subnet.ends().lm_head()).rows(first, count),
        1.0,
        Write::Replace,
        Threads::Pool,
    );
}

/// Calls `each` with every slice of the vocabulary: its first token, and how many it has.
fn slices(subnet: &Subnet<'_>, mut each: impl FnMut(usize, usize)) {
    let vocab = subnet.supernet().model().vocab_size;
    for first in (0..vocab).step_by(SLICE) {
        each(first, SLICE.min(vocab - first));
    }
}

/// Negative log-likelihood of each target, in nats.
pub(crate) fn negative_log_likelihood(
    subnet: &Subnet<'_>,
    normed: &[f32],
    targets: &[u32],
) -> Vec<f32> {
    let arch = Arch::new();
    let normed = rounded(subnet, normed);
    let mut buffer = vec![0.0; targets.len() * SLICE];
    // Of each row, the logarithm of the sum of exponentials so far, and the target's logit.
    let mut rows = vec![(f64::NEG_INFINITY, 0.0f32); targets.len()];
    slices(subnet, |first, count| {
        let logits = &mut buffer[..targets.len() * count];
        slice_into(subnet, &normed, first, count, logits);
        let each = logits.par_chunks_exact(count).zip(targets).zip(&mut rows);
        each.for_each(|((logits, target), (total, of_target))| {
            let of_slice = arch.dispatch(|| log_sum_exp(logits));
            *total = log_add_exp(*total, f64::from(of_slice));
            let target = (*target as usize).wrapping_sub(first);
            *of_target = logits.get(target).copied().unwrap_or(*of_target);
        });
    });
    let losses = rows.into_iter();
    losses
        .map(|(total, of_target)| (total - f64::from(of_target)) as f32)
        .collect()
}

/// `log(exp(a) + exp(b))`
fn log_add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

/// What the slices so far say of one row.
#[derive(Clone, Copy)]
struct Divergence {
    teacher_total: f64,
    student_total: f64,
    /// Mean of teacher's logit less student's, under the teacher's distribution over them.
    difference: f64,
}

impl Divergence {
    const NONE: Self = Self {
        teacher_total: f64::NEG_INFINITY,
        student_total: f64::NEG_INFINITY,
        difference: 0.0,
    };

    fn add(&mut self, slice: Self) {
        let teacher_total = log_add_exp(self.teacher_total, slice.teacher_total);
        let share = |part: Self| (part.teacher_total - teacher_total).exp() * part.difference;
        self.difference = share(*self) + share(slice);
        self.teacher_total = teacher_total;
        self.student_total = log_add_exp(self.student_total, slice.student_total);
    }

    /// Rounding can leave a tiny negative number where the two rows are equal. NaN stays NaN: a
    /// broken network is not one without divergence.
    fn nats(&self) -> f32 {
        let nats = self.difference - self.teacher_total + self.student_total;
        if nats < 0.0 { 0.0 } else { nats as f32 }
    }
}

/// Divergence from the teacher and loss at each position, from one pass over the logits of both.
/// Both inputs passed their final norm.
pub(crate) fn divergence_and_loss(
    [teacher_net, subnet]: [&Subnet<'_>; 2],
    [teacher_normed, student_normed]: [&[f32]; 2],
    targets: &[u32],
) -> Vec<Score> {
    let arch = Arch::new();
    let positions = targets.len();
    let teacher_normed = rounded(teacher_net, teacher_normed);
    let student_normed = rounded(subnet, student_normed);
    let mut teacher = vec![0.0; positions * SLICE];
    let mut student = teacher.clone();
    let mut rows = vec![(Divergence::NONE, 0.0f32); positions];
    slices(subnet, |first, count| {
        let teacher = &mut teacher[..positions * count];
        let student = &mut student[..positions * count];
        slice_into(teacher_net, &teacher_normed, first, count, teacher);
        slice_into(subnet, &student_normed, first, count, student);
        let both = teacher
            .par_chunks_exact(count)
            .zip(student.par_chunks_exact(count));
        let each = both.zip(targets).zip(&mut rows);
        each.for_each(|(((teacher, student), target), (row, of_target))| {
            row.add(arch.dispatch(|| slice_divergence(teacher, student)));
            let target = (*target as usize).wrapping_sub(first);
            *of_target = student.get(target).copied().unwrap_or(*of_target);
        });
    });
    let score = |(row, of_target): (Divergence, f32)| Score {
        kl_divergence: row.nats(),
        negative_log_likelihood: (row.student_total - f64::from(of_target)) as f32,
    };
    rows.into_iter().map(score).collect()
}

#[inline(always)]
fn slice_divergence(teacher: &[f32], student: &[f32]) -> Divergence {
    let (teacher_total, student_total) = (log_sum_exp(teacher), log_sum_exp(student));
    let mut partial = [0.0f32; 16];
    let term = |t: f32, s: f32| exp(t - teacher_total) * (t - s);
    let chunks = teacher.chunks_exact(16).zip(student.chunks_exact(16));
    for (t, s) in chunks {
        for ((partial, t), s) in partial.iter_mut().zip(t).zip(s) {
            *partial += term(*t, *s);
        }
    }
    let rest = teacher.len() / 16 * 16;
    let tail = teacher[rest..].iter().zip(&student[rest..]);
    let tail: f32 = tail.map(|(t, s)| term(*t, *s)).sum();
    Divergence {
        teacher_total: f64::from(teacher_total),
        student_total: f64::from(student_total),
        difference: f64::from(partial.iter().sum::<f32>() + tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_add_up_to_the_definition() {
        let logit =
            |i: usize, seed: usize| ((i * seed) % 101) as f32 / 9.0 - 40.0 * (i / 90) as f32;
        let teacher: Vec<f32> = (0..200).map(|i| logit(i, 37)).collect();
        let student: Vec<f32> = (0..200).map(|i| logit(i, 53)).collect();
        let mut found = Divergence::NONE;
        for part in [0..70, 70..71, 71..200] {
            found.add(slice_divergence(&teacher[part.clone()], &student[part]));
        }
        let total = |row: &[f32]| row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
        let (t, s) = (total(&teacher), total(&student));
        let want: f64 = teacher
            .iter()
            .zip(&student)
            .map(|(a, b)| (f64::from(*a) - t, f64::from(*b) - s))
            .map(|(a, b)| a.exp() * (a - b))
            .sum();
        assert!((f64::from(found.nats()) - want).abs() < 1e-5 * want.max(1.0));
        assert!((found.teacher_total - t).abs() < 1e-5 && (found.student_total - s).abs() < 1e-5);
        let mut same = Divergence::NONE;
        same.add(slice_divergence(&teacher, &teacher));
        assert_eq!(same.nats(), 0.0);
        let mut broken = Divergence::NONE;
        broken.add(slice_divergence(&teacher, &[f32::NAN; 200]));
        broken.add(slice_divergence(&teacher, &student));
        assert!(broken.nats().is_nan());
    }
}
