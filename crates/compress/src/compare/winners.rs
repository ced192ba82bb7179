//! The winners of each level, and how fast they are.

use std::path::PathBuf;

use lathe_arch::SubnetConfig;
use lathe_export::export_onnx;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::{AgentCommand, NetworkLatency, measure_networks};
use lathe_supernet::{Recovery, Supernet};

use super::{Compared, Comparison, Contender, Method};
use crate::artefact::cached;
use crate::{LatencyObjective, Progress};

impl Comparison<'_> {
    /// The winners of a level: the searches' and the best baseline, as published and refitted.
    pub(super) fn winners(
        compared: &Compared,
        objective: LatencyObjective,
        level: f64,
    ) -> Vec<usize> {
        let best = [false, true].map(|refit| compared.best_baseline(objective, level, refit));
        let is_winner = |c: &Contender| {
            c.objective == objective
                && c.level == level
                && (c.method.is_search() || best.contains(&Some(c)))
        };
        let all = compared.contenders.iter().enumerate();
        all.filter(|(_, c)| is_winner(c)).map(|(i, _)| i).collect()
    }

    /// The super-network that a method's networks are cut from, refitted or not, where it is not the
    /// searches'.
    pub(super) fn supernet_of(
        &self,
        (method, is_refitted): (Method, bool),
    ) -> anyhow::Result<Option<Supernet>> {
        let Method::Baseline(baseline) = method else {
            return Ok(None);
        };
        let recovery = match is_refitted {
            true => Recovery::LeastSquares,
            false => baseline.recovery(),
        };
        Ok(Some(
            self.prepared.reordered(baseline.importance(), recovery)?,
        ))
    }

    /// Measures the winners of each level beside the full model.
    pub(super) fn measure(
        &self,
        compared: &mut Compared,
        key: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        let Some(agent) = self.agent else {
            return Ok(());
        };
        let levels = self.levels.len() * self.objectives.len();
        let mut done = 0;
        for &objective in &self.objectives {
            for &level in &self.levels {
                progress("measuring the winners", done, levels);
                let winners = Self::winners(compared, objective, level);
                let path = format!("measured-{}-{level}.json", objective.name());
                let measured: Vec<NetworkLatency> = cached(&self.folder.join(path), key, || {
                    self.measure_level(agent, compared, &winners)
                })?;
                for (winner, latency) in winners.into_iter().zip(measured.into_iter().skip(1)) {
                    compared.contenders[winner].measured = Some(latency);
                }
                done += 1;
            }
        }
        Ok(())
    }

    /// Latencies of the full model and the winners, in one session.
    fn measure_level(
        &self,
        agent: &AgentCommand,
        compared: &Compared,
        winners: &[usize],
    ) -> anyhow::Result<Vec<NetworkLatency>> {
        let folder = tempfile::tempdir_in(self.folder)?;
        let export =
            |name: String, supernet: &Supernet, subnet: &SubnetConfig| -> anyhow::Result<PathBuf> {
                let path = folder.path().join(name);
                export_onnx(&path, &supernet.cut(subnet)?, None, LogitRows::Last)?;
                Ok(path.join(MODEL_FILE))
            };
        let supernet = &self.prepared.supernet;
        let mut models = vec![export("full".to_owned(), supernet, &self.full())?];
        for &winner in winners {
            let contender = &compared.contenders[winner];
            // The clock does not tell weights from corrected ones.
            let own = self.supernet_of(contender.made_by())?;
            let supernet = own.as_ref().unwrap_or(supernet);
            models.push(export(winner.to_string(), supernet, &contender.subnet)?);
        }
        Ok(measure_networks(
            agent,
            &models,
            &self.workload,
            self.table.runtime.threads,
            self.prepared.model().vocab_size,
            self.network_rounds,
            |_, _| {},
        )?)
    }
}
