//! The head of the page: what was made of the model, and on what.

use crate::data::{Better, Fact, Report, SummaryRow};
use crate::format;
use crate::markup::Element;

/// Title, key figures, table of base against chosen, and the setting.
pub(crate) fn header(report: &Report) -> Element {
    let header = Element::new("header")
        .child(Element::new("h1").text(&report.title))
        .child(Element::new("p").class("subtitle").text(subtitle(report)))
        .child(key_figures(report));
    let table = if report.summary.is_empty() {
        Element::new("p").text("No comparison of the full model with the chosen one was recorded.")
    } else {
        Element::new("div")
            .class("scroll")
            .child(table(&report.summary))
    };
    header.child(
        Element::new("div")
            .class("columns")
            .child(table)
            .child(setting(report)),
    )
}

fn subtitle(report: &Report) -> String {
    let work = &report.workload;
    format!(
        "{}, batch {}, {} prompt and {} generated tokens",
        report.model, work.batch, work.prompt_tokens, work.generated_tokens
    )
}

/// The few numbers that sum up the study.
fn key_figures(report: &Report) -> Element {
    let (Some(base), Some(chosen)) = (&report.base, &report.chosen) else {
        let missing =
            "The full model or the chosen one is missing, so there is no speed-up to give.";
        return Element::new("p").text(missing);
    };
    let (speed_up, basis) = match (base.measured_latency_us, chosen.measured_latency_us) {
        (Some(base), Some(chosen)) => (base / chosen, "faster per token, measured"),
        _ => (
            base.latency_us / chosen.latency_us,
            "faster per token, predicted",
        ),
    };
    let kept = 100.0 * chosen.parameters as f64 / base.parameters.max(1) as f64;
    let figures = [
        (
            format::ratio(speed_up),
            basis.replace("faster", direction(speed_up)),
        ),
        (
            format::significant(chosen.kl_divergence),
            "nats per token from the full model".to_owned(),
        ),
        (format::percent(kept), "of the parameters kept".to_owned()),
    ];
    Element::new("dl")
        .class("figures")
        .children(figures.map(|(value, name)| {
            Element::new("div")
                .child(Element::new("dt").text(name))
                .child(Element::new("dd").text(value))
        }))
}

/// A ratio below 1 is no speed-up: it is then named for what it is.
fn direction(speed_up: f64) -> &'static str {
    if speed_up >= 1.0 {
        "faster"
    } else {
        "speed (slower)"
    }
}

fn table(rows: &[SummaryRow]) -> Element {
    let heads = ["", "Full model", "Chosen", "Change"];
    let head = Element::new("tr")
        .children(heads.map(|name| Element::new("th").attr("scope", "col").text(name)));
    Element::new("table")
        .child(Element::new("caption").text("Full model against the chosen one"))
        .child(Element::new("thead").child(head))
        .child(Element::new("tbody").children(rows.iter().map(row)))
}

fn row(row: &SummaryRow) -> Element {
    let cell = |text: String| Element::new("td").text(text);
    let (change, class) = change(row);
    Element::new("tr")
        .child(Element::new("th").attr("scope", "row").text(&row.name))
        .child(cell(format::with_unit(row.base, row.unit)))
        .child(cell(format::with_unit(row.chosen, row.unit)))
        .child(cell(change).class(class))
}

/// The relative change, and in words whether it is for the better.
fn change(row: &SummaryRow) -> (String, &'static str) {
    let difference = row.chosen - row.base;
    if row.base == 0.0 || difference == 0.0 {
        return (if difference == 0.0 { "same" } else { "–" }.to_owned(), "");
    }
    let percent = format::signed_percent(100.0 * difference / row.base.abs());
    let is_better = match row.better {
        Better::Lower => difference < 0.0,
        Better::Higher => difference > 0.0,
    };
    let (word, class) = if is_better {
        ("better", "better")
    } else {
        ("worse", "worse")
    };
    (format!("{percent} {word}"), class)
}

fn setting(report: &Report) -> Element {
    let list = |heading: &str, facts: &[Fact]| {
        let part = Element::new("div").child(Element::new("h3").text(heading));
        if facts.is_empty() {
            return part.child(Element::new("p").class("note").text("Not described."));
        }
        part.child(
            Element::new("dl")
                .class("facts")
                .children(facts.iter().flat_map(|fact| {
                    [
                        Element::new("dt").text(&fact.name),
                        Element::new("dd").text(&fact.value),
                    ]
                })),
        )
    };
    Element::new("div")
        .class("setting")
        .child(list("Device", &report.device))
        .child(list("Runtime", &report.runtime))
}
