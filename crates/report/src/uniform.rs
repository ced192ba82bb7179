//! What the search gains over uniform pruning at equal latency.

use crate::data::{Point, Report};
use crate::format;
use crate::markup::Element;

/// The section: for each uniformly pruned model the best evaluation that is no slower.
pub(crate) fn section(report: &Report) -> Element {
    let section = Element::new("section")
        .attr("id", "uniform")
        .attr("aria-labelledby", "uniform-heading")
        .child(
            Element::new("h2")
                .attr("id", "uniform-heading")
                .text("Against uniform pruning"),
        );
    if report.uniform.is_empty() {
        let none = "The study has no uniformly pruned models to compare with.";
        return section.child(Element::new("p").text(none));
    }
    let text = "Each uniformly pruned model beside the best point of the front that is no slower. \
        A ratio below 1 means that the search did better.";
    section
        .child(Element::new("p").text(text))
        .child(Element::new("div").class("scroll").child(table(report)))
}

/// The point of the front with the lowest divergence among those no slower than `latency_us`.
fn best_within(report: &Report, latency_us: f64) -> Option<&Point> {
    let front = report.front.iter().map(|&index| &report.evaluations[index]);
    front
        .filter(|point| point.latency_us <= latency_us)
        .min_by(|a, b| a.kl_divergence.total_cmp(&b.kl_divergence))
}

fn table(report: &Report) -> Element {
    let heads = [
        "Uniform",
        "Time per token",
        "KL divergence",
        "From the front",
        "Time per token",
        "KL divergence",
        "Ratio of divergence",
    ];
    let head = Element::new("tr")
        .children(heads.map(|name| Element::new("th").attr("scope", "col").text(name)));
    let mut uniform: Vec<_> = report.uniform.iter().collect();
    uniform.sort_by(|a, b| a.latency_us.total_cmp(&b.latency_us));
    let rows = uniform
        .into_iter()
        .map(|point| row(point, best_within(report, point.latency_us)));
    Element::new("table")
        .child(Element::new("thead").child(head))
        .child(Element::new("tbody").children(rows))
}

fn row(uniform: &Point, found: Option<&Point>) -> Element {
    let numbers = |p: &Point| {
        [
            format::duration_us(p.latency_us),
            format::significant(p.kl_divergence),
        ]
    };
    let cell = |text: String| Element::new("td").text(text);
    let row = Element::new("tr")
        .child(Element::new("th").attr("scope", "row").text(&uniform.label))
        .children(numbers(uniform).map(cell));
    let Some(found) = found else {
        return row.child(
            cell("none as fast".to_owned())
                .class("text")
                .attr("colspan", 4),
        );
    };
    let ratio = match uniform.kl_divergence {
        // The full model itself.
        0.0 => "–".to_owned(),
        divergence => format::ratio(found.kl_divergence / divergence),
    };
    row.child(cell(found.label.clone()).class("text"))
        .children(numbers(found).map(cell))
        .child(cell(ratio))
}
