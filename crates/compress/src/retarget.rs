//! The front of a finished study over other objectives, on another device, or on several at once.
//!
//! What a search pays for is quality, and that is the same on every device. What a network costs
//! follows from a device's table, so a study need not be made again for it.

use anyhow::Context;
use lathe_arch::{SearchSpace, Workload};
use lathe_search::{Evaluation, StudyHeader, pareto_front};

use crate::depths::{Deep, shallower};
use crate::device::Device;
use crate::front::{Column, Front, Member};
use crate::{DeviceTables, Limits, Objective};

/// A study and what is asked of it.
pub struct Retarget<'a> {
    /// What the study is about.
    pub header: &'a StudyHeader,
    /// Its evaluations.
    pub evaluations: &'a [Evaluation],
    /// The choices behind its genomes.
    pub space: &'a SearchSpace,
    /// The devices. With several, each has its own latencies, memory and energy.
    pub tables: &'a DeviceTables,
    /// What latencies, memory and energy are for.
    pub workload: Workload,
    /// What is minimised.
    pub objectives: &'a [Objective],
    /// What a network must keep on every device.
    pub limits: Limits,
    /// Nats of divergence per token that a bit per byte of answers is worth, where the study was told questions.
    pub answer_weight: f64,
}

/// What a study has for its devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Retargeted {
    /// The networks that keep the limits and that none of these is better than in everything.
    pub front: Front,
    /// Where there are limits, the network that loses the least of those that keep them.
    pub chosen: Option<Member>,
    /// Networks of fewer layers that keep the limits and lose at most half as much again: of each number
    /// of layers the one that loses the least, where none of still fewer loses less. Healing may turn
    /// their order.
    pub shallower: Vec<Member>,
}

/// Where the values of a column come from.
struct Source<'a> {
    objective: Objective,
    device: &'a Device<'a>,
}

