//! Refuses reports that a page could only show wrongly.

use crate::data::{LayerShape, Point, Report};
use crate::error::ReportError;

impl Report {
    /// Checks that every number is finite and possible, that the front refers to evaluations,
    /// and that every point has the layers of the full model and nothing wider.
    ///
    /// # Errors
    /// The first field that is wrong, by its path, as in `uniform[2].layers`.
    pub fn validate(&self) -> Result<(), ReportError> {
        for (field, point) in self.named_points() {
            check_point(&field, point, &self.full_layers)?;
        }
        self.check_front()?;
        self.check_summary()?;
        self.check_validation()?;
        self.check_statistics()?;
        self.check_training()?;
        self.check_coverage()
    }

    fn named_points(&self) -> impl Iterator<Item = (String, &Point)> {
        let base = self.base.iter().map(|point| ("base".to_owned(), point));
        let chosen = self.chosen.iter().map(|point| ("chosen".to_owned(), point));
        base.chain(chosen)
            .chain(numbered("uniform", &self.uniform))
            .chain(numbered("evaluations", &self.evaluations))
    }

    fn check_front(&self) -> Result<(), ReportError> {
        let len = self.evaluations.len();
        match self.front.iter().position(|&index| index >= len) {
            Some(at) => Err(ReportError::IndexOutOfRange {
                field: format!("front[{at}]"),
                index: self.front[at],
                len,
            }),
            None => Ok(()),
        }
    }

    fn check_summary(&self) -> Result<(), ReportError> {
        for (field, row) in numbered("summary", &self.summary) {
            finite(&format!("{field}.base"), row.base)?;
            finite(&format!("{field}.chosen"), row.chosen)?;
        }
        Ok(())
    }

    fn check_validation(&self) -> Result<(), ReportError> {
        for (field, point) in numbered("validation", &self.validation) {
            positive(&format!("{field}.predicted_us"), point.predicted_us)?;
            positive(&format!("{field}.measured_us"), point.measured_us)?;
            not_negative(&format!("{field}.measured_ci95_us"), point.measured_ci95_us)?;
        }
        Ok(())
    }

    fn check_statistics(&self) -> Result<(), ReportError> {
        for (field, row) in numbered("validation_statistics", &self.validation_statistics) {
            not_negative(&format!("{field}.mape_percent"), row.mape_percent)?;
            finite(&format!("{field}.bias_percent"), row.bias_percent)?;
            share(
                &format!("{field}.share_within_5_percent"),
                row.share_within_5_percent,
            )?;
            share(
                &format!("{field}.share_within_10_percent"),
                row.share_within_10_percent,
            )?;
            correlation(&format!("{field}.kendall_tau"), row.kendall_tau)?;
            correlation(&format!("{field}.spearman"), row.spearman)?;
        }
        Ok(())
    }

    fn check_training(&self) -> Result<(), ReportError> {
        for (field, training) in numbered("training", &self.training) {
            for (index, (_, loss)) in training.losses.iter().enumerate() {
                finite(&format!("{field}.losses[{index}]"), *loss)?;
            }
            for (network, trained) in training.networks.iter().enumerate() {
                for (index, score) in trained.validations.iter().enumerate() {
                    let field = format!("{field}.networks[{network}].validations[{index}]");
                    positive(&format!("{field}.perplexity"), score.perplexity)?;
                    finite(&format!("{field}.kl_divergence"), score.kl_divergence)?;
                }
            }
        }
        Ok(())
    }

    fn check_coverage(&self) -> Result<(), ReportError> {
        for (field, entry) in numbered("coverage", &self.coverage) {
            finite(&format!("{field}.median_us"), entry.median_us)?;
            not_negative(&format!("{field}.ci95_us"), entry.ci95_us)?;
        }
        Ok(())
    }
}

fn numbered<'a, T>(list: &'a str, items: &'a [T]) -> impl Iterator<Item = (String, &'a T)> {
    items
        .iter()
        .enumerate()
        .map(move |(i, item)| (format!("{list}[{i}]"), item))
}

fn check_point(field: &str, point: &Point, full: &[LayerShape]) -> Result<(), ReportError> {
    positive(&format!("{field}.latency_us"), point.latency_us)?;
    if let Some(measured) = point.measured_latency_us {
        positive(&format!("{field}.measured_latency_us"), measured)?;
    }
    not_negative(&format!("{field}.kl_divergence"), point.kl_divergence)?;
    if point.layers.len() != full.len() {
        return Err(ReportError::LayerCount {
            field: format!("{field}.layers"),
            found: point.layers.len(),
            expected: full.len(),
        });
    }
    for (i, (kept, full)) in point.layers.iter().zip(full).enumerate() {
        check_layer(&format!("{field}.layers[{i}]"), kept, full)?;
    }
    Ok(())
}

fn check_layer(field: &str, kept: &LayerShape, full: &LayerShape) -> Result<(), ReportError> {
    let heads = |layer: &LayerShape| layer.attention.as_ref().map_or(0, |a| a.heads);
    let kv_heads = |layer: &LayerShape| layer.attention.as_ref().map_or(0, |a| a.kv_heads);
    let width = |layer: &LayerShape| layer.mlp.as_ref().map_or(0, |m| m.intermediate_size);
    within(
        &format!("{field}.attention.heads"),
        heads(kept),
        heads(full),
    )?;
    within(
        &format!("{field}.attention.kv_heads"),
        kv_heads(kept),
        kv_heads(full),
    )?;
    within(
        &format!("{field}.mlp.intermediate_size"),
        width(kept),
        width(full),
    )
}

fn within(field: &str, found: usize, full: usize) -> Result<(), ReportError> {
    if found <= full {
        return Ok(());
    }
    Err(ReportError::WiderThanFull {
        field: field.to_owned(),
        found,
        full,
    })
}

fn finite(field: &str, value: f64) -> Result<(), ReportError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(ReportError::NotFinite {
        field: field.to_owned(),
        value,
    })
}

fn positive(field: &str, value: f64) -> Result<(), ReportError> {
    ranged(field, value, value > 0.0, "a number above 0")
}

fn not_negative(field: &str, value: f64) -> Result<(), ReportError> {
    ranged(field, value, value >= 0.0, "a number that is not negative")
}

fn share(field: &str, value: f64) -> Result<(), ReportError> {
    ranged(
        field,
        value,
        (0.0..=1.0).contains(&value),
        "a share between 0 and 1",
    )
}

fn correlation(field: &str, value: Option<f64>) -> Result<(), ReportError> {
    let Some(value) = value else { return Ok(()) };
    ranged(
        field,
        value,
        (-1.0..=1.0).contains(&value),
        "a correlation between -1 and 1",
    )
}

fn ranged(
    field: &str,
    value: f64,
    is_inside: bool,
    expected: &'static str,
) -> Result<(), ReportError> {
    finite(field, value)?;
    if is_inside {
        return Ok(());
    }
    Err(ReportError::OutOfRange {
        field: field.to_owned(),
        value,
        expected,
    })
}
