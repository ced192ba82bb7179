//! The Pareto front: every evaluation, what is best at each latency, and the points to compare.

use crate::data::{Point, Report};
use crate::format;
use crate::label::{LabelBox, place};
use crate::layers;
use crate::markup::Element;
use crate::points::{Role, facts};
use crate::scale::Scale;
use crate::svg::{Axis, Plot, Size, dots, drawing, frame, marker, polyline, px, text, time_unit};

const WIDE: Size = Size {
    width: 920.0,
    height: 470.0,
};
const NARROW: Size = Size {
    width: 340.0,
    height: 360.0,
};

/// The section, from the points of the chart in drawing order.
pub(crate) fn section(report: &Report, points: &[(Role, &Point)]) -> Element {
    let section = Element::new("section")
        .attr("id", "front")
        .attr("aria-labelledby", "front-heading")
        .child(
            Element::new("h2")
                .attr("id", "front-heading")
                .text("Quality against latency"),
        );
    if points.is_empty() {
        return section.child(Element::new("p").text("The study has no points to show."));
    }
    let reading = "Lower left is better. Point at a dot, or move through the marked ones with Tab \
        and the arrow keys (up and down visit every evaluation), to see what it is; click or press \
        Enter to see its layers.";
    section
        .child(Element::new("p").text(introduction(report)))
        .child(legend(points))
        .child(chart(points))
        .child(Element::new("p").class("note screen").text(reading))
        .child(tooltip(report))
        .child(selection())
        .child(front_table(points))
}

fn introduction(report: &Report) -> String {
    let evaluated = report.evaluations.len();
    if evaluated == 0 {
        return "The study has no evaluations; only the points to compare are shown.".to_owned();
    }
    let found = format::plural(evaluated, "sub-network was", "sub-networks were");
    match report.front.len() {
        0 => format!("{found} evaluated. The study names no Pareto front."),
        n => format!(
            "{found} evaluated; {} on the Pareto front: nothing tried is both faster and better.",
            format::plural(n, "is", "are")
        ),
    }
}

fn legend(points: &[(Role, &Point)]) -> Element {
    let roles = [
        Role::Evaluation,
        Role::Front,
        Role::Uniform,
        Role::Base,
        Role::Chosen,
    ];
    let shown = roles
        .into_iter()
        .filter(|role| points.iter().any(|(r, _)| r == role));
    Element::new("ul")
        .class("legend")
        .children(shown.map(|role| {
            let sign = match role {
                Role::Evaluation => dots("dots", [(9.0, 9.0)].into_iter()),
                _ => sign(role).attr("transform", "translate(9 9)"),
            };
            let drawn = drawing(Size {
                width: 18.0,
                height: 18.0,
            })
            .attr("aria-hidden", "true");
            Element::new("li")
                .child(drawn.child(sign))
                .text(role.name())
        }))
}

fn sign(role: Role) -> Element {
    marker(&format!("sign {}", role.class()), role.marker())
}

fn chart(points: &[(Role, &Point)]) -> Element {
    Element::new("div")
        .class("chart")
        .child(
            Element::new("div")
                .class("wide")
                .child(scatter(points, WIDE)),
        )
        .child(
            Element::new("div")
                .class("narrow")
                .child(scatter(points, NARROW)),
        )
}

fn scatter(points: &[(Role, &Point)], size: Size) -> Element {
    let plot = Plot::inside(size);
    let latencies = points.iter().map(|(_, p)| p.latency_us);
    let (unit, symbol) = time_unit(latencies.clone().fold(0.0, f64::max));
    let x = Scale::linear(latencies, plot.horizontal());
    let divergences = points.iter().map(|(_, p)| p.kl_divergence);
    let y = Scale::from_zero(divergences, plot.vertical());
    let at = |p: &Point| (x.position(p.latency_us), y.position(p.kl_divergence));
    let of = |wanted: Role| points.iter().filter(move |(role, _)| *role == wanted);
    let x_name = format!("Time per output token, predicted ({symbol})");
    drawing(size)
        .class("scatter")
        .attr("role", "group")
        .attr(
            "aria-label",
            "Scatter of KL divergence against predicted time per output token",
        )
        .attr("data-x", x.describe())
        .attr("data-y", y.describe())
        .child(frame(
            plot,
            Axis {
                scale: x,
                name: &x_name,
                unit,
            },
            Axis {
                scale: y,
                name: "KL divergence from the full model (nats per token)",
                unit: 1.0,
            },
        ))
        .child(dots("dots", of(Role::Evaluation).map(|(_, p)| at(p))))
        .child(polyline("front-line", of(Role::Front).map(|(_, p)| at(p))))
        .child(
            Element::new("circle")
                .class("ring")
                .attr("r", 10)
                .attr("display", "none"),
        )
        .children(marks(points, &at))
        .children(names(points, plot, &at))
}