impl Retarget<'_> {
    /// The front, from what was evaluated alone.
    ///
    /// # Errors
    /// When the study has no KL divergence, no evaluation or another space, there is no objective
    /// or one stands twice, a table does not tell what is asked, or no network keeps the limits.
    pub fn front(&self) -> anyhow::Result<Retargeted> {
        self.check()?;
        let devices = self.tables.devices(self.space, self.workload)?;
        let kept = match self.limits.are_given() {
            true => &self
                .limits
                .keep_on(&devices, self.space, self.evaluations)?[..],
            false => self.evaluations,
        };
        let sources = self.sources(&devices);
        let revalue = |evaluation| self.revalue(evaluation, &sources);
        let revalued = kept.iter().map(revalue);
        let revalued = revalued.collect::<anyhow::Result<Vec<Evaluation>>>()?;
        let members = pareto_front(&revalued);
        let members = members.iter().map(|member| self.member(member));
        let column = |source: &Source<'_>| Column {
            objective: source.objective,
            device: (devices.len() > 1 && source.objective.is_of_device())
                .then(|| source.device.name.to_owned()),
        };
        let front = Front {
            columns: sources.iter().map(column).collect(),
            members: members.collect::<anyhow::Result<_>>()?,
        };
        let chosen = match self.limits.are_given() {
            true => self.nearest(kept, &revalued)?,
            false => None,
        };
        let chosen = chosen.map(|chosen| self.member(chosen)).transpose()?;
        let shallower = match &chosen {
            Some(_) => self.shallower(kept, &revalued)?,
            None => Vec::new(),
        };
        Ok(Retargeted {
            front,
            chosen,
            shallower,
        })
    }

    fn shallower(
        &self,
        evaluations: &[Evaluation],
        revalued: &[Evaluation],
    ) -> anyhow::Result<Vec<Member>> {
        let pairs = evaluations.iter().zip(revalued);
        let deep = pairs.map(|(evaluation, revalued)| {
            anyhow::Ok(Deep {
                depth: self.space.decode(&evaluation.genome)?.depth(),
                loss: self.loss(evaluation)?,
                network: revalued,
            })
        });
        let found = shallower(deep.collect::<anyhow::Result<Vec<_>>>()?);
        found.into_iter().map(|found| self.member(found)).collect()
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.evaluations.is_empty(),
            "the study holds no evaluations"
        );
        anyhow::ensure!(
            self.header.cardinalities == self.space.cardinalities(),
            "the study chose among others than these blocks: what a search writes beside its study as `space.json` belongs there"
        );
        anyhow::ensure!(!self.objectives.is_empty(), "no objective is given");
        for (index, objective) in self.objectives.iter().enumerate() {
            anyhow::ensure!(
                !self.objectives[..index].contains(objective),
                "the objective {} is given twice",
                objective.name()
            );
        }
        Ok(())
    }

    /// What the study has of an objective that was measured.
    fn measured(&self, evaluation: &Evaluation, objective: Objective) -> anyhow::Result<f64> {
        let (names, wanted) = (&self.header.objectives, objective.field());
        let index = names.iter().position(|name| name == wanted);
        let value = index.and_then(|index| evaluation.objectives.get(index));
        value.copied().with_context(|| {
            format!(
                "the study minimises {}: it has no {wanted}",
                names.join(" and ")
            )
        })
    }

    /// What a network loses in all.
    fn loss(&self, evaluation: &Evaluation) -> anyhow::Result<f64> {
        let divergence = self.measured(evaluation, Objective::Kl)?;
        let answers = self.measured(evaluation, Objective::Answers).unwrap_or(0.0);
        Ok(divergence + self.answer_weight * answers)
    }

    fn sources<'d>(&self, devices: &'d [Device<'d>]) -> Vec<Source<'d>> {
        let sources = self.objectives.iter().flat_map(|&objective| {
            let many = if objective.is_of_device() {
                devices.len()
            } else {
                1
            };
            let devices = devices.iter().take(many);
            devices.map(move |device| Source { objective, device })
        });
        sources.collect()
    }

    /// The same evaluation, with the values of `sources` as its objectives.
    fn revalue(
        &self,
        evaluation: &Evaluation,
        sources: &[Source<'_>],
    ) -> anyhow::Result<Evaluation> {
        let genome = &evaluation.genome;
        let subnet = self.space.decode(genome)?;
        let value = |Source { objective, device }: &Source<'_>| match objective {
            Objective::Latency(latency) => Ok(device.latency_us(*latency, genome)),
            Objective::Memory => device.peak_memory_bytes(&subnet),
            Objective::Size => Ok(device.weight_bytes(&subnet)),
            Objective::Energy => device.energy_joules(genome),
            Objective::Kl | Objective::Answers => self.measured(evaluation, *objective),
        };
        Ok(Evaluation {
            objectives: sources.iter().map(value).collect::<anyhow::Result<_>>()?,
            ..evaluation.clone()
        })
    }

    /// Of `revalued`, the one whose own evaluation lost the least; of several, the
    /// first in the order of a front.
    fn nearest<'e>(
        &self,
        evaluations: &[Evaluation],
        revalued: &'e [Evaluation],
    ) -> anyhow::Result<Option<&'e Evaluation>> {
        let losses = evaluations.iter().map(|evaluation| self.loss(evaluation));
        let losses = losses.collect::<anyhow::Result<Vec<f64>>>()?;
        let pairs = losses.iter().zip(revalued);
        let nearest = pairs.min_by(|(a, revalued_a), (b, revalued_b)| {
            let values = revalued_a.objectives.iter().zip(&revalued_b.objectives);
            values.fold(a.total_cmp(b), |order, (a, b)| order.then(a.total_cmp(b)))
        });
        Ok(nearest.map(|(_, revalued)| revalued))
    }

    fn member(&self, evaluation: &Evaluation) -> anyhow::Result<Member> {
        let subnet = self.space.decode(&evaluation.genome)?;
        Ok(Member {
            genome: evaluation.genome.clone(),
            values: evaluation.objectives.clone(),
            parameters: subnet.parameters(&self.tables.first().model.dimensions),
            subnet,
        })
    }
}

#[cfg(test)]
mod tests;
