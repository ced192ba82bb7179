//! Which windows of the text a step reads: all once, in random order, then all again in another.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order of the windows of one pass over the text at a time.
pub(super) struct Order {
    seed: u64,
    pass: u64,
    windows: Vec<usize>,
}

impl Order {
    pub fn new(seed: u64, windows: usize) -> Self {
        let mut order = Self {
            seed,
            pass: 0,
            windows: (0..windows).collect(),
        };
        order.shuffle(0);
        order
    }

    /// The windows of step `step` of `per_step` windows each.
    pub fn windows(&mut self, step: usize, per_step: usize) -> Vec<usize> {
        let first = step * per_step;
        (first..first + per_step).map(|at| self.at(at)).collect()
    }

    fn at(&mut self, at: usize) -> usize {
        let pass = (at / self.windows.len()) as u64;
        if pass != self.pass {
            self.shuffle(pass);
        }
        self.windows[at % self.windows.len()]
    }

    fn shuffle(&mut self, pass: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(pass);
        self.windows.sort_unstable();
        self.windows.shuffle(&mut rng);
        self.pass = pass;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_is_read_once_a_pass_and_steps_can_be_asked_for_in_any_order() {
        let mut order = Order::new(3, 10);
        let steps: Vec<Vec<usize>> = (0..10).map(|step| order.windows(step, 4)).collect();
        for pass in steps.concat().chunks(10) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(steps.concat()[..10], steps.concat()[10..20]);
        assert_eq!(Order::new(3, 10).windows(7, 4), steps[7]);
        assert_eq!(order.windows(1, 4), steps[1]);
        assert_ne!(Order::new(4, 10).windows(0, 10), steps.concat()[..10]);
    }
}
