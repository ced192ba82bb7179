//! The points of the front's chart: which there are, and how the script gets them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::{LayerShape, Point, Report};
use crate::error::ReportError;
use crate::format;
use crate::markup::json_for_script;
use crate::svg::Marker;

/// Why a point is on the chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// One of many that were tried.
    Evaluation,
    /// Not beaten by any other evaluation.
    Front,
    /// A uniformly pruned model.
    Uniform,
    /// The full model.
    Base,
    /// What the study hands over.
    Chosen,
}

impl Role {
    /// Its name on the page.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Evaluation => "evaluated",
            Self::Front => "Pareto front",
            Self::Uniform => "uniform pruning",
            Self::Base => "full model",
            Self::Chosen => "chosen",
        }
    }

    /// Its class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Evaluation => "evaluation",
            Self::Front => "front",
            Self::Uniform => "uniform",
            Self::Base => "base",
            Self::Chosen => "chosen",
        }
    }

    /// Its shape; evaluations are dots.
    pub(crate) fn marker(self) -> Marker {
        match self {
            Self::Evaluation | Self::Front => Marker::Circle,
            Self::Uniform => Marker::Triangle,
            Self::Base => Marker::Square,
            Self::Chosen => Marker::Diamond,
        }
    }
}

/// All points of the chart, in drawing order: the most important last.
pub(crate) fn on_chart(report: &Report) -> Vec<(Role, &Point)> {
    let mut is_front = vec![false; report.evaluations.len()];
    for &index in &report.front {
        is_front[index] = true;
    }
    let evaluations = report
        .evaluations
        .iter()
        .zip(is_front)
        .map(|(point, is_front)| {
            (
                if is_front {
                    Role::Front
                } else {
                    Role::Evaluation
                },
                point,
            )
        });
    let mut points: Vec<_> = evaluations
        .chain(report.uniform.iter().map(|point| (Role::Uniform, point)))
        .chain(report.base.iter().map(|point| (Role::Base, point)))
        .chain(report.chosen.iter().map(|point| (Role::Chosen, point)))
        .collect();
    points.sort_by(|(a, p), (b, q)| a.cmp(b).then(p.latency_us.total_cmp(&q.latency_us)));
    points
}

/// `12.3 ms per token, perplexity 14.2, 98.1 M parameters`.
pub(crate) fn facts(point: &Point) -> String {
    let measured = point.measured_latency_us.map(format::duration_us);
    format!(
        "{} per token predicted{}, perplexity {}, {} parameters",
        format::duration_us(point.latency_us),
        measured.map_or(String::new(), |time| format!(", {time} measured")),
        format::significant(point.perplexity),
        format::count(point.parameters as f64),
    )
}

/// What the script knows: layer shapes once each, and points that refer to them.
#[derive(Debug, Serialize)]
struct Embedded<'a> {
    /// `[heads, kv_heads, intermediate_size]`, zeros for a removed block.
    shapes: Vec<[usize; 3]>,
    /// One index into `shapes` for each layer of the full model.
    full: Vec<usize>,
    points: Vec<EmbeddedPoint<'a>>,
}

#[derive(Debug, Serialize)]
struct EmbeddedPoint<'a> {
    role: &'static str,
    label: &'a str,
    facts: String,
    latency_us: f64,
    perplexity: f64,
    layers: Vec<usize>,
}

/// The points as JSON that may stand inside a script element.
pub(crate) fn embed(report: &Report, points: &[(Role, &Point)]) -> Result<String, ReportError> {
    let mut shapes = BTreeMap::new();
    let full = indices(&mut shapes, &report.full_layers);
    let points = points
        .iter()
        .map(|(role, point)| EmbeddedPoint {
            role: role.name(),
            label: &point.label,
            facts: facts(point),
            latency_us: point.latency_us,
            perplexity: point.perplexity,
            layers: indices(&mut shapes, &point.layers),
        })
        .collect();
    let mut ordered = vec![[0; 3]; shapes.len()];
    for (shape, index) in shapes {
        ordered[index] = shape;
    }
    let json = serde_json::to_string(&Embedded {
        shapes: ordered,
        full,
        points,
    })?;
    Ok(json_for_script(&json))
}

fn indices(shapes: &mut BTreeMap<[usize; 3], usize>, layers: &[LayerShape]) -> Vec<usize> {
    let index = |layer: &LayerShape| {
        let (heads, kv_heads) = layer
            .attention
            .as_ref()
            .map_or((0, 0), |a| (a.heads, a.kv_heads));
        let width = layer.mlp.as_ref().map_or(0, |m| m.intermediate_size);
        let next = shapes.len();
        *shapes.entry([heads, kv_heads, width]).or_insert(next)
    };
    layers.iter().map(index).collect()
}
