//! There and back through a network with gradient checkpointing (1604.06174): the way there keeps the
//! residual stream before each layer alone, and the way back runs every layer again, for its gradient.
//! So one layer's activations and gradients exist at a time.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};
use lathe_supernet::{GradientSums, HeadLoss, Lesson, LowRank, Part, Role};

use crate::layer::Layer;
use crate::network::{OnDevice, numbers};
use crate::norm::rms_norm;
use crate::sequences::Sequences;
use crate::weights::LayerWeights;

impl OnDevice<'_> {
    /// Adds the gradient of a lesson's loss to `sums`, and returns the summed loss.
    pub fn backward(&self, lesson: &Lesson<'_>, sums: &mut GradientSums<'_>) -> Result<HeadLoss> {
        let sequences = self.sequences(lesson.seq_len)?;
        let mut x = self.hidden_rows(&lesson.embedded)?;
        let mut inputs = Vec::new();
        for index in 0..self.subnet.config().layers.len() {
            inputs.push(x.clone());
            x = self.layer(index, &sequences)?.run(&x)?;
        }
        let (loss, mut d) = self.through_head(&x, lesson, sums)?;
        while let Some(input) = inputs.pop() {
            d = self.through_layer(inputs.len(), &sequences, input, &d, sums)?;
        }
        Ok(loss)
    }

    /// The loss, and its gradient by the residual stream behind the last layer.
    fn through_head(
        &self,
        x: &Tensor,
        lesson: &Lesson<'_>,
        sums: &mut GradientSums<'_>,
    ) -> Result<(HeadLoss, Tensor)> {
        let (x, gain) = (Var::from_tensor(x)?, Var::from_tensor(&self.final_gain()?)?);
        let eps = self.subnet.supernet().model().rms_norm_eps;
        let normed = rms_norm(&x, &gain, eps)?;
        let teacher = self.engine.teacher_on_device();
        let answers = lesson.distillation.map(|answer| {
            let rows = self.hidden_rows(answer.normed)?;
            Ok::<_, candle_core::Error>((teacher.head()?, rows))
        });
        let answers = answers.transpose()?;
        let answers = answers.as_ref().map(|(head, rows)| (*head, rows));
        let (loss, d) = self.head()?.lesson(&normed.detach(), answers, lesson)?;
        let mut gradients = gradients(&normed, &d)?;
        if sums.wants(Role::FinalNorm) {
            sums.add(Role::FinalNorm, &numbers(&take(&mut gradients, &gain)?)?);
        }
        Ok((loss, take(&mut gradients, &x)?))
    }

    /// The gradient by the residual stream before a layer, of that behind it.
    fn through_layer(
        &self,
        index: usize,
        sequences: &Sequences,
        input: Tensor,
        d: &Tensor,
        sums: &mut GradientSums<'_>,
    ) -> Result<Tensor> {
        let input = Var::from_tensor(&input)?;
        let layer: Layer<'_> = self.layer(index, sequences)?;
        let is_trained = |part: Part| {
            let role = Role::Layer(index, part);
            sums.wants(role) || sums.adapter(role).is_some()
        };
        let mut trained = Vec::new();
        let mut weights = LayerWeights::new();
        for (part, tensor) in layer.weights {
            let mut tensor = tensor.clone();
            if is_trained(*part) {
                let variable = Var::from_tensor(&tensor)?;
                tensor = variable.as_tensor().clone();
                trained.push((*part, variable));
            }
            weights.insert(*part, tensor);
        }
        let output = self.layer_with(index, sequences, &weights).run(&input)?;
        let mut gradients = gradients(&output, d)?;
        for (part, variable) in trained {
            let role = Role::Layer(index, part);
            let d = take(&mut gradients, &variable)?;
            if let Some(adapter) = sums.adapter(role) {
                let [a, b] = through_adapter(&d, adapter)?;
                sums.add_to_adapter(role, [&a, &b]);
            }
            if sums.wants(role) {
                sums.add(role, &numbers(&d)?);
            }
        }
        take(&mut gradients, &input)
    }
}

