//! The LM head and losses, some rows at a time: all logits of a batch never exist at once.

use candle_core::{D, DType, Result, Tensor};
use lathe_arch::Precision;
use lathe_supernet::{HeadLoss, Lesson, Score};

use crate::product::matmul;
use crate::rounding::rounded;

/// Rows whose logits exist at once: 256 x 128256 x 4 bytes = 131 MB of Llama 3.
const ROWS: usize = 256;

/// A network's LM head.
#[derive(Clone, Copy)]
pub struct Head<'h> {
    /// `[vocab, hidden]`
    pub matrix: &'h Tensor,
    pub precision: Precision,
    pub dtype: DType,
}

impl Head<'_> {
    /// `[rows, vocab]`
    fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        let rows = rounded(normed, self.precision)?;
        matmul(&rows, &self.matrix.t()?, self.dtype)
    }

    /// Negative log-likelihood of each target, of hidden states after the final norm `[rows, hidden]`.
    pub fn losses(&self, normed: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let mut losses = Vec::with_capacity(targets.len());
        for (at, targets) in chunks(targets) {
            let logits = self.logits(&normed.narrow(0, at, targets.len())?)?;
            losses.extend(next_token(&log_softmax(&logits)?, targets)?);
        }
        Ok(losses)
    }

    /// The same, and the divergence from what `teacher` says of its own hidden states.
    pub fn scores(
        &self,
        normed: &Tensor,
        (teacher, of_teacher): (Head<'_>, &Tensor),
        targets: &[u32],
    ) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(targets.len());
        for (at, targets) in chunks(targets) {
            let rows = |normed: &Tensor| normed.narrow(0, at, targets.len());
            let p = log_softmax(&teacher.logits(&rows(of_teacher)?)?)?;
            let q = log_softmax(&self.logits(&rows(normed)?)?)?;
            let divergences = divergence(&p, &q)?;
            let both = divergences.into_iter().zip(next_token(&q, targets)?);
            scores.extend(both.map(|(kl_divergence, negative_log_likelihood)| Score {
                kl_divergence,
                negative_log_likelihood,
            }));
        }
        Ok(scores)
    }

    /// A lesson's summed loss, and the gradient of its weight times that by the hidden states after the
    /// final norm, `[rows, hidden]` as they are. `of_teacher` is the teacher's head and its hidden
    /// states, where there is a distillation.
    pub fn lesson(
        &self,
        normed: &Tensor,
        of_teacher: Option<(Head<'_>, &Tensor)>,
        lesson: &Lesson<'_>,
    ) -> Result<(HeadLoss, Tensor)> {
        let mut loss = HeadLoss::default();
        let mut gradients = Vec::new();
        for (at, targets) in chunks(lesson.targets) {
            let rows = |normed: &Tensor| normed.narrow(0, at, targets.len());
            let logits = self.logits(&rows(normed)?)?;
            let log_q = log_softmax(&logits)?;
            let next_token = sum(&next_token(&log_q, targets)?);
            // Of the next token: softmax - one_hot(target).
            let one_hot = one_hot(&log_q, targets)?;
            let mut d = (log_q.exp()? - one_hot)?;
            let mut of_rows = next_token;
            if let (Some((teacher, of_teacher)), Some(answer)) = (of_teacher, lesson.distillation) {
                let (share, temperature) = (f64::from(answer.share), f64::from(answer.temperature));
                let of_teacher = teacher.logits(&rows(of_teacher)?)?;
                let p = log_softmax(&(of_teacher / temperature)?)?;
                let q = log_softmax(&(logits / temperature)?)?;
                let divergence = temperature.powi(2) * sum(&divergence(&p, &q)?);
                of_rows = share * divergence + (1.0 - share) * next_token;
                let of_divergence = ((q.exp()? - p.exp()?)? * (share * temperature))?;
                d = ((d * (1.0 - share))? + of_divergence)?;
            }
            loss += HeadLoss {
                loss: of_rows,
                next_token,
            };
            let d = (d * f64::from(lesson.weight))?;
            gradients.push(matmul(&d, self.matrix, self.dtype)?);
        }
        Ok((loss, Tensor::cat(&gradients, 0)?))
    }
}

/// Some targets at a time, and the row of the first.
fn chunks(targets: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    let chunks = targets.chunks(ROWS).enumerate();
    chunks.map(|(index, targets)| (index * ROWS, targets))
}

fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let largest = logits.max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&largest)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&total)
}

/// `KL(p || q)` of each row, of logarithms.
fn divergence(p: &Tensor, q: &Tensor) -> Result<Vec<f32>> {
    (p.exp()? * (p - q)?)?.sum(D::Minus1)?.to_vec1()
}

fn next_token(log_q: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let of_targets = log_q.gather(&indices(log_q, targets)?, D::Minus1)?;
    of_targets.squeeze(D::Minus1)?.neg()?.to_vec1()
}

fn one_hot(like: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let indices = indices(like, targets)?;
    let ones = Tensor::ones(indices.shape(), DType::F32, like.device())?;
    like.zeros_like()?.scatter_add(&indices, &ones, D::Minus1)
}

/// `[rows, 1]`
fn indices(like: &Tensor, targets: &[u32]) -> Result<Tensor> {
    Tensor::from_slice(targets, (targets.len(), 1), like.device())
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}
