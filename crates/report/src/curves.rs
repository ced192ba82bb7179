//! Curves in one picture, with their names on its right.

use crate::markup::Element;
use crate::scale::Scale;
use crate::svg::{Axis, Plot, Size, dots, drawing, frame, polyline, text};

const SIZE: Size = Size {
    width: 920.0,
    height: 470.0,
};
/// Room for the names.
const NAMES: f64 = 250.0;
/// Distance between them.
const LINE: f64 = 24.0;
/// Used in this order, and again when they are used up.
const COLORS: [&str; 12] = [
    "#d1495b", "#00798c", "#edae49", "#66a182", "#2e4057", "#8d6a9f", "#7a7a7a", "#a0522d",
    "#4f772d", "#111111", "#b5179e", "#4361ee",
];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.middle{text-anchor:middle}\
.end{text-anchor:end}.grid{stroke:#e4e4e4}.axis{stroke:#666}.curve{fill:none;stroke-width:2}\
.dots{stroke-width:7;stroke-linecap:round}";

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Whether it is drawn dashed.
    pub is_dashed: bool,
    /// Its colour, by number: curves of one number have one colour.
    pub color: usize,
    /// Where it is, along and up, by what is along.
    pub points: Vec<(f64, f64)>,
}

/// Where they are drawn.
pub(crate) fn plot() -> Plot {
    let mut plot = Plot::inside(SIZE);
    plot.right -= NAMES;
    plot
}

/// All curves; with dots where `has_dots`. What is above `most` leaves the picture.
pub(crate) fn picture(
    curves: &[Curve],
    [x, y]: [Axis<'_>; 2],
    most: f64,
    has_dots: bool,
) -> Element {
    let plot = plot();
    let drawn = curves.iter().enumerate().map(|(index, curve)| {
        let visible = || {
            let visible = curve.points.iter().filter(|point| point.1 <= most);
            visible.map(|point| (x.scale.position(point.0), y.scale.position(point.1)))
        };
        let top = plot.top + 10.0 + LINE * index as f64;
        let left = plot.right + 24.0;
        let sign = [(left, top), (left + 26.0, top)].into_iter();
        let color = COLORS[curve.color % COLORS.len()];
        let stroke = |line: Element| {
            let line = line.attr("stroke", color);
            match curve.is_dashed {
                true => line.attr("stroke-dasharray", "5 4"),
                false => line,
            }
        };
        let dots = has_dots.then(|| dots("dots", visible()).attr("stroke", color));
        Element::new("g")
            .child(stroke(polyline("curve", visible())))
            .children(dots)
            .child(stroke(polyline("curve", sign)))
            .child(text("", left + 34.0, top + 4.0, &curve.name))
    });
    drawing(SIZE).child(frame(plot, x, y)).children(drawn)
}

/// Where the curves are along, and where they are up, as far as that is not above `most`.
pub(crate) fn values(curves: &[Curve], most: f64) -> [Vec<f64>; 2] {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let along = points().map(|point| point.0).collect();
    let up = points().map(|point| point.1).filter(|up| *up <= most);
    [along, up.collect()]
}

/// A linear axis over `values`.
pub(crate) fn along(values: &[f64]) -> Scale {
    Scale::linear(values.iter().copied(), plot().horizontal())
}

/// The picture as a file of its own.
pub(crate) fn file(picture: Element) -> String {
    picture
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .child(Element::new("style").text(STYLE))
        .render()
}
