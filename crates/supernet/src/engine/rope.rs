//! Rotary position embedding (2104.09864) in Hugging Face's half-rotation layout: channel `i`
//! of a head turns together with channel `i + head_dim / 2`.

use lathe_arch::{LayerType, ModelConfig};

/// By what angles channels are turned at every position.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// The table of sliding layers, where the model has some.
    sliding: Option<Box<RopeTable>>,
}

impl RopeTable {
    /// The angles of positions `0..positions`, computed in f64.
    pub fn new(model: &ModelConfig, positions: usize) -> Self {
        let sliding = model.sliding_rope_frequencies();
        let sliding = sliding.map(|frequencies| Self::of_frequencies(&frequencies, positions));
        Self {
            sliding: sliding.map(Box::new),
            ..Self::of_frequencies(&model.rope_frequencies(), positions)
        }
    }

    /// The table of a layer's type.
    pub fn of(&self, layer_type: LayerType) -> &Self {
        match layer_type {
            LayerType::FullAttention => self,
            LayerType::SlidingAttention => self.sliding.as_deref().unwrap_or(self),
        }
    }

    fn of_frequencies(frequencies: &[f64], positions: usize) -> Self {
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let (cos, sin) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Self {
            cos,
            sin,
            half: frequencies.len(),
            sliding: None,
        }
    }

    /// Cosines and sines of every position, `[positions, head_dim / 2]` each.
    pub fn cosines_and_sines(&self) -> [&[f32]; 2] {
        [&self.cos, &self.sin]
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Turns every head in `row`, `[heads, head_dim]`, to `position`.
    pub fn rotate(&self, row: &mut [f32], position: usize) {
        self.turn(row, position, 1.0);
    }

    /// Turns every head in `row` back from `position`: the inverse of [`RopeTable::rotate`] and,
    /// as a rotation's inverse is its transpose, what takes a gradient through it.
    pub fn rotate_back(&self, row: &mut [f32], position: usize) {
        self.turn(row, position, -1.0);
    }

    fn turn(&self, row: &mut [f32], position: usize, direction: f32) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        for head in row.chunks_exact_mut(2 * self.half) {
            let (low, high) = head.split_at_mut(self.half);
            for i in 0..self.half {
                let (a, b) = (low[i], high[i]);
                let sin = direction * sin[i];
                low[i] = a * cos[i] - b * sin;
                high[i] = b * cos[i] + a * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let model = ModelConfig::smollm2_135m();
        let table = RopeTable::new(&model, 100);
        let vector = |seed: f32| {
            (0..64)
                .map(|i| (i as f32 * seed).sin())
                .collect::<Vec<f32>>()
        };
        let score = |a: usize, b: usize| {
            let (mut q, mut k) = (vector(0.3), vector(0.7));
            table.rotate(&mut q, a);
            table.rotate(&mut k, b);
            q.iter().zip(&k).map(|(q, k)| q * k).sum::<f32>()
        };
        assert!((score(10, 4) - score(90, 84)).abs() < 1e-3);
        assert!((score(10, 4) - score(10, 5)).abs() > 1e-3);
    }

    #[test]
    fn turning_back_undoes_a_turn() {
        let table = RopeTable::new(&ModelConfig::smollm2_135m(), 100);
        let before: Vec<f32> = (0..128).map(|i| (i as f32 * 0.3).sin()).collect();
        let mut row = before.clone();
        table.rotate(&mut row, 77);
        table.rotate_back(&mut row, 77);
        let same = row.iter().zip(&before);
        assert!(same.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
