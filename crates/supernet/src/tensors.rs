//! A sub-network's own tensors, copied out of the super-network for an export or another engine.

use ndarray::Array2;

use crate::cut::{CutAttention, CutMlp, Matrix, Subnet};
use crate::engine::matmul::Window;
use crate::parameters::Part;
use crate::supernet::slice;

/// Matrices are row-major `[in, out]`. Methods of a layer give `None` where the block was removed.
impl Subnet<'_> {
    /// `[vocab_size, hidden_size]`
    pub fn embed_tokens(&self) -> Vec<f32> {
        slice(&self.ends().embed_tokens).to_vec()
    }

    /// `[hidden_size, vocab_size]`
    pub fn lm_head(&self) -> Vec<f32> {
        let head = self.ends().lm_head();
        head.t().iter().copied().collect()
    }

    /// The LM head's matrix as the super-network has it, `[vocab_size, hidden_size]`.
    pub fn lm_head_by_token(&self) -> &Array2<f32> {
        self.ends().lm_head()
    }

    /// Gain of the final norm, `[hidden_size]`.
    pub fn final_norm(&self) -> Vec<f32> {
        self.final_gain().to_vec()
    }

    /// Gain of the norm before attention, `[hidden_size]`.
    pub fn input_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.attention(layer)?.norm.to_vec())
    }

    /// Query, key and value side by side, `[hidden_size, (heads + 2 kv_heads) * head_dim]`.
    pub fn qkv_proj(&self, layer: usize) -> Option<Vec<f32>> {
        let attention = self.attention(layer)?;
        let parts = attention.q.iter().chain([&attention.k, &attention.v]);
        Some(side_by_side(&parts.map(Matrix::window).collect::<Vec<_>>()))
    }

    /// `[heads * head_dim, hidden_size]`
    pub fn o_proj(&self, layer: usize) -> Option<Vec<f32>> {
        let parts = &self.attention(layer)?.o;
        Some(
            parts
                .iter()
                .flat_map(|part| side_by_side(&[part.window()]))
                .collect(),
        )
    }

    /// Biases of query, key and value side by side, `[(heads + 2 kv_heads) * head_dim]`; `None`
    /// also where the model has none.
    pub fn qkv_bias(&self, layer: usize) -> Option<Vec<f32>> {
        let bias = self.attention(layer)?.qkv_bias.as_ref()?;
        Some([&bias.q[..], &bias.k, &bias.v].concat())
    }

    /// Gain of the norm of query heads, `[head_dim]`; `None` also where the model has none.
    pub fn query_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.attention(layer)?.qk_norm?.q.to_vec())
    }

    /// Gain of the norm of key heads, `[head_dim]`; `None` also where the model has none.
    pub fn key_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.attention(layer)?.qk_norm?.k.to_vec())
    }

    /// Gain of the norm behind the attention block, `[hidden_size]`; `None` also where the model
    /// has none.
    pub fn attention_post_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.attention(layer)?.post_norm?.to_vec())
    }

    /// Gain of the norm behind the MLP block, `[hidden_size]`; `None` also where the model has
    /// none.
    pub fn mlp_post_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.mlp(layer)?.post_norm?.to_vec())
    }

    /// The constant that a pruned attention block adds, `[hidden_size]`, before the norm behind the
    /// block where there is one; of a removed block, what it adds to the residual stream.
    pub fn attention_bias(&self, layer: usize) -> Option<Vec<f32>> {
        self.layer(layer).attention_bias.clone()
    }

    /// Gain of the norm before the MLP, `[hidden_size]`.
    pub fn post_attention_norm(&self, layer: usize) -> Option<Vec<f32>> {
        Some(self.mlp(layer)?.norm.to_vec())
    }

    /// `[hidden_size, intermediate_size]`
    pub fn gate_proj(&self, layer: usize) -> Option<Vec<f32>> {
        Some(side_by_side(&[self.mlp(layer)?.gate.window()]))
    }

    /// `[hidden_size, intermediate_size]`
    pub fn up_proj(&self, layer: usize) -> Option<Vec<f32>> {
        Some(side_by_side(&[self.mlp(layer)?.up.window()]))
    }

    /// `[intermediate_size, hidden_size]`
    pub fn down_proj(&self, layer: usize) -> Option<Vec<f32>> {
        Some(side_by_side(&[self.mlp(layer)?.down.window()]))
    }

    /// The same of an MLP block.
    pub fn mlp_bias(&self, layer: usize) -> Option<Vec<f32>> {
        self.layer(layer).mlp_bias.clone()
    }

    /// All that one layer has, matrices `[in, out]`, vectors one row.
    pub fn layer_tensors(&self, layer: usize) -> Vec<(Part, Array2<f32>)> {
        let hidden = self.supernet().model().hidden_size;
        let mut tensors = Vec::new();
        let mut add = |part, rows, values: Option<Vec<f32>>| {
            tensors.extend(values.map(|values| (part, tensor(rows, values))));
        };
        if let Some(block) = self.attention(layer) {
            let queries: Vec<Window<'_>> = block.q.iter().map(Matrix::window).collect();
            let width = queries.iter().map(Window::col_count).sum();
            add(Part::AttentionNorm, 1, self.input_norm(layer));
            add(Part::Query, hidden, Some(side_by_side(&queries)));
            add(Part::Key, hidden, Some(side_by_side(&[block.k.window()])));
            add(Part::Value, hidden, Some(side_by_side(&[block.v.window()])));
            add(Part::Output, width, self.o_proj(layer));
            let bias = block.qkv_bias.as_ref();
            add(Part::QueryBias, 1, bias.map(|bias| bias.q.clone()));
            add(Part::KeyBias, 1, bias.map(|bias| bias.k.clone()));
            add(Part::ValueBias, 1, bias.map(|bias| bias.v.clone()));
            add(Part::QueryNorm, 1, self.query_norm(layer));
            add(Part::KeyNorm, 1, self.key_norm(layer));
            add(Part::AttentionPostNorm, 1, self.attention_post_norm(layer));
        }
        add(Part::AttentionBias, 1, self.attention_bias(layer));
        if let Some(block) = self.mlp(layer) {
            add(Part::MlpNorm, 1, self.post_attention_norm(layer));
            add(Part::Gate, hidden, self.gate_proj(layer));
            add(Part::Up, hidden, self.up_proj(layer));
            add(
                Part::Down,
                block.down.window().row_count(),
                self.down_proj(layer),
            );
            add(Part::MlpPostNorm, 1, self.mlp_post_norm(layer));
        }
        add(Part::MlpBias, 1, self.mlp_bias(layer));
        tensors
    }

    fn attention(&self, layer: usize) -> Option<&CutAttention<'_>> {
        self.layer(layer).attention.as_ref()
    }

    fn mlp(&self, layer: usize) -> Option<&CutMlp<'_>> {
        self.layer(layer).mlp.as_ref()
    }
}

/// Numbers as a matrix of so many rows.
pub(crate) fn tensor(rows: usize, values: Vec<f32>) -> Array2<f32> {
    let tensor = Array2::from_shape_vec((rows, values.len() / rows), values);
    tensor.expect("a tensor has whole rows")
}

/// The windows' columns next to each other; all have the same number of rows.
fn side_by_side(parts: &[Window<'_>]) -> Vec<f32> {
    let rows = parts.first().map_or(0, Window::row_count);
    let width: usize = parts.iter().map(Window::col_count).sum();
    let mut out = Vec::with_capacity(rows * width);
    for row in 0..rows {
        for part in parts {
            out.extend_from_slice(part.row(row));
        }
    }
    out
}
