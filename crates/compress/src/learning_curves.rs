//! A training's metrics as curves: in a report, and in a figure beside them.

use std::path::Path;

use anyhow::{Context, ensure};
use lathe_report::{TrainedNetwork, Training, TrainingValidation, training_figure};

use crate::artefact::write_text;
use crate::training::{METRICS, Metric, read_metrics};

/// The figure's file.
const FIGURE: &str = "training.svg";

/// What the metrics in `folder`, which `train` or `heal` wrote, say of the training.
///
/// # Errors
/// When there are none.
pub fn learning_curves(folder: &Path) -> anyhow::Result<Training> {
    let path = folder.join(METRICS);
    let metrics = read_metrics(&path)?;
    ensure!(
        !metrics.is_empty(),
        "{}: no line of it tells of a step or a validation",
        path.display()
    );
    // What went wrong is no curve.
    let is_drawn = |perplexity: f64, kl: f64| perplexity.is_finite() && kl.is_finite();
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = name.file_name().unwrap_or(folder.as_os_str());
    let mut training = Training {
        name: name.to_string_lossy().into_owned(),
        ..Training::default()
    };
    for metric in metrics {
        match metric {
            Metric::Step { step, loss, .. } => training.losses.push((step as u64, loss)),
            Metric::Validation {
                step,
                network,
                validation_kl,
                validation_perplexity,
            } if is_drawn(validation_perplexity, validation_kl) => {
                let name = network.unwrap_or_default();
                let networks = &mut training.networks;
                let at = networks.iter().position(|known| known.name == name);
                let at = at.unwrap_or_else(|| {
                    networks.push(TrainedNetwork {
                        name,
                        validations: Vec::new(),
                    });
                    networks.len() - 1
                });
                networks[at].validations.push(TrainingValidation {
                    step: step as u64,
                    kl_divergence: validation_kl,
                    perplexity: validation_perplexity,
                });
            }
            Metric::Validation { .. } => {}
        }
    }
    Ok(training)
}

/// Writes `training.svg` beside the metrics in `folder`.
///
/// # Errors
/// When there are none, or the disk does not take it.
pub(crate) fn write_figure(folder: &Path) -> anyhow::Result<()> {
    let figure = training_figure(&[learning_curves(folder)?]);
    write_text(&folder.join(FIGURE), &figure).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_apart_and_a_torn_line_is_left_out() {
        let desk = tempfile::tempdir().unwrap();
        let folder = desk.path().join("adapter");
        std::fs::create_dir(&folder).unwrap();
        let validation = |step, name: &str, perplexity| {
            format!(
                r#"{{"step":{step},"network":"{name}","validation_kl":0.5,"validation_perplexity":{perplexity}}}"#
            )
        };
        let step = r#"{"step":1,"loss":2.5,"next_token_loss":3.5,"learning_rate":1e-4,"grad_norm":1.0,"tokens_per_second":300.0}"#;
        let lines = [
            validation(0, "largest", 29.2),
            validation(0, "smallest", 111.4),
            step.to_owned(),
            validation(1, "largest", 25.1),
            "{\"step\":2,\"lo".to_owned(),
        ];
        std::fs::write(folder.join(METRICS), lines.join("\n")).unwrap();
        let training = learning_curves(&folder).unwrap();
        assert_eq!(training.name, "adapter");
        assert_eq!(training.losses, [(1, 2.5)]);
        let scores = |network: &TrainedNetwork| -> Vec<(u64, f64)> {
            let scores = network.validations.iter();
            scores.map(|score| (score.step, score.perplexity)).collect()
        };
        assert_eq!(scores(&training.networks[0]), [(0, 29.2), (1, 25.1)]);
        assert_eq!(scores(&training.networks[1]), [(0, 111.4)]);
        write_figure(&folder).unwrap();
        let figure = std::fs::read_to_string(folder.join(FIGURE)).unwrap();
        assert!(figure.starts_with("<svg") && figure.contains("adapter, smallest"));

        std::fs::write(folder.join(METRICS), "{\"st").unwrap();
        let error = learning_curves(&folder).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl"), "{error}");
        assert!(learning_curves(desk.path()).is_err());
    }
}