/// The points that are reached with the keyboard: one tab stop, arrow keys from there.
fn marks(points: &[(Role, &Point)], at: &dyn Fn(&Point) -> (f64, f64)) -> Vec<Element> {
    let marked = points
        .iter()
        .enumerate()
        .filter(|(_, (role, _))| *role != Role::Evaluation);
    marked
        .enumerate()
        .map(|(order, (index, (role, point)))| {
            let (x, y) = at(point);
            let label = format!("{} ({}): {}", point.label, role.name(), facts(point));
            Element::new("g")
                .class("mark")
                .attr("transform", format!("translate({} {})", px(x), px(y)))
                .attr("data-point", index)
                .attr("tabindex", if order == 0 { 0 } else { -1 })
                .attr("role", "button")
                .attr("aria-label", label)
                .child(sign(*role))
        })
        .collect()
}

/// Direct labels of the two points that every reader looks for.
fn names(points: &[(Role, &Point)], plot: Plot, at: &dyn Fn(&Point) -> (f64, f64)) -> Vec<Element> {
    let places: Vec<_> = points.iter().map(|(_, p)| at(p)).collect();
    let (width, height) = (plot.right - plot.left, plot.bottom - plot.top);
    let bounds = LabelBox {
        x: plot.left,
        y: plot.top,
        width,
        height,
    };
    let mut taken = Vec::new();
    let named = points
        .iter()
        .filter(|(role, _)| matches!(role, Role::Base | Role::Chosen));
    named
        .map(|(role, point)| {
            let label = LabelBox::of_text(role.name());
            let label = place(label, at(point), &bounds, &taken, &places);
            taken.push(label);
            let (x, y) = (
                label.x + label.width / 2.0,
                label.y + label.height / 2.0 + 4.5,
            );
            text("label middle", x, y, role.name()).attr("aria-hidden", "true")
        })
        .collect()
}

fn tooltip(report: &Report) -> Element {
    Element::new("div")
        .attr("id", "tooltip")
        .attr("aria-hidden", "true")
        .child(Element::new("strong"))
        .child(Element::new("span"))
        .child(layers::miniature(&report.full_layers))
}

/// Where the script shows the layers of the point that was clicked.
fn selection() -> Element {
    Element::new("div")
        .attr("id", "selected")
        .attr("aria-live", "polite")
}

/// The front as a table, for those who cannot or do not want to point.
fn front_table(points: &[(Role, &Point)]) -> Element {
    let front: Vec<_> = points
        .iter()
        .filter(|(role, _)| *role == Role::Front)
        .collect();
    if front.is_empty() {
        return Element::new("p")
            .class("note")
            .text("There is no front to list.");
    }
    let heads = [
        "Point",
        "Time per token",
        "Measured",
        "KL divergence",
        "Parameters",
    ];
    let head = Element::new("tr")
        .children(heads.map(|name| Element::new("th").attr("scope", "col").text(name)));
    let rows = front.iter().map(|(_, point)| {
        let measured = point
            .measured_latency_us
            .map_or("–".to_owned(), format::duration_us);
        let cells = [
            format::duration_us(point.latency_us),
            measured,
            format::significant(point.kl_divergence),
            format::count(point.parameters as f64),
        ];
        Element::new("tr")
            .child(Element::new("th").attr("scope", "row").text(&point.label))
            .children(cells.map(|cell| Element::new("td").text(cell)))
    });
    let table = Element::new("table")
        .child(Element::new("thead").child(head))
        .child(Element::new("tbody").children(rows));
    Element::new("details")
        .child(Element::new("summary").text("The front as a table"))
        .child(Element::new("div").class("scroll").child(table))
}
