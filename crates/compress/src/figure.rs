//! The comparison as figures.

use std::path::{Path, PathBuf};

use lathe_report::{Curve, comparison_figure};

use crate::artefact::write;
use crate::{Baseline, Compared, Contender, LatencyObjective};

/// Increases of log-perplexity above this leave the figures: a perplexity times 7.
const MOST: f64 = 2.0;

/// Writes `comparison-OBJECTIVE.svg` into `folder`: what every method loses at every level.
///
/// # Errors
/// When the disk does not take a file.
pub fn write_comparison_figures(
    folder: &Path,
    compared: &Compared,
    objectives: &[LatencyObjective],
) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for &objective in objectives {
        let baselines = Baseline::ALL.iter().enumerate();
        let baselines = baselines.flat_map(|(index, baseline)| {
            [false, true].map(|is_refitted| (index + 1, Some(*baseline), is_refitted))
        });
        let methods = std::iter::once((0, None, true)).chain(baselines);
        let curves = methods.map(|(color, baseline, is_refitted)| {
            let of = compared.contenders.iter().filter(|c| {
                let is_drawn_so = baseline.is_none() || c.is_refitted == is_refitted;
                (c.objective, c.baseline) == (objective, baseline) && is_drawn_so
            });
            let all: Vec<&Contender> = of.collect();
            let point = |c: &&Contender| (c.latency_us, c.log_perplexity_increase);
            let mut points: Vec<(f64, f64)> = all.iter().map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Curve {
                name: all.first().map(|c| c.name()).unwrap_or_default(),
                is_dashed: baseline.is_some() && is_refitted,
                color,
                points,
            }
        });
        let curves: Vec<Curve> = curves.filter(|curve| !curve.points.is_empty()).collect();
        let latency = match objective {
            LatencyObjective::Tpot => "Time per output token, predicted",
            LatencyObjective::Ttft => "Time to first token, predicted",
            LatencyObjective::Total => "Time of the workload, predicted",
        };
        let loss = "Increase of log-perplexity";
        let path = folder.join(format!("comparison-{}.svg", objective.name()));
        write(&path, &comparison_figure(&curves, latency, loss, MOST))?;
        paths.push(path);
    }
    Ok(paths)
}
