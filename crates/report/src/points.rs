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

/// `12.3 ms per token, 0.52 nats from the full model, 98.1 M parameters`.
pub(crate) fn facts(point: &Point) -> String {
    let measured = point.measured_latency_us.map(format::duration_us);
    format!(
        "{} per token predicted{}, {} nats from the full model, {} parameters",
        format::duration_us(point.latency_us),
        measured.map_or(String::new(), |time| format!(", {time} measured")),
        format::significant(point.kl_divergence),
        format::count(point.parameters as f64),
    )
}

/// What the script knows: layer shapes once each, and points that refer to them.
#[derive(Debug, Serialize)]
struct Embedded<'a> {
    /// `[heads, kv_heads, intermediate_size]`, zeros for a removed block.
    shapes: Vec<[usize; 3]>,
    /// Digits of base 36 in each reference to a shape.
    digits: usize,
    /// One reference for each layer of the full model.
    full: String,
    points: Vec<EmbeddedPoint<'a>>,
}

#[derive(Debug, Serialize)]
struct EmbeddedPoint<'a> {
    role: &'static str,
    label: &'a str,
    facts: String,
    latency_us: f64,
    kl_divergence: f64,
    layers: String,
}

/// The points as JSON that may stand inside a script element.
pub(crate) fn embed(report: &Report, points: &[(Role, &Point)]) -> Result<String, ReportError> {
    let shapes = Shapes::of(
        report
            .full_layers
            .iter()
            .chain(points.iter().flat_map(|(_, p)| &p.layers)),
    );
    let points = points
        .iter()
        .map(|(role, point)| EmbeddedPoint {
            role: role.name(),
            label: &point.label,
            facts: facts(point),
            latency_us: shortened(point.latency_us),
            kl_divergence: shortened(point.kl_divergence),
            layers: shapes.pack(&point.layers),
        })
        .collect();
    let embedded = Embedded {
        full: shapes.pack(&report.full_layers),
        digits: shapes.digits(),
        shapes: shapes.0.keys().copied().collect(),
        points,
    };
    Ok(json_for_script(&serde_json::to_string(&embedded)?))
}

/// Enough digits to place a point to a hundredth of a pixel.
fn shortened(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Every shape that occurs, in order, with its index.
struct Shapes(BTreeMap<[usize; 3], usize>);

impl Shapes {
    fn of<'a>(layers: impl Iterator<Item = &'a LayerShape>) -> Self {
        let mut shapes: BTreeMap<_, _> = layers.map(|layer| (shape(layer), 0)).collect();
        for (index, at) in shapes.values_mut().enumerate() {
            *at = index;
        }
        Self(shapes)
    }

    fn digits(&self) -> usize {
        base_36(self.0.len().saturating_sub(1), 1).len()
    }

    fn pack(&self, layers: &[LayerShape]) -> String {
        let digits = self.digits();
        let index = |layer| self.0.get(&shape(layer)).copied().unwrap_or(0);
        layers
            .iter()
            .map(|layer| base_36(index(layer), digits))
            .collect()
    }
}

fn shape(layer: &LayerShape) -> [usize; 3] {
    let (heads, kv_heads) = layer
        .attention
        .as_ref()
        .map_or((0, 0), |a| (a.heads, a.kv_heads));
    [
        heads,
        kv_heads,
        layer.mlp.as_ref().map_or(0, |m| m.intermediate_size),
    ]
}

/// `value` in base 36, with zeros in front up to `digits`.
fn base_36(mut value: usize, digits: usize) -> String {
    let mut reversed = Vec::new();
    while value > 0 || reversed.len() < digits {
        reversed.push(char::from_digit((value % 36) as u32, 36).unwrap_or('0'));
        value /= 36;
    }
    reversed.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_equal_width() {
        assert_eq!(base_36(0, 1), "0");
        assert_eq!(base_36(35, 2), "0z");
        assert_eq!(base_36(36, 1), "10");
    }
}
