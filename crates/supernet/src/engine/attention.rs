//! Causal grouped-query attention (2305.13245) over whole sequences and over a KV cache.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::elementwise::{exp, max, softmax, sum};
use super::matmul::{Threads, Window, Write, matmul, matmul_transposed};

/// Query rows worked on at once: the scores of a tile stay in the second-level cache.
pub(crate) const TILE: usize = 64;

/// Dimensions of one attention call.
#[derive(Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// KV heads; query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens of each sequence.
    pub seq_len: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Tokens that a token sees, itself included; `None` for all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The first token that token `last` sees.
    pub fn first_seen(&self, last: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        (last + 1).saturating_sub(window)
    }
}

/// Attention of each token over itself and the tokens before it in its sequence, or in its window.
///
/// `q` is `[sequences * seq_len, heads * head_dim]`, `k` and `v` are
/// `[sequences * seq_len, kv_heads * head_dim]`, all after rotation. Returns
/// `[sequences * seq_len, heads * head_dim]`.
pub fn causal_attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape) -> Vec<f32> {
    let AttentionShape {
        heads, head_dim, ..
    } = shape;
    let sequence = shape.seq_len * heads * head_dim;
    let kv_sequence = shape.seq_len * shape.kv_heads * head_dim;
    let sequences = q.len() / sequence;
    // One task a head: results are gathered head by head and then laid out by token.
    let by_head: Vec<Vec<f32>> = (0..sequences * heads)
        .into_par_iter()
        .map(|task| {
            let (s, head) = (task / heads, task % heads);
            let kv_head = head / (heads / shape.kv_heads);
            let of = |rows, heads: usize, head: usize| {
                Window::whole(rows, shape.seq_len, heads * head_dim)
                    .columns(head * head_dim, head_dim)
            };
            let kv = s * kv_sequence..(s + 1) * kv_sequence;
            let q = of(&q[s * sequence..][..sequence], heads, head);
            let k = of(&k[kv.clone()], shape.kv_heads, kv_head);
            let v = of(&v[kv], shape.kv_heads, kv_head);
            one_head(q, k, v, shape)
        })
        .collect();
    by_token(&by_head, heads, head_dim, shape.seq_len)
}

/// `[seq_len, head_dim]` of every head of every sequence as `[tokens, heads * head_dim]`.
pub(crate) fn by_token(
    by_head: &[Vec<f32>],
    heads: usize,
    head_dim: usize,
    seq_len: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; by_head.len() * seq_len * head_dim];
    out.par_chunks_mut(heads * head_dim)
        .enumerate()
        .for_each(|(token, row)| {
            let (s, t) = (token / seq_len, token % seq_len);
            for (head, slot) in row.chunks_exact_mut(head_dim).enumerate() {
                slot.copy_from_slice(&by_head[s * heads + head][t * head_dim..][..head_dim]);
            }
        });
    out
}

/// One head of one sequence: its last queries over all of its keys and values,
/// `[queries, head_dim]`.
pub(super) fn one_head(
    q: Window<'_>,
    k: Window<'_>,
    v: Window<'_>,
    shape: AttentionShape,
) -> Vec<f32> {
    let (queries, head_dim) = (q.row_count(), shape.head_dim);
    let past_len = k.row_count() - queries;
    let mut scores = vec![0.0; TILE.min(queries) * k.row_count()];
    let mut out = vec![0.0; queries * head_dim];
    let arch = Arch::new();
    for start in (0..queries).step_by(TILE) {
        let rows = TILE.min(queries - start);
        let at = past_len + start;
        // Keys that some row of the tile sees.
        let first = shape.first_seen(at);
        let seen = at + rows - first;
        let tile = &mut scores[..rows * seen];
        let queries = q.rows(start, rows);
        let keys = k.rows(first, seen);
        let visible = |row: usize| shape.first_seen(at + row) - first..at + row + 1 - first;
        causal_probabilities(arch, tile, queries, keys, shape.scale, visible);
        let tile = Window::whole(tile, rows, seen);
        let out = &mut out[start * head_dim..][..rows * head_dim];
        matmul(
            out,
            head_dim,
            tile,
            v.rows(first, seen),
            Write::Replace,
            Threads::One,
        );
    }
    out
}

