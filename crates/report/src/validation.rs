//! Predicted against measured: whole networks, both phases.

use crate::data::{Phase, Report, ValidationPoint, ValidationStatistics};
use crate::format;
use crate::markup::Element;
use crate::scale::Scale;
use crate::svg::Marker;
use crate::svg::{Axis, Plot, Size, drawing, frame, line, marker, path, px, time_unit};

/// One size for wide and narrow pages: two side by side on the one, a little shrunk on the other.
const PANEL: Size = Size {
    width: 420.0,
    height: 370.0,
};

/// Half the width of the band around the identity, as a share of the measured time.
const BAND: f64 = 0.10;

/// The section.
pub(crate) fn section(report: &Report) -> Element {
    let section = Element::new("section")
        .attr("id", "validation")
        .attr("aria-labelledby", "validation-heading")
        .child(
            Element::new("h2")
                .attr("id", "validation-heading")
                .text("Predicted against measured"),
        );
    let notes = report.validation_notes.iter();
    let section = section.children(notes.map(|note| Element::new("p").text(note)));
    let section = if report.validation.is_empty() {
        section
            .child(Element::new("p").text("No whole network was measured to validate predictions."))
    } else {
        let text = "Each mark is a whole network, run on the device. The line is perfect prediction, \
            the band an error of 10 % of the measured time, whiskers the 95 % confidence interval \
            of the measurement.";
        let panels = Phase::ALL.map(|phase| panel(phase, &report.validation));
        section
            .child(Element::new("p").text(text))
            .child(Element::new("div").class("panels").children(panels))
    };
    if report.validation_statistics.is_empty() {
        return section.child(Element::new("p").text("No error statistics were recorded."));
    }
    let table = statistics(&report.validation_statistics);
    section.child(Element::new("div").class("scroll").child(table))
}

fn panel(phase: Phase, points: &[ValidationPoint]) -> Element {
    let points: Vec<_> = points.iter().filter(|point| point.phase == phase).collect();
    let heading = Element::new("h3").text(capitalised(phase.name()));
    let panel = Element::new("div").class("panel").child(heading);
    if points.is_empty() {
        let none = format!("No {} was measured on whole networks.", phase.name());
        return panel.child(Element::new("p").text(none));
    }
    panel.child(scatter(phase, &points))
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn scatter(phase: Phase, points: &[&ValidationPoint]) -> Element {
    let plot = Plot::inside(PANEL);
    let ends = points.iter().flat_map(|p| {
        [
            p.predicted_us,
            p.measured_us - p.measured_ci95_us,
            p.measured_us + p.measured_ci95_us,
        ]
    });
    let x = Scale::fitted(ends, plot.horizontal());
    let y = Scale {
        range: plot.vertical(),
        ..x
    };
    let (unit, symbol) = time_unit(x.domain.1);
    let (x_name, y_name) = (
        format!("Predicted ({symbol})"),
        format!("Measured ({symbol})"),
    );
    let clip = format!("clip-{}", phase.name());
    let n = format::plural(points.len(), "network", "networks");
    drawing(PANEL)
        .attr("role", "img")
        .attr(
            "aria-label",
            format!("Measured against predicted {} time of {n}", phase.name()),
        )
        .child(clip_path(&clip, plot))
        .child(frame(
            plot,
            Axis {
                scale: x,
                name: &x_name,
                unit,
            },
            Axis {
                scale: y,
                name: &y_name,
                unit,
            },
        ))
        .child(
            Element::new("g")
                .attr("clip-path", format!("url(#{clip})"))
                .children(identity(x, y))
                .children(points.iter().map(|point| mark(point, x, y))),
        )
}

fn clip_path(id: &str, plot: Plot) -> Element {
    let (width, height) = (plot.right - plot.left, plot.bottom - plot.top);
    let area = crate::svg::rect("", plot.left, plot.top, width, height);
    Element::new("clipPath").attr("id", id).child(area)
}

/// The identity and the band: straight on linear and on logarithmic axes alike.
fn identity(x: Scale, y: Scale) -> [Element; 2] {
    let (low, high) = x.domain;
    let at = |predicted: f64, measured: f64| (x.position(predicted), y.position(measured));
    let corners = [
        at(low, low / (1.0 - BAND)),
        at(high, high / (1.0 - BAND)),
        at(high, high / (1.0 + BAND)),
        at(low, low / (1.0 + BAND)),
    ];
    let outline: Vec<String> = corners
        .iter()
        .map(|(x, y)| format!("{} {}", px(*x), px(*y)))
        .collect();
    [
        path("band", &format!("M{}Z", outline.join("L"))),
        line("identity", at(low, low), at(high, high)),
    ]
}

fn mark(point: &ValidationPoint, x: Scale, y: Scale) -> Element {
    let (at_x, at_y) = (
        x.position(point.predicted_us),
        y.position(point.measured_us),
    );
    let low = y.position((point.measured_us - point.measured_ci95_us).max(y.domain.0));
    let high = y.position(point.measured_us + point.measured_ci95_us);
    let error = 100.0 * (point.predicted_us - point.measured_us) / point.measured_us;
    let title = format!(
        "{}: predicted {}, measured {} ± {}, error {}",
        point.label,
        format::duration_us(point.predicted_us),
        format::duration_us(point.measured_us),
        format::duration_us(point.measured_ci95_us),
        format::signed_percent(error),
    );
    let (left, x_text) = (px(at_x - 3.0), px(at_x));
    let [low, high] = [low, high].map(px);
    let whisker = format!("M{x_text} {low}V{high}M{left} {low}h6M{left} {high}h6");
    let sign = marker("sign measured", Marker::Circle)
        .attr("transform", format!("translate({} {})", px(at_x), px(at_y)));
    Element::new("g")
        .child(Element::new("title").text(title))
        .children([path("whisker", &whisker), sign])
}

fn statistics(rows: &[ValidationStatistics]) -> Element {
    let heads = [
        "Phase",
        "Networks",
        "Mean error",
        "Bias",
        "Within 5 %",
        "Within 10 %",
        "Kendall τ",
        "Spearman ρ",
    ];
    let head = Element::new("tr")
        .children(heads.map(|name| Element::new("th").attr("scope", "col").text(name)));
    let caption = "Errors are relative to the measured time; a positive bias predicts too slow.";
    Element::new("table")
        .child(Element::new("caption").text(caption))
        .child(Element::new("thead").child(head))
        .child(Element::new("tbody").children(rows.iter().map(statistics_row)))
}

fn statistics_row(row: &ValidationStatistics) -> Element {
    let correlation =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| format::fixed(value, 3));
    let cells = [
        format::fixed(row.n as f64, 0),
        format::percent(row.mape_percent),
        format::signed_percent(row.bias_percent),
        format::percent(100.0 * row.share_within_5_percent),
        format::percent(100.0 * row.share_within_10_percent),
        correlation(row.kendall_tau),
        correlation(row.spearman),
    ];
    Element::new("tr")
        .child(
            Element::new("th")
                .attr("scope", "row")
                .text(capitalised(row.phase.name())),
        )
        .children(cells.map(|cell| Element::new("td").text(cell)))
}
