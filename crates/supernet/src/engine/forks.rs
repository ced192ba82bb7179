//! Sequences that begin alike: what they share is run once.

use rayon::prelude::*;

use super::attention::{AttentionShape, one_head};
use super::forward::{
    NoObserver, add_constant, attention_output, attention_shape, mlp_half, queries_keys_values,
};
use super::matmul::Window;
use super::rope::RopeTable;
use crate::cut::Subnet;
use crate::network::Fork;

/// Runs layer `layer` over all of `forks`, in place on `x [tokens, hidden]`.
pub(super) fn layer(
    subnet: &Subnet<'_>,
    layer: usize,
    x: &mut [f32],
    forks: &[Fork],
    rope: &RopeTable,
) {
    let blocks = subnet.layer(layer);
    let bias = blocks.attention_bias.as_deref();
    if let Some(attention) = &blocks.attention {
        let rope = rope.of(subnet.supernet().model().layer_type(layer));
        let longest = forks.iter().map(Fork::longest).max().unwrap_or(0);
        let shape = attention_shape(subnet, attention, layer, longest);
        let [mut q, mut k, v] = queries_keys_values(subnet, attention, x);
        for (rows, heads) in [(&mut q, shape.heads), (&mut k, shape.kv_heads)] {
            let rows = rows.chunks_exact_mut(heads * shape.head_dim);
            for (row, position) in rows.zip(forks.iter().flat_map(Fork::positions)) {
                rope.rotate(row, position);
            }
        }
        let mixed = attention_over_forks([&q, &k, &v], shape, forks);
        attention_output(subnet, attention, bias, x, mixed, |_| {});
    } else {
        add_constant(x, bias);
    }
    mlp_half(subnet, layer, x, &mut NoObserver);
}

/// Attention of each token over itself and the tokens before it in its branch and in the stem.
///
/// `q` is `[tokens, heads * head_dim]`, `k` and `v` are `[tokens, kv_heads * head_dim]`, all after
/// rotation. Returns `[tokens, heads * head_dim]`.
fn attention_over_forks([q, k, v]: [&[f32]; 3], shape: AttentionShape, forks: &[Fork]) -> Vec<f32> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    let starts = forks.iter().scan(0, |next, fork| {
        let start = *next;
        *next += fork.tokens();
        Some((start, fork))
    });
    let starts: Vec<(usize, &Fork)> = starts.collect();
    // One task a head of a fork: results are gathered and then laid out by token.
    let by_head: Vec<Vec<f32>> = (0..starts.len() * heads)
        .into_par_iter()
        .map(|task| {
            let ((start, fork), head) = (starts[task / heads], task % heads);
            let of = |rows: &[f32], count: usize, head: usize| {
                let width = count * head_dim;
                let rows = rows[start * width..][..fork.tokens() * width].chunks_exact(width);
                let own = rows.flat_map(|row| &row[head * head_dim..][..head_dim]);
                own.copied().collect::<Vec<f32>>()
            };
            let kv_head = head / (heads / kv_heads);
            let own = [
                of(q, heads, head),
                of(k, kv_heads, kv_head),
                of(v, kv_heads, kv_head),
            ];
            head_of_fork(&own, fork, shape)
        })
        .collect();
    let width = heads * head_dim;
    let mut out = vec![0.0; q.len()];
    for (&(start, fork), by_head) in starts.iter().zip(by_head.chunks_exact(heads)) {
        let rows = out[start * width..][..fork.tokens() * width].chunks_exact_mut(width);
        for (token, row) in rows.enumerate() {
            for (slot, head) in row.chunks_exact_mut(head_dim).zip(by_head) {
                slot.copy_from_slice(&head[token * head_dim..][..head_dim]);
            }
        }
    }
    out
}

/// One head of one fork: queries, keys and values, and what comes out, are `[tokens, head_dim]`.
fn head_of_fork([q, k, v]: &[Vec<f32>; 3], fork: &Fork, shape: AttentionShape) -> Vec<f32> {
    let head_dim = shape.head_dim;
    let stem = fork.stem * head_dim;
    let mut out = one_head(
        Window::whole(&q[..stem], fork.stem, head_dim),
        Window::whole(&k[..stem], fork.stem, head_dim),
        Window::whole(&v[..stem], fork.stem, head_dim),
        shape,
    );
    let (mut keys, mut values) = (k[..stem].to_vec(), v[..stem].to_vec());
    for &branch in &fork.branches {
        let own = out.len()..out.len() + branch * head_dim;
        for (seen, all) in [(&mut keys, k), (&mut values, v)] {
            seen.truncate(stem);
            seen.extend_from_slice(&all[own.clone()]);
        }
        let seen = fork.stem + branch;
        out.extend(one_head(
            Window::whole(&q[own], branch, head_dim),
            Window::whole(&keys, seen, head_dim),
            Window::whole(&values, seen, head_dim),
            shape,
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::engine::attention::causal_attention;

    /// Every branch behind a stem of its own, by the attention of whole sequences.
    fn reference([q, k, v]: [&[f32]; 3], shape: AttentionShape, fork: &Fork) -> Vec<f32> {
        let widths = [shape.heads, shape.kv_heads].map(|heads| heads * shape.head_dim);
        let mut want = Vec::new();
        let mut start = fork.stem;
        for branch in std::iter::once(0).chain(fork.branches.iter().copied()) {
            let sequence = |rows: &[f32], width: usize| {
                let own = &rows[start * width..][..branch * width];
                [&rows[..fork.stem * width], own].concat()
            };
            let shape = AttentionShape {
                seq_len: fork.stem + branch,
                ..shape
            };
            if shape.seq_len > 0 {
                let [q, k, v] = [
                    sequence(q, widths[0]),
                    sequence(k, widths[1]),
                    sequence(v, widths[1]),
                ];
                let all = causal_attention(&q, &k, &v, shape);
                let skipped = if want.is_empty() { 0 } else { fork.stem };
                want.extend_from_slice(&all[skipped * widths[0]..]);
            }
            start += branch;
        }
        want
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_fork_is_its_branches_one_by_one(
            kv_heads in 1usize..3,
            per_group in 1usize..4,
            stem in prop::sample::select(vec![1usize, 2, 63, 65, 130]),
            branches in prop::collection::vec(prop::sample::select(vec![0usize, 1, 3, 70]), 0..4),
            window in prop::sample::select(vec![None, Some(1usize), Some(5), Some(64)]),
        ) {
            let shape = AttentionShape {
                heads: kv_heads * per_group,
                kv_heads,
                head_dim: 6,
                seq_len: 0,
                scale: 0.3,
                window,
            };
            let forks = [Fork { stem, branches }, Fork { stem: 4, branches: vec![2, 2] }];
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let tokens: usize = forks.iter().map(Fork::tokens).sum();
            let mut random = |heads: usize| -> Vec<f32> {
                (0..tokens * heads * 6).map(|_| rng.random_range(-2.0..2.0)).collect()
            };
            let (q, k, v) = (random(shape.heads), random(kv_heads), random(kv_heads));
            let got = attention_over_forks([&q, &k, &v], shape, &forks);
            let mut want = Vec::new();
            let mut start = 0;
            for fork in &forks {
                let rows = |all, heads: usize| {
                    let all: &Vec<f32> = all;
                    all[start * heads * 6..][..fork.tokens() * heads * 6].to_vec()
                };
                let (q, k, v) = (rows(&q, shape.heads), rows(&k, kv_heads), rows(&v, kv_heads));
                want.extend(reference([&q, &k, &v], shape, fork));
                start += fork.tokens();
            }
            prop_assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-4);
            }
        }
    }
}