/// Probabilities of queries over keys, `[queries, keys]`, where `visible` tells which keys a query
/// sees; the others are 0.
pub(crate) fn causal_probabilities(
    arch: Arch,
    out: &mut [f32],
    queries: Window<'_>,
    keys: Window<'_>,
    scale: f32,
    visible: impl Fn(usize) -> Range<usize>,
) {
    let count = keys.row_count();
    let (write, threads) = (Write::Replace, Threads::One);
    matmul_transposed(out, count, queries, keys, scale, write, threads);
    arch.dispatch(|| {
        for (row, scores) in out.chunks_exact_mut(count).enumerate() {
            let seen = visible(row);
            softmax(&mut scores[seen.clone()]);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
        }
    });
}

/// Attention of one new token over a cache that already holds it, or over the cache's last tokens,
/// those of its window.
///
/// `q` is `[heads, head_dim]`, `k` and `v` are `[tokens, kv_heads * head_dim]`.
/// Returns `[heads, head_dim]`.
pub fn cached_attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape) -> Vec<f32> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        ..
    } = shape;
    let kv_width = kv_heads * head_dim;
    let mut out = vec![0.0f32; heads * head_dim];
    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let q = &q[head * head_dim..][..head_dim];
        let at = head / (heads / kv_heads) * head_dim;
        let key = |row: &[f32]| -> f32 {
            row[at..][..head_dim]
                .iter()
                .zip(q)
                .map(|(k, q)| k * q)
                .sum()
        };
        let mut scores: Vec<f32> = k
            .chunks_exact(kv_width)
            .map(|row| key(row) * scale)
            .collect();
        softmax(&mut scores);
        for (score, row) in scores.iter().zip(v.chunks_exact(kv_width)) {
            for (out, v) in out.iter_mut().zip(&row[at..][..head_dim]) {
                *out += score * v;
            }
        }
    }
    out
}

/// `log(sum(exp(row)))`.
#[inline(always)]
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = max(row);
    largest + sum(row, |v| exp(v - largest)).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The definition, one number at a time.
    fn reference(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape) -> Vec<f32> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            seq_len,
            scale,
            ..
        } = shape;
        let mut out = vec![0.0; q.len()];
        for token in 0..q.len() / (heads * head_dim) {
            let first = token / seq_len * seq_len;
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let at = |matrix: &[f32], width: usize, t: usize, h: usize, c: usize| {
                    f64::from(matrix[t * width * head_dim + h * head_dim + c])
                };
                let score = |past: usize| {
                    let dot: f64 = (0..head_dim)
                        .map(|c| at(q, heads, token, head, c) * at(k, kv_heads, past, kv_head, c))
                        .sum();
                    (dot * f64::from(scale)).exp()
                };
                let seen = first + shape.first_seen(token - first);
                let weights: Vec<f64> = (seen..=token).map(score).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..head_dim {
                    let value: f64 = (seen..=token)
                        .map(|t| weights[t - seen] * at(v, kv_heads, t, kv_head, c))
                        .sum();
                    out[(token * heads + head) * head_dim + c] = (value / total) as f32;
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn both_forms_equal_the_definition(
            kv_heads in 1usize..4,
            per_group in 1usize..4,
            half in 1usize..9,
            seq_len in prop::sample::select(vec![1usize, 2, 63, 64, 65, 130]),
            sequences in 1usize..3,
            window in prop::sample::select(vec![None, Some(1usize), Some(5), Some(64), Some(100)]),
        ) {
            let shape = AttentionShape {
                heads: kv_heads * per_group,
                kv_heads,
                head_dim: 2 * half,
                seq_len,
                scale: 0.3,
                window,
            };
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut random = |width: usize| -> Vec<f32> {
                (0..sequences * seq_len * width * 2 * half)
                    .map(|_| rng.random_range(-2.0..2.0))
                    .collect()
            };
            let (q, k, v) = (random(shape.heads), random(kv_heads), random(kv_heads));
            let want = reference(&q, &k, &v, shape);
            let got = causal_attention(&q, &k, &v, shape);
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-4);
            }
            let width = shape.heads * shape.head_dim;
            let kv = seq_len * kv_heads * shape.head_dim;
            let q_last = &q[(seq_len - 1) * width..][..width];
            let past = shape.first_seen(seq_len - 1) * kv_heads * shape.head_dim;
            let last = cached_attention(q_last, &k[past..kv], &v[past..kv], shape);
            for (got, want) in last.iter().zip(&want[(seq_len - 1) * width..]) {
                prop_assert!((got - want).abs() < 1e-4);
            }
        }
    }
}
