//! Drawing primitives, and the frame of a chart.

use crate::markup::Element;
use crate::scale::Scale;

/// Width and height of a drawing in page pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// The rectangle that data are drawn into, inside the room for ticks and labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
}

impl Plot {
    /// The plot of a chart with labels on the left and below.
    pub(crate) fn inside(size: Size) -> Self {
        Self {
            left: 56.0,
            top: 14.0,
            right: size.width - 14.0,
            bottom: size.height - 46.0,
        }
    }

    /// Page coordinates from left to right.
    pub(crate) fn horizontal(&self) -> (f64, f64) {
        (self.left, self.right)
    }

    /// Page coordinates from bottom to top.
    pub(crate) fn vertical(&self) -> (f64, f64) {
        (self.bottom, self.top)
    }
}

/// An SVG element of this size, which shrinks with the page.
pub(crate) fn drawing(size: Size) -> Element {
    Element::new("svg")
        .attr(
            "viewBox",
            format!("0 0 {} {}", px(size.width), px(size.height)),
        )
        .attr("width", px(size.width))
        .attr("height", px(size.height))
}

/// A page coordinate to a tenth of a pixel.
pub(crate) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A straight line.
pub(crate) fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Element {
    Element::new("line")
        .class(class)
        .attr("x1", px(from.0))
        .attr("y1", px(from.1))
        .attr("x2", px(to.0))
        .attr("y2", px(to.1))
}

/// A rectangle.
pub(crate) fn rect(class: &str, x: f64, y: f64, width: f64, height: f64) -> Element {
    Element::new("rect")
        .class(class)
        .attr("x", px(x))
        .attr("y", px(y))
        .attr("width", px(width))
        .attr("height", px(height))
}

/// Text at a place; `class` decides its anchor.
pub(crate) fn text(class: &str, x: f64, y: f64, text: &str) -> Element {
    Element::new("text")
        .class(class)
        .attr("x", px(x))
        .attr("y", px(y))
        .text(text)
}

/// A path.
pub(crate) fn path(class: &str, data: &str) -> Element {
    Element::new("path").class(class).attr("d", data)
}

/// A line through `points`.
pub(crate) fn polyline(class: &str, points: impl Iterator<Item = (f64, f64)>) -> Element {
    let data: Vec<String> = points
        .map(|(x, y)| format!("{} {}", px(x), px(y)))
        .collect();
    path(
        class,
        &if data.is_empty() {
            String::new()
        } else {
            format!("M{}", data.join("L"))
        },
    )
}

/// Many dots as one path of empty strokes with round ends: a few bytes a dot.
pub(crate) fn dots(class: &str, points: impl Iterator<Item = (f64, f64)>) -> Element {
    let data: String = points
        .map(|(x, y)| format!("M{} {}h0", px(x), px(y)))
        .collect();
    path(class, &data)
}

/// Shapes that tell kinds of points apart without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Diamond,
    Triangle,
}

/// A marker around the origin, to be placed with `transform`.
pub(crate) fn marker(class: &str, marker: Marker) -> Element {
    path(
        class,
        match marker {
            Marker::Circle => "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
            Marker::Square => "M-5.5-5.5h11v11h-11Z",
            Marker::Diamond => "M0-8.5L8.5 0L0 8.5L-8.5 0Z",
            Marker::Triangle => "M0-6L6 5H-6Z",
        },
    )
}

/// An axis with its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis<'a> {
    /// Where values go.
    pub(crate) scale: Scale,
    /// Quantity and unit.
    pub(crate) name: &'a str,
    /// How many of the scale's units one unit of the tick labels has.
    pub(crate) unit: f64,
}

/// Grid, ticks and names of two axes.
pub(crate) fn frame(plot: Plot, x: Axis<'_>, y: Axis<'_>) -> Element {
    let across = ((plot.right - plot.left) / 58.0).max(2.0) as usize;
    let up = ((plot.bottom - plot.top) / 42.0).max(2.0) as usize;
    let x_ticks = x
        .scale
        .per(x.unit)
        .ticks(across)
        .into_iter()
        .flat_map(|(value, label)| {
            let at = x.scale.position(value * x.unit);
            let end = (at, plot.bottom + 5.0);
            [
                line("grid", (at, plot.top), (at, plot.bottom)),
                line("axis", (at, plot.bottom), end),
                text("tick middle", at, plot.bottom + 18.0, &label),
            ]
        });
    let y_ticks = y
        .scale
        .per(y.unit)
        .ticks(up)
        .into_iter()
        .flat_map(|(value, label)| {
            let at = y.scale.position(value * y.unit);
            [
                line("grid", (plot.left, at), (plot.right, at)),
                line("axis", (plot.left - 5.0, at), (plot.left, at)),
                text("tick end", plot.left - 8.0, at + 4.0, &label),
            ]
        });
    let middle = (plot.top + plot.bottom) / 2.0;
    Element::new("g")
        .attr("aria-hidden", "true")
        .children(x_ticks)
        .children(y_ticks)
        .child(line(
            "axis",
            (plot.left, plot.bottom),
            (plot.right, plot.bottom),
        ))
        .child(line(
            "axis",
            (plot.left, plot.top),
            (plot.left, plot.bottom),
        ))
        .child(text(
            "name middle",
            (plot.left + plot.right) / 2.0,
            plot.bottom + 38.0,
            x.name,
        ))
        .child(text("name middle", 0.0, 0.0, y.name).attr(
            "transform",
            format!("translate(13 {}) rotate(-90)", px(middle)),
        ))
}

/// The unit for an axis of times up to `largest_us`: its size in microseconds and its symbol.
pub(crate) fn time_unit(largest_us: f64) -> (f64, &'static str) {
    match largest_us {
        us if us < 2e3 => (1.0, "µs"),
        us if us < 2e6 => (1e3, "ms"),
        _ => (1e6, "s"),
    }
}
