//! Tables of the rotary embedding (RoPE, 2104.09864).

use lathe_arch::ModelConfig;

/// The rotary angles of a model over a range of positions.
pub(crate) struct Rotary {
    /// Radians per position, `[head_dim / 2]`.
    frequencies: Vec<f64>,
    positions: usize,
}

impl Rotary {
    /// `positions` positions from 0.
    pub fn new(model: &ModelConfig, positions: usize) -> Self {
        Self {
            frequencies: model.rope_frequencies(),
            positions,
        }
    }

    /// The same of layers that see a window; `None` where the model has none.
    pub fn sliding(model: &ModelConfig, positions: usize) -> Option<Self> {
        Some(Self {
            frequencies: model.sliding_rope_frequencies()?,
            positions,
        })
    }

    pub fn cos(&self) -> RotaryTable {
        self.table(f64::cos)
    }

    pub fn sin(&self) -> RotaryTable {
        self.table(f64::sin)
    }

    fn table(&self, function: fn(f64) -> f64) -> RotaryTable {
        RotaryTable {
            frequencies: self.frequencies.clone(),
            positions: self.positions,
            function,
        }
    }
}

/// A function of every angle, `[positions, head_dim / 2]`; computed in f64 row by row, because a
/// long context's table is too large to keep for nothing.
#[derive(Debug, Clone)]
pub(crate) struct RotaryTable {
    frequencies: Vec<f64>,
    positions: usize,
    function: fn(f64) -> f64,
}

impl RotaryTable {
    /// `[positions, head_dim / 2]`
    pub fn shape(&self) -> [usize; 2] {
        [self.positions, self.frequencies.len()]
    }

    /// The table's rows, one a position.
    pub fn rows(&self) -> impl Iterator<Item = Vec<f32>> + '_ {
        (0..self.positions).map(|position| {
            let angles = self.frequencies.iter().map(|f| position as f64 * f);
            angles.map(|angle| (self.function)(angle) as f32).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cosines_and_sines_of_position_times_frequency() {
        let model = ModelConfig::smollm2_135m();
        let rotary = Rotary::new(&model, 3);
        let cos: Vec<_> = rotary.cos().rows().collect();
        let sin: Vec<_> = rotary.sin().rows().collect();
        assert_eq!(rotary.cos().shape(), [3, 32]);
        assert!(cos[0].iter().all(|c| *c == 1.0) && sin[0].iter().all(|s| *s == 0.0));
        // The first frequency is 1, the last theta^(-62/64).
        assert_eq!(cos[2][0], 2f64.cos() as f32);
        assert_eq!(sin[2][31], (2.0 * 1e5f64.powf(-62.0 / 64.0)).sin() as f32);
    }
}
