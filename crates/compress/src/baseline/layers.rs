//! Whole layers removed: by block influence (ShortGPT), or greedily by perplexity (SLEB).

use lathe_arch::SubnetConfig;
use lathe_supernet::{Calibration, Evaluator};

use super::Limit;

/// Layers in the order in which ShortGPT removes them: the least block influence first.
pub(crate) fn by_influence(calibration: &Calibration) -> Vec<usize> {
    let influence = |layer: &usize| calibration.layers[*layer].influence;
    let mut order: Vec<usize> = (0..calibration.layers.len()).collect();
    order.sort_by(|a, b| influence(a).total_cmp(&influence(b)));
    order
}

/// `full` without the layers of `removed`.
pub(crate) fn without(full: &SubnetConfig, removed: &[usize]) -> SubnetConfig {
    let mut subnet = full.clone();
    for layer in removed {
        subnet.layers[*layer].attention = None;
        subnet.layers[*layer].mlp = None;
    }
    subnet
}

/// As many layers removed, in `order`, as leave a sub-network that meets the limit.
pub(crate) fn dropped(full: &SubnetConfig, order: &[usize], limit: &Limit<'_>) -> SubnetConfig {
    let counts = (0..=order.len()).rev();
    let subnets = counts.map(|count| without(full, &order[..count]));
    let mut met = subnets.filter(|subnet| limit.is_met(subnet));
    met.next().unwrap_or_else(|| full.clone())
}

/// SLEB's order, found one layer at a time.
pub(crate) struct Greedy<'a> {
    pub evaluator: &'a Evaluator<'a>,
    pub full: &'a SubnetConfig,
}

impl Greedy<'_> {
    /// Removes the layer whose removal leaves the lowest perplexity for as long as `goes_on` with
    /// what is left. `on_progress` is told the layers removed so far.
    ///
    /// # Errors
    /// When a sub-network cannot be cut.
    pub fn order(
        &self,
        goes_on: impl Fn(&SubnetConfig) -> bool,
        mut on_progress: impl FnMut(usize),
    ) -> anyhow::Result<Vec<usize>> {
        let mut removed: Vec<usize> = Vec::new();
        let layers = self.full.layers.len();
        while removed.len() < layers && goes_on(&without(self.full, &removed)) {
            let mut best: Option<(f64, usize)> = None;
            for layer in (0..layers).filter(|layer| !removed.contains(layer)) {
                let more = [&removed[..], &[layer]].concat();
                let subnet = self.evaluator.supernet().cut(&without(self.full, &more))?;
                let loss = self.evaluator.perplexity(&subnet)?.negative_log_likelihood;
                if best.is_none_or(|(lowest, _)| loss < lowest) {
                    best = Some((loss, layer));
                }
            }
            removed.extend(best.map(|(_, layer)| layer));
            on_progress(removed.len());
        }
        Ok(removed)
    }
}
