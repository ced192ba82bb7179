//! What sequences of one length have in common: angles, and who sees whom.

use candle_core::{Device, Result, Tensor};
use lathe_arch::{LayerType, ModelConfig};
use lathe_supernet::RopeTable;

/// Of all layers of a model.
pub struct Sequences {
    pub seq_len: usize,
    full: View,
    /// Of layers that see a window, where the model has some.
    sliding: Option<View>,
}

/// Of layers of one type.
pub struct View {
    /// `[seq_len, 1, head_dim / 2]` each.
    pub cos: Tensor,
    pub sin: Tensor,
    /// What is added to scores: nothing, or negative infinity where a query does not see a key,
    /// `[seq_len, seq_len]`.
    pub mask: Tensor,
}

impl Sequences {
    pub fn new(model: &ModelConfig, seq_len: usize, device: &Device) -> Result<Self> {
        let rope = RopeTable::new(model, seq_len);
        let view = |layer_type, window| View::new(rope.of(layer_type), window, device);
        let sliding = model.sliding_window.as_ref();
        let sliding = sliding.map(|s| view(LayerType::SlidingAttention, Some(s.window)));
        Ok(Self {
            seq_len,
            full: view(LayerType::FullAttention, None)?,
            sliding: sliding.transpose()?,
        })
    }

    /// What a layer of some type sees.
    pub fn view(&self, layer_type: LayerType) -> &View {
        match layer_type {
            LayerType::FullAttention => &self.full,
            LayerType::SlidingAttention => self.sliding.as_ref().unwrap_or(&self.full),
        }
    }
}

impl View {
    fn new(rope: &RopeTable, window: Option<usize>, device: &Device) -> Result<Self> {
        let positions = rope.positions();
        let [cos, sin] = rope.cosines_and_sines();
        let shape = (positions, 1, cos.len() / positions);
        let is_seen =
            |query: usize, key: usize| key <= query && window.is_none_or(|w| key + w > query);
        let of_query = |query| (0..positions).map(move |key| (query, key));
        let mask = (0..positions).flat_map(of_query);
        let mask = mask.map(|(query, key)| match is_seen(query, key) {
            true => 0.0f32,
            false => f32::NEG_INFINITY,
        });
        Ok(Self {
            cos: Tensor::from_slice(cos, shape, device)?,
            sin: Tensor::from_slice(sin, shape, device)?,
            mask: Tensor::from_iter(mask, device)?.reshape((positions, positions))?,
        })
    }
}
