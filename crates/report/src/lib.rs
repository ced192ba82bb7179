//! One self-contained HTML page per study.
//!
//! The caller fills a [`Report`] with plain numbers; [`render`] makes a page of it that opens
//! without network, years later, on a phone or on paper: what was made of the model, the Pareto
//! front with every evaluation, the layers of the chosen sub-network, predictions against
//! measurements, and the prices that the predictions rest on. All drawings are inline SVG made
//! here; a short inline script adds tooltips, selection and sorting.
//!
//! ```
//! use lathe_report::{Point, Report, render};
//!
//! let point = |label: &str, latency_us, kl_divergence| Point {
//!     label: label.to_owned(),
//!     latency_us,
//!     kl_divergence,
//!     parameters: 134_515_008,
//!     ..Point::default()
//! };
//! let report = Report {
//!     title: "SmolLM2 on a small board".to_owned(),
//!     base: Some(point("full", 24_000.0, 14.2)),
//!     chosen: Some(point("knee", 16_500.0, 16.9)),
//!     evaluations: vec![point("e0", 16_500.0, 16.9), point("e1", 20_000.0, 19.0)],
//!     front: vec![0],
//!     ..Report::default()
//! };
//! let page = render(&report)?;
//! assert!(page.starts_with("<!DOCTYPE html>"));
//! # Ok::<(), lathe_report::ReportError>(())
//! ```

mod comparison;
mod coverage;
mod curves;
mod data;
mod error;
mod format;
mod front;
mod label;
mod layers;
mod markup;
mod page;
mod points;
mod scale;
mod summary;
mod svg;
mod training;
mod uniform;
mod validate;
mod validation;

pub use comparison::comparison_figure;
pub use curves::Curve;
pub use data::{
    AttentionShape, Better, CoverageEntry, Fact, LayerShape, MlpShape, Phase, Point, Report,
    SummaryRow, TrainedNetwork, Training, TrainingValidation, Unit, ValidationPoint,
    ValidationStatistics, Workload,
};
pub use error::ReportError;
pub use page::{render, write};
pub use training::training_figure;
