//! Through causal grouped-query attention.
//!
//! With `P = softmax(scale Q K^T)` and `O = P V`, row by row: `dV = P^T dO`, `dP = dO V^T`,
//! `dS = P (dP - sum(P dP))`, `dQ = scale dS K`, `dK = scale dS^T Q`. Probabilities are made anew,
//! a tile of queries at a time, so that no sequence's scores exist at once (as in
//! FlashAttention, 2205.14135).

use pulp::Arch;
use rayon::prelude::*;

use crate::engine::attention::{AttentionShape, TILE, by_token, causal_probabilities};
use crate::engine::elementwise::sum;
use crate::engine::matmul::{
    Threads, Window, Write, add_transposed_matmul, matmul, matmul_transposed,
};

/// Gradients of queries `[tokens, heads * head_dim]`, keys and values
/// `[tokens, kv_heads * head_dim]`, after rotation.
pub(super) struct AttentionInputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The gradients of the inputs of `causal_attention`, given them and that of its output,
/// `[tokens, heads * head_dim]`.
pub(super) fn causal_attention_backward(
    inputs: &AttentionInputs,
    d_mixed: &[f32],
    shape: AttentionShape,
) -> AttentionInputs {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        seq_len,
        ..
    } = shape;
    let sequences = d_mixed.len() / (seq_len * heads * head_dim);
    // One task a KV group: its keys and values have gradients from all its query heads.
    let groups: Vec<Group> = (0..sequences * kv_heads)
        .into_par_iter()
        .map(|task| {
            let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
            let of_kv = |matrix| head(matrix, sequence, kv_head, kv_heads, shape);
            let mut group = Group::new(of_kv(&inputs.k), of_kv(&inputs.v));
            let per_group = heads / kv_heads;
            for query_head in kv_head * per_group..(kv_head + 1) * per_group {
                let of_query = |matrix| head(matrix, sequence, query_head, heads, shape);
                group.add_head(of_query(&inputs.q), of_query(d_mixed), shape);
            }
            group
        })
        .collect();
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        q.extend(group.d_q);
        k.push(group.d_k);
        v.push(group.d_v);
    }
    AttentionInputs {
        q: by_token(&q, heads, head_dim, seq_len),
        k: by_token(&k, kv_heads, head_dim, seq_len),
        v: by_token(&v, kv_heads, head_dim, seq_len),
    }
}

/// One head of one sequence in `matrix [tokens, heads * head_dim]`.
fn head(
    matrix: &[f32],
    sequence: usize,
    head: usize,
    heads: usize,
    shape: AttentionShape,
) -> Window<'_> {
    let (width, tokens) = (heads * shape.head_dim, shape.seq_len);
    let rows = &matrix[sequence * tokens * width..][..tokens * width];
    Window::whole(rows, tokens, width).columns(head * shape.head_dim, shape.head_dim)
}

/// One KV group of one sequence, all `[seq_len, head_dim]`.
struct Group<'a> {
    keys: Window<'a>,
    values: Window<'a>,
    /// One a query head.
    d_q: Vec<Vec<f32>>,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
}

impl<'a> Group<'a> {
    fn new(keys: Window<'a>, values: Window<'a>) -> Self {
        let zeros = vec![0.0; keys.row_count() * keys.col_count()];
        Self {
            keys,
            values,
            d_q: Vec::new(),
            d_k: zeros.clone(),
            d_v: zeros,
        }
    }

