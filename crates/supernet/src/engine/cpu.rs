//! This crate's engine behind the seam.

use super::rope::RopeTable;
use super::{forks, forward, head};
use crate::SupernetError;
use crate::cut::Subnet;
use crate::gradient::{LayerActivations, loss_backward};
use crate::network::{Engine, Fork, HeadLoss, Lesson, Network, Score};
use crate::supernet::Supernet;
use crate::train::GradientSums;

/// Runs networks on this machine's processors: nothing is copied, in f32.
pub struct Cpu<'a> {
    teacher: Subnet<'a>,
}

impl<'a> Cpu<'a> {
    /// Of the networks of `supernet`.
    pub fn new(supernet: &'a Supernet) -> Self {
        Self {
            teacher: supernet.teacher(),
        }
    }
}

impl Engine for Cpu<'_> {
    fn network<'n>(
        &'n self,
        subnet: &'n Subnet<'n>,
    ) -> Result<Box<dyn Network + 'n>, SupernetError> {
        Ok(Box::new(InPlace {
            subnet,
            teacher: &self.teacher,
        }))
    }

    fn teacher(&self) -> Result<Box<dyn Network + '_>, SupernetError> {
        self.network(&self.teacher)
    }
}

/// A network whose weights are read where they lie.
struct InPlace<'n> {
    subnet: &'n Subnet<'n>,
    teacher: &'n Subnet<'n>,
}

impl Network for InPlace<'_> {
    fn run_from(
        &self,
        first: usize,
        mut x: Vec<f32>,
        seq_len: usize,
        mut keep: Option<&mut dyn FnMut(Vec<f32>)>,
    ) -> Result<Vec<f32>, SupernetError> {
        let model = self.subnet.supernet().model();
        let rope = RopeTable::new(model, seq_len);
        for layer in first..model.num_hidden_layers {
            if let Some(keep) = keep.as_mut().filter(|_| layer > first) {
                keep(x.clone());
            }
            forward::layer(self.subnet, layer, &mut x, seq_len, &rope);
        }
        Ok(head::final_norm(self.subnet, &x))
    }

    fn run_forks(&self, mut x: Vec<f32>, all: &[Fork]) -> Result<Vec<f32>, SupernetError> {
        let model = self.subnet.supernet().model();
        let longest = all.iter().map(Fork::longest).max().unwrap_or(0);
        let rope = RopeTable::new(model, longest);
        for layer in 0..model.num_hidden_layers {
            forks::layer(self.subnet, layer, &mut x, all, &rope);
        }
        Ok(head::final_norm(self.subnet, &x))
    }

    fn losses(&self, normed: &[f32], targets: &[u32]) -> Result<Vec<f32>, SupernetError> {
        Ok(head::negative_log_likelihood(self.subnet, normed, targets))
    }

    fn scores(
        &self,
        normed: &[f32],
        of_teacher: &[f32],
        targets: &[u32],
    ) -> Result<Vec<Score>, SupernetError> {
        let networks = [self.teacher, self.subnet];
        let normed = [of_teacher, normed];
        Ok(head::divergence_and_loss(networks, normed, targets))
    }

    fn differentiate(
        &self,
        lesson: Lesson<'_>,
        sums: &mut GradientSums<'_>,
    ) -> Result<HeadLoss, SupernetError> {
        let (subnet, seq_len) = (self.subnet, lesson.seq_len);
        let model = subnet.supernet().model();
        let rope = RopeTable::new(model, seq_len);
        let mut x = lesson.embedded;
        let mut layers = Vec::new();
        for layer in 0..model.num_hidden_layers {
            let activations = LayerActivations::new(subnet, layer, x, seq_len, &rope);
            x = activations.output(subnet, layer);
            layers.push(activations);
        }
        let teaching = lesson.distillation.map(|answer| (self.teacher, answer));
        let (targets, weight) = (lesson.targets, lesson.weight);
        let (loss, mut d) = loss_backward(subnet, &x, targets, teaching, weight, sums);
        for (layer, activations) in layers.into_iter().enumerate().rev() {
            activations.backward(subnet, layer, &mut d, seq_len, &rope, sums);
        }
        Ok(loss)
    }
}