/// The gradients of an adapter's `A` and `B`, of that of its matrix: `s d B^T` and `s A^T d`.
fn through_adapter(d: &Tensor, adapter: LowRank<'_>) -> Result<[Vec<f32>; 2]> {
    let d = (d.to_dtype(DType::F32)? * f64::from(adapter.scale))?;
    let [a, b] = [adapter.a, adapter.b].map(|matrix| {
        let numbers: Vec<f32> = matrix.iter().copied().collect();
        Tensor::from_vec(numbers, matrix.dim(), d.device())
    });
    let of_a = d.matmul(&b?.t()?)?;
    let of_b = a?.t()?.matmul(&d)?;
    Ok([numbers(&of_a)?, numbers(&of_b)?])
}

/// Gradients by the variables that `output` was made of, where that by `output` is `d`.
fn gradients(output: &Tensor, d: &Tensor) -> Result<GradStore> {
    (output * d)?.sum_all()?.backward()
}

fn take(gradients: &mut GradStore, variable: &Var) -> Result<Tensor> {
    let nothing = || candle_core::Error::msg("a variable that nothing depends on");
    // A sum may hold on to the graph that it came from.
    Ok(gradients.remove(variable).ok_or_else(nothing)?.detach())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use lathe_supernet::checkpoint::Checkpoint;
    use lathe_supernet::{Distillation, Parameters, Supernet};

    use super::*;
    use crate::{Candle, Dtype};

    /// The gradients of all layers' tensors from one graph that holds everything.
    fn without_checkpoints(
        network: &OnDevice<'_>,
        lesson: &Lesson<'_>,
    ) -> Result<BTreeMap<Role, Vec<f32>>> {
        let sequences = network.sequences(lesson.seq_len)?;
        let mut x = network.hidden_rows(&lesson.embedded)?;
        let mut variables = Vec::new();
        for index in 0..network.subnet.config().layers.len() {
            let mut weights = LayerWeights::new();
            for (part, tensor) in network.layer(index, &sequences)?.weights {
                let variable = Var::from_tensor(tensor)?;
                weights.insert(*part, variable.as_tensor().clone());
                variables.push((Role::Layer(index, *part), variable));
            }
            x = network.layer_with(index, &sequences, &weights).run(&x)?;
        }
        let normed = network.final_norm(&x)?;
        let teacher = network.engine.teacher_on_device();
        let answer = network.hidden_rows(lesson.distillation.unwrap().normed)?;
        let answer = (teacher.head()?, &answer);
        let (_, d) = network
            .head()?
            .lesson(&normed.detach(), Some(answer), lesson)?;
        let mut gradients = gradients(&normed, &d)?;
        let of_variables = variables.iter();
        of_variables
            .map(|(role, variable)| Ok((*role, numbers(&take(&mut gradients, variable)?)?)))
            .collect()
    }

    #[test]
    fn checkpoints_change_no_gradient() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"] {
            let checkpoint = Checkpoint::load(&fixtures.join(name)).unwrap();
            let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights);
            let engine = Candle::new(&supernet, Dtype::F32).unwrap();
            let network = engine.teacher_on_device();
            let count = 24 * checkpoint.config.hidden_size;
            let rows = |seed: f32| (0..count).map(|i| (i as f32 * seed).sin()).collect();
            let answer: Vec<f32> = rows(0.7);
            let targets: Vec<u32> = (0..24).map(|i| i * 13 % 320).collect();
            let lesson = Lesson {
                embedded: rows(0.3),
                seq_len: 12,
                targets: &targets,
                weight: 1.0 / 24.0,
                distillation: Some(Distillation {
                    normed: &answer,
                    share: 0.7,
                    temperature: 1.5,
                }),
            };
            let mut sums = Parameters::zeros_like(&Parameters::of(network.subnet));
            let mut whole = GradientSums::Whole(&mut sums);
            network.backward(&lesson, &mut whole).unwrap();
            let expected = without_checkpoints(&network, &lesson).unwrap();
            for (role, want) in expected {
                let got = sums.get(role).unwrap();
                let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert!(largest > 0.0, "{name} {role}");
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-6 * largest, "{name} {role}");
                }
            }
        }
    }
}