    /// Adds what one query head does.
    fn add_head(&mut self, queries: Window<'_>, d_mixed: Window<'_>, shape: AttentionShape) {
        let (seq_len, head_dim) = (queries.row_count(), queries.col_count());
        let scale = shape.scale;
        let one = Threads::One;
        let arch = Arch::new();
        let mut d_q = vec![0.0; seq_len * head_dim];
        let mut probabilities = vec![0.0; TILE.min(seq_len) * seq_len];
        let mut d_scores = probabilities.clone();
        for start in (0..seq_len).step_by(TILE) {
            let rows = TILE.min(seq_len - start);
            let seen = start + rows;
            let (keys, values) = (self.keys.rows(0, seen), self.values.rows(0, seen));
            let (queries, d_mixed) = (queries.rows(start, rows), d_mixed.rows(start, rows));
            let p = &mut probabilities[..rows * seen];
            let visible = |row: usize| shape.first_seen(start + row)..start + row + 1;
            causal_probabilities(arch, p, queries, keys, scale, visible);
            let d_s = &mut d_scores[..rows * seen];
            matmul_transposed(d_s, seen, d_mixed, values, 1.0, Write::Replace, one);
            arch.dispatch(|| {
                for (d_s, p) in d_s.chunks_exact_mut(seen).zip(p.chunks_exact(seen)) {
                    softmax_backward(d_s, p, scale);
                }
            });
            let p = Window::whole(p, rows, seen);
            let d_s = Window::whole(d_s, rows, seen);
            add_transposed_matmul(&mut self.d_v, head_dim, p, d_mixed, 1.0, one);
            add_transposed_matmul(&mut self.d_k, head_dim, d_s, queries, 1.0, one);
            let d_q = &mut d_q[start * head_dim..];
            matmul(d_q, head_dim, d_s, keys, Write::Replace, one);
        }
        self.d_q.push(d_q);
    }
}

/// Replaces a row's gradient by probabilities with that by scores before they were scaled.
#[inline(always)]
fn softmax_backward(d: &mut [f32], p: &[f32], scale: f32) {
    for (d, p) in d.iter_mut().zip(p) {
        *d *= p;
    }
    let total = sum(d, |v| v);
    for (d, p) in d.iter_mut().zip(p) {
        *d = scale * (*d - p * total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::reference::{assert_close, numeric_gradient, random, to_f64};

    /// The definition, one number at a time.
    fn attention(q: &[f64], k: &[f64], v: &[f64], shape: AttentionShape) -> Vec<f64> {
        let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        let mut out = vec![0.0; q.len()];
        for (at, out) in out.chunks_exact_mut(dim).enumerate() {
            let (token, head) = (at / heads, at % heads);
            let kv = |t: usize| (t * kv_heads + head / (heads / kv_heads)) * dim;
            let start = token / shape.seq_len * shape.seq_len;
            let past = start + shape.first_seen(token - start)..=token;
            let dot = |t: usize| -> f64 { (0..dim).map(|c| q[at * dim + c] * k[kv(t) + c]).sum() };
            let weight = |t: usize| (dot(t) * f64::from(shape.scale)).exp();
            let total: f64 = past.clone().map(weight).sum();
            for (c, out) in out.iter_mut().enumerate() {
                let values = past.clone().map(|t| weight(t) / total * v[kv(t) + c]);
                *out = values.sum();
            }
        }
        out
    }

    #[test]
    fn gradients_are_those_of_the_definition() {
        for (sequences, seq_len, kv_heads, per_group, head_dim, window) in [
            (1, 1, 1, 1, 2, None),
            (2, 5, 2, 3, 4, None),
            (1, 7, 3, 1, 2, Some(3)),
            (1, 66, 1, 2, 2, None),
            (1, 66, 1, 1, 2, Some(5)),
        ] {
            let shape = AttentionShape {
                heads: kv_heads * per_group,
                kv_heads,
                head_dim,
                seq_len,
                scale: 0.6,
                window,
            };
            let tokens = sequences * seq_len;
            let inputs = AttentionInputs {
                q: random(tokens * shape.heads * head_dim, 1),
                k: random(tokens * kv_heads * head_dim, 2),
                v: random(tokens * kv_heads * head_dim, 3),
            };
            let weights = random(tokens * shape.heads * head_dim, 4);
            let got = causal_attention_backward(&inputs, &weights, shape);
            let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|values| to_f64(values));
            let by = |x: &[f64], f: &dyn Fn(&[f64]) -> Vec<f64>| numeric_gradient(x, &weights, f);
            assert_close(&got.q, &by(&q, &|q| attention(q, &k, &v, shape)));
            assert_close(&got.k, &by(&k, &|k| attention(&q, k, &v, shape)));
            assert_close(&got.v, &by(&v, &|v| attention(&q, &k, v, shape)));
        }
    }
}
