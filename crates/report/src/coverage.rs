//! What the predictions rest on: the entries of the latency table and how well each is known.

use crate::data::{CoverageEntry, Phase, Report};
use crate::format;
use crate::markup::Element;
use crate::svg::{Size, drawing, line, px, rect};

const BAR: Size = Size {
    width: 90.0,
    height: 12.0,
};

/// The relative uncertainty that fills the bar, in percent. Wider ones fill it too
/// and are told by the number beside it.
const BAR_FULL_PERCENT: f64 = 10.0;

/// The section.
pub(crate) fn section(report: &Report) -> Element {
    let section = Element::new("section")
        .attr("id", "coverage")
        .attr("aria-labelledby", "coverage-heading")
        .child(
            Element::new("h2")
                .attr("id", "coverage-heading")
                .text("Measured prices"),
        );
    if report.coverage.is_empty() {
        let none = "The latency table has no entries to show.";
        return section.child(Element::new("p").text(none));
    }
    let table = table(&report.coverage);
    section
        .child(Element::new("p").text(introduction(&report.coverage)))
        .child(filters())
        .child(
            Element::new("div")
                .class("scroll tall")
                .attr("tabindex", 0)
                .attr("role", "region")
                .attr("aria-labelledby", "coverage-heading")
                .child(table),
        )
}

/// Half the 95 % confidence interval in percent of the median; absent where that has no sense.
fn uncertainty_percent(entry: &CoverageEntry) -> Option<f64> {
    (entry.median_us > 0.0)
        .then(|| 100.0 * entry.ci95_us / entry.median_us)
        .filter(|percent| percent.is_finite())
}

fn introduction(entries: &[CoverageEntry]) -> String {
    let flagged = entries
        .iter()
        .filter(|entry| !entry.flags.is_empty())
        .count();
    let counts = Phase::ALL.map(|phase| {
        let n = entries.iter().filter(|entry| entry.phase == phase).count();
        format!("{n} {}", phase.name())
    });
    let mut known: Vec<f64> = entries.iter().filter_map(uncertainty_percent).collect();
    known.sort_by(f64::total_cmp);
    let spread = match (known.get(known.len() / 2), known.last()) {
        (Some(middle), Some(widest)) => format!(
            " Half of them are known to ±{} or better, the worst to ±{}.",
            format::percent(*middle),
            format::percent(*widest)
        ),
        _ => String::new(),
    };
    let entries = format::plural(entries.len(), "entry", "entries");
    format!(
        "{entries} ({}), {flagged} flagged.{spread}",
        counts.join(", ")
    )
}

/// Works with the script only, which shows it.
fn filters() -> Element {
    let label = |text: &str, field: Element| Element::new("label").text(text).child(field);
    let option = |value: &str, text: &str| Element::new("option").attr("value", value).text(text);
    let phases = Element::new("select")
        .attr("id", "filter-phase")
        .child(option("", "both"))
        .children(Phase::ALL.map(|phase| option(phase.name(), phase.name())));
    let block = Element::new("input")
        .attr("type", "search")
        .attr("id", "filter-block");
    let flagged = Element::new("input")
        .attr("type", "checkbox")
        .attr("id", "filter-flagged");
    Element::new("div")
        .class("filters")
        .attr("hidden", "")
        .child(label("Block ", block))
        .child(label("Phase ", phases))
        .child(Element::new("label").child(flagged).text(" flagged only"))
        .child(Element::new("output").attr("id", "filter-count"))
}

fn table(entries: &[CoverageEntry]) -> Element {
    let heads = [
        ("Block", "text"),
        ("Phase", "text"),
        ("Median", ""),
        ("95 % interval", ""),
        ("Samples", ""),
        ("Footprint", ""),
        ("Flags", "text"),
    ];
    let head = |(name, class)| {
        Element::new("th")
            .attr("scope", "col")
            .class(class)
            .text(name)
    };
    let head = Element::new("tr").children(heads.map(head));
    Element::new("table")
        .attr("id", "coverage-table")
        .child(Element::new("thead").child(head))
        .child(Element::new("tbody").children(entries.iter().map(row)))
}

fn row(entry: &CoverageEntry) -> Element {
    let cell = |text: String| Element::new("td").text(text);
    let number = |sort: f64, text: String| cell(text).attr("data-sort", sort);
    let uncertainty = uncertainty_percent(entry);
    Element::new("tr")
        .attr("data-phase", entry.phase.name())
        .child(Element::new("th").attr("scope", "row").text(&entry.block))
        .child(cell(entry.phase.name().to_owned()).class("text"))
        .child(number(
            entry.median_us,
            format::duration_us(entry.median_us),
        ))
        .child(interval(uncertainty))
        .child(number(
            entry.samples as f64,
            format::fixed(entry.samples as f64, 0),
        ))
        .child(number(
            entry.footprint_bytes as f64,
            format::bytes(entry.footprint_bytes as f64),
        ))
        .child(
            Element::new("td").class("text").children(
                entry
                    .flags
                    .iter()
                    .map(|flag| Element::new("span").class("flag").text(format!("⚑ {flag}"))),
            ),
        )
}

/// A bar from minus to plus the uncertainty around the median, and the number.
fn interval(percent: Option<f64>) -> Element {
    let Some(percent) = percent else {
        return Element::new("td").attr("data-sort", f64::MAX).text("–");
    };
    let middle = BAR.width / 2.0;
    let reach = (percent / BAR_FULL_PERCENT).min(1.0) * middle;
    let bar = drawing(BAR)
        .attr("aria-hidden", "true")
        .child(line("grid", (0.0, 6.0), (BAR.width, 6.0)))
        .child(rect("interval", middle - reach, 3.0, 2.0 * reach, 6.0).attr("rx", px(1.0)))
        .child(line("axis", (middle, 0.0), (middle, BAR.height)));
    Element::new("td")
        .class("interval-cell")
        .attr("data-sort", percent)
        .child(bar)
        .child(Element::new("span").text(format!("±{}", format::percent(percent))))
}
