//! The comparison as figures.

use std::path::{Path, PathBuf};

use lathe_arch::Precision;
use lathe_report::{Curve, comparison_figure};

use crate::artefact::write_text;
use crate::{Baseline, Compared, Contender, LatencyObjective, Method};

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
        let baselines = Baseline::ALL
            .iter()
            .map(|baseline| Method::Baseline(*baseline));
        let quantised = [Precision::Int8, Precision::Int4, Precision::W8A8];
        let whole = quantised.map(Method::WholeModel);
        let methods = [Method::StructureAndPrecision, Method::Structure];
        let methods = methods.into_iter().chain(baselines).chain(whole);
        let methods = methods.enumerate();
        let methods = methods.flat_map(|(color, method)| {
            let as_published = (!method.is_search()).then_some((color, method, false));
            as_published.into_iter().chain([(color, method, true)])
        });
        let curves = methods.map(|(color, method, is_refitted)| {
            let of = compared.contenders.iter().filter(|c| {
                let is_drawn_so = method.is_search() || c.is_refitted == is_refitted;
                (c.objective, c.method) == (objective, method) && is_drawn_so
            });
            let all: Vec<&Contender> = of.collect();
            let point = |c: &&Contender| (c.latency_us, c.log_perplexity_increase);
            let mut points: Vec<(f64, f64)> = all.iter().map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points.dedup();
            Curve {
                name: all.first().map(|c| c.name()).unwrap_or_default(),
                is_dashed: !method.is_search() && is_refitted,
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
        write_text(&path, &comparison_figure(&curves, latency, loss, MOST))?;
        paths.push(path);
    }
    Ok(paths)
}
