//! The baselines' part.

use std::collections::HashMap;

use anyhow::Context;
use lathe_arch::SubnetConfig;
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::{
    Evaluator, Recovery, Split, Supernet, TokenWindows, perplexity, standardized_fluctuations,
};

use super::exam::Exam;
use super::{Comparison, Contender, Method};
use crate::Progress;
use crate::baseline::{
    Baseline, Flap, Greedy, Limit, by_influence, dropped, uniform_shapes, without,
};

/// Layers that Minitron's shapes have lost, fewest block influence first.
const MINITRON_DEPTHS: [usize; 3] = [0, 3, 6];

impl Comparison<'_> {
    /// One method at every level of every objective, as published and refitted.
    pub(super) fn baseline(
        &self,
        baseline: Baseline,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Contender>> {
        let windows = self.prepared.windows(Split::Search, self.search_tokens)?;
        let calibration_text = self
            .prepared
            .windows(Split::Calibration, self.block_tokens)?;
        let mut contenders = Vec::new();
        let mut removal = None;
        for recovery in [baseline.recovery(), Recovery::LeastSquares] {
            let is_refitted = recovery == Recovery::LeastSquares;
            let label = format!(
                "{}{}",
                baseline.name(),
                if is_refitted { " + refit" } else { "" }
            );
            let total = self.objectives.len() * self.levels.len();
            progress(&label, 0, total);
            let supernet = self.prepared.reordered(baseline.importance(), recovery)?;
            if removal.is_none() {
                removal = Some(self.removal(baseline, &supernet, &calibration_text, progress)?);
            }
            let structure = removal.as_ref().context("it was just made")?;
            let mut known = HashMap::new();
            for &objective in &self.objectives {
                for &level in &self.levels {
                    let limit = self.limit(objective, level)?;
                    let subnets = structure.candidates(&self.full(), &limit);
                    let Some(subnet) = best(&supernet, subnets, &windows)? else {
                        continue;
                    };
                    let score = match known.get(&subnet) {
                        Some(score) => *score,
                        None => exam.log_perplexity(&supernet.cut(&subnet)?)?,
                    };
                    known.insert(subnet.clone(), score);
                    let method = (Method::Baseline(baseline), is_refitted);
                    let scores = [exam.base, score];
                    contenders.push(self.contender(&limit, level, method, subnet, scores)?);
                    progress(&label, known.len().min(total), total);
                }
            }
        }
        Ok(contenders)
    }

    /// What a method needs to know of the model before it meets a limit.
    fn removal(
        &self,
        baseline: Baseline,
        supernet: &Supernet,
        text: &TokenWindows,
        progress: Progress<'_>,
    ) -> anyhow::Result<Removal> {
        let order = || anyhow::Ok(by_influence(&self.prepared.calibration()?));
        Ok(match baseline {
            Baseline::UniformMagnitude | Baseline::UniformWanda | Baseline::UniformTaylor => {
                Removal::Uniform
            }
            Baseline::Minitron => Removal::Shapes(order()?),
            Baseline::ShortGpt => Removal::Layers(order()?),
            Baseline::Flap => {
                let checkpoint = Checkpoint::load(self.prepared.checkpoint())?;
                let (model, weights) = (&checkpoint.config, &checkpoint.weights);
                let calibration = self.prepared.calibration()?;
                Removal::Threshold(Flap(standardized_fluctuations(
                    model,
                    weights,
                    &calibration,
                )?))
            }
            Baseline::Sleb => {
                let lowest = self.levels.iter().copied().fold(1.0, f64::min);
                let full = self.full();
                let evaluator = Evaluator::new(supernet, text)?;
                let greedy = Greedy {
                    evaluator: &evaluator,
                    full: &full,
                };
                let limits = self.objectives.iter().map(|o| self.limit(*o, lowest));
                let limits: Vec<Limit<'_>> = limits.collect::<anyhow::Result<_>>()?;
                let removed = greedy.order(
                    |subnet| limits.iter().any(|limit| limit.is_met(subnet)),
                    |layers| progress("SLEB, layer by layer", layers, full.layers.len()),
                )?;
                Removal::Layers(removed)
            }
        })
    }
}

/// How a method comes to a structure.
enum Removal {
    /// The same width in every layer.
    Uniform,
    /// The same, also after some layers were removed in this order.
    Shapes(Vec<usize>),
    /// Whole layers in this order.
    Layers(Vec<usize>),
    /// A threshold for all layers.
    Threshold(Flap),
}

impl Removal {
    fn candidates(&self, full: &SubnetConfig, limit: &Limit<'_>) -> Vec<SubnetConfig> {
        match self {
            Removal::Uniform => uniform_shapes(std::slice::from_ref(full), limit),
            Removal::Shapes(order) => {
                let bases = MINITRON_DEPTHS
                    .iter()
                    .filter_map(|depth| Some(without(full, order.get(..*depth)?)));
                uniform_shapes(&bases.collect::<Vec<_>>(), limit)
            }
            Removal::Layers(order) => vec![dropped(full, order, limit)],
            Removal::Threshold(flap) => flap.subnet(full, limit).into_iter().collect(),
        }
    }
}

/// The candidate of lowest perplexity; it is not scored when there is but one.
fn best(
    supernet: &Supernet,
    mut candidates: Vec<SubnetConfig>,
    windows: &TokenWindows,
) -> anyhow::Result<Option<SubnetConfig>> {
    if candidates.len() < 2 {
        return Ok(candidates.pop());
    }
    let mut best: Option<(f64, SubnetConfig)> = None;
    for candidate in candidates {
        let score = perplexity(&supernet.cut(&candidate)?, windows)?.negative_log_likelihood;
        if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
            best = Some((score, candidate));
        }
    }
    Ok(best.map(|(_, subnet)| subnet))
}
