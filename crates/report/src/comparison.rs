//! A figure of methods against each other: what each loses at each latency.

use crate::markup::Element;
use crate::scale::Scale;
use crate::svg::{Axis, Plot, Size, dots, drawing, frame, polyline, text, time_unit};

const SIZE: Size = Size {
    width: 920.0,
    height: 470.0,
};
/// Room for the names on the right.
const NAMES: f64 = 250.0;
/// Distance between them.
const LINE: f64 = 24.0;
/// Drawn in this order; dashed when they are used up.
const COLORS: [&str; 11] = [
    "#d1495b", "#00798c", "#edae49", "#66a182", "#2e4057", "#8d6a9f", "#7a7a7a", "#a0522d",
    "#4f772d", "#111111", "#b5179e",
];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.middle{text-anchor:middle}\
.end{text-anchor:end}.grid{stroke:#e4e4e4}.axis{stroke:#666}path{fill:none;stroke-width:2}\
.dots{stroke-width:7;stroke-linecap:round}";

/// One method.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Whether it is drawn dashed.
    pub is_dashed: bool,
    /// Its colour, by number: curves of one number have one colour.
    pub color: usize,
    /// Latency in microseconds and what is lost there, by rising latency.
    pub points: Vec<(f64, f64)>,
}

/// A self-contained SVG file with all curves. `latency` and `loss` name the axes.
///
/// Losses above `most` leave the picture, so that the worst method does not flatten the others.
pub fn comparison_figure(curves: &[Curve], latency: &str, loss: &str, most: f64) -> String {
    let mut plot = Plot::inside(SIZE);
    plot.right -= NAMES;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (unit, symbol) = time_unit(points().map(|p| p.0).fold(0.0, f64::max));
    let x = Scale::linear(points().map(|p| p.0), plot.horizontal());
    let shown = points().map(|p| p.1).filter(|loss| *loss <= most);
    let y = Scale::from_zero(shown, plot.vertical());
    let x_name = format!("{latency} ({symbol})");
    let drawn = curves.iter().enumerate().map(|(index, curve)| {
        let visible = || {
            let visible = curve.points.iter().filter(|point| point.1 <= most);
            visible.map(|point| (x.position(point.0), y.position(point.1)))
        };
        let top = plot.top + 10.0 + LINE * index as f64;
        let left = plot.right + 24.0;
        let sign = [(left, top), (left + 26.0, top)].into_iter();
        let stroke = |line: Element| {
            let line = line.attr("stroke", COLORS[curve.color % COLORS.len()]);
            match curve.is_dashed {
                true => line.attr("stroke-dasharray", "5 4"),
                false => line,
            }
        };
        let color = COLORS[curve.color % COLORS.len()];
        Element::new("g")
            .child(stroke(polyline("", visible())))
            .child(dots("dots", visible()).attr("stroke", color))
            .child(stroke(polyline("", sign)))
            .child(text("", left + 34.0, top + 4.0, &curve.name))
    });
    let axis = |scale, name, unit| Axis { scale, name, unit };
    drawing(SIZE)
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .child(Element::new("style").text(STYLE))
        .child(frame(plot, axis(x, &x_name, unit), axis(y, loss, 1.0)))
        .children(drawn)
        .render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_named_and_hopeless_points_are_left_out() {
        let curve = |name: &str, last: f64| Curve {
            name: name.to_owned(),
            is_dashed: name == "b<",
            color: 0,
            points: vec![(10_000.0, last), (20_000.0, 0.0)],
        };
        let svg = comparison_figure(&[curve("a", 1.0), curve("b<", 9.0)], "TPOT", "loss", 2.0);
        assert!(svg.contains(">a<") && svg.contains(">b&lt;<"), "{svg}");
        assert!(svg.contains("TPOT (ms)"));
        // Of the second curve only the second point is drawn.
        let path = |dashed: &str| svg.matches(dashed).count();
        assert_eq!(path("stroke-dasharray"), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
