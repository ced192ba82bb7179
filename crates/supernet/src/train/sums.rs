use super::adapters::{AdapterSums, LowRank};
use crate::engine::matmul::Window;
use crate::gradient::GradientSink;
use crate::parameters::{Parameters, Role};

/// Where an engine adds up the gradient of what is trained. What is not trained is not kept.
pub enum GradientSums<'s> {
    /// Of a network's own weights.
    Whole(&'s mut Parameters),
    /// Of adapters of its matrices, and of its vectors.
    LowRank(AdapterSums<'s>),
}

impl GradientSums<'_> {
    /// The adapter of a matrix, where adapters are trained and it has one.
    pub fn adapter(&self, role: Role) -> Option<LowRank<'_>> {
        match self {
            GradientSums::Whole(_) => None,
            GradientSums::LowRank(low_rank) => low_rank.adapter(role),
        }
    }

    /// Adds the gradients of an adapter's `A` and `B`, row by row.
    pub fn add_to_adapter(&mut self, role: Role, [a, b]: [&[f32]; 2]) {
        if let GradientSums::LowRank(low_rank) = self {
            low_rank.add_to_adapter(role, [a, b]);
        }
    }

    /// Whether the gradient of a tensor itself is wanted.
    pub fn wants(&self, role: Role) -> bool {
        self.whole().get(role).is_some()
    }

    /// Adds the gradient of a tensor itself, row by row.
    pub fn add(&mut self, role: Role, d: &[f32]) {
        self.whole_mut().vector(role, d);
    }

    /// The tensors that are trained themselves.
    fn whole(&self) -> &Parameters {
        match self {
            GradientSums::Whole(sums) => sums,
            GradientSums::LowRank(low_rank) => low_rank.vectors(),
        }
    }

    fn whole_mut(&mut self) -> &mut Parameters {
        match self {
            GradientSums::Whole(sums) => sums,
            GradientSums::LowRank(low_rank) => low_rank.vectors_mut(),
        }
    }
}

impl GradientSink for GradientSums<'_> {
    fn matrix(&mut self, role: Role, x: Window<'_>, d: Window<'_>) {
        match self {
            GradientSums::Whole(sums) => sums.matrix(role, x, d),
            GradientSums::LowRank(low_rank) => low_rank.matrix(role, x, d),
        }
    }

    fn vector(&mut self, role: Role, d: &[f32]) {
        self.add(role, d);
    }
}
