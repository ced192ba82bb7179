//! How trainings went: what networks lose on text that was not trained on, and what was lost in training.

use crate::curves::{Curve, along, file, picture, plot, values};
use crate::data::{Report, Training, TrainingValidation};
use crate::markup::Element;
use crate::scale::Scale;
use crate::svg::Axis;

/// Parts of a training of which each has one mean loss in the picture, at most.
const PARTS: usize = 60;

/// A self-contained SVG file: perplexity of every network over the steps.
pub fn training_figure(trainings: &[Training]) -> String {
    file(perplexities(trainings))
}

/// The section, where there were trainings.
pub(crate) fn section(report: &Report) -> Option<Element> {
    let trainings = &report.training;
    if trainings.is_empty() {
        return None;
    }
    let heading = Element::new("h2")
        .attr("id", "training-heading")
        .text("Training");
    let panel = |what: &str, picture: Element| {
        let picture = picture.attr("role", "img").attr("aria-label", what);
        Element::new("div")
            .class("picture")
            .child(Element::new("h3").text(what))
            .child(picture)
    };
    let text = "Networks that were trained to answer as the full model does, scored on text that they \
        were not trained on. The loss is that of each step on its text, before the step.";
    Some(
        Element::new("section")
            .attr("id", "training")
            .attr("aria-labelledby", "training-heading")
            .child(heading)
            .child(Element::new("p").text(text))
            .child(panel("Perplexity", perplexities(trainings)))
            .child(panel(
                "Divergence from the full model",
                divergences(trainings),
            ))
            .child(panel("Loss of the training", losses(trainings))),
    )
}

fn perplexities(trainings: &[Training]) -> Element {
    over_steps(scores(trainings, |v| v.perplexity), "Perplexity", true)
}

fn divergences(trainings: &[Training]) -> Element {
    let curves = scores(trainings, |v| v.kl_divergence);
    over_steps(curves, "Divergence (nats a token)", true)
}

/// A curve for each network of each training.
fn scores(
    trainings: &[Training],
    score: fn(&TrainingValidation) -> f64,
) -> impl Iterator<Item = (String, Vec<(f64, f64)>)> {
    trainings.iter().flat_map(move |training| {
        training.networks.iter().map(move |network| {
            let name = match network.name.as_str() {
                "" => training.name.clone(),
                name => format!("{}, {name}", training.name),
            };
            let points = network.validations.iter();
            let points = points.map(|v| (v.step as f64, score(v)));
            (name, points.collect())
        })
    })
}

fn losses(trainings: &[Training]) -> Element {
    let curves = trainings.iter().map(|training| {
        let steps = training.losses.len().div_ceil(PARTS).max(1);
        let parts = training.losses.chunks(steps);
        let mean = |part: &[(u64, f64)]| {
            let count = part.len() as f64;
            let mean: f64 = part.iter().map(|(_, loss)| loss / count).sum();
            let last = part.last().map_or(0, |(step, _)| *step);
            (last as f64, mean)
        };
        (training.name.clone(), parts.map(mean).collect())
    });
    over_steps(curves, "Loss (nats a token)", false)
}

fn over_steps(
    curves: impl Iterator<Item = (String, Vec<(f64, f64)>)>,
    what: &str,
    has_dots: bool,
) -> Element {
    let curve = |(color, (name, points)): (usize, (String, Vec<(f64, f64)>))| Curve {
        name,
        is_dashed: false,
        color,
        points,
    };
    let curves: Vec<Curve> = curves.enumerate().map(curve).collect();
    let [mut steps, heights] = values(&curves, f64::INFINITY);
    // A scale is over positive values; trainings begin at none.
    steps.retain(|step| *step > 0.0);
    let mut scale = along(&steps);
    scale.domain.0 = 0.0;
    let x = Axis {
        scale,
        name: "Steps",
        unit: 1.0,
    };
    let y = Axis {
        scale: match heights.iter().all(|height| *height > 0.0) {
            true => Scale::fitted(heights.into_iter(), plot().vertical()),
            // The full model diverges from itself by nothing.
            false => Scale::from_zero(heights.into_iter(), plot().vertical()),
        },
        name: what,
        unit: 1.0,
    };
    picture(&curves, [x, y], f64::INFINITY, has_dots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TrainedNetwork;

    fn training(name: &str, networks: &[&str]) -> Training {
        let validation = |step, perplexity| TrainingValidation {
            step,
            kl_divergence: 0.5,
            perplexity,
        };
        let network = |name: &&str| TrainedNetwork {
            name: (*name).to_owned(),
            validations: vec![validation(0, 60.0), validation(140, 40.0)],
        };
        Training {
            name: name.to_owned(),
            losses: (1..=140)
                .map(|step| (step, 3.0 - 0.01 * step as f64))
                .collect(),
            networks: networks.iter().map(network).collect(),
        }
    }

    #[test]
    fn every_network_has_a_curve() {
        let trainings = [
            training("healed<", &[""]),
            training("adapter", &["largest", "smallest"]),
        ];
        let svg = training_figure(&trainings);
        for name in [
            ">healed&lt;<",
            ">adapter, largest<",
            ">adapter, smallest<",
            ">Steps<",
        ] {
            assert!(svg.contains(name), "{name}: {svg}");
        }
        assert_eq!(svg.matches("class=\"dots\"").count(), 3);
        assert!(
            divergences(&trainings)
                .render()
                .contains(">adapter, largest<")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn losses_are_means_of_few_parts() {
        let svg = losses(&[training("healed", &[])]).render();
        let line = svg.split("class=\"curve\"").nth(1).unwrap();
        let points = line.split("/>").next().unwrap().matches('L').count() + 1;
        assert_eq!(points, 47, "means of 3 steps each: {line}");
        assert!(losses(&[]).render().contains("Steps"));
        assert!(section(&Report::default()).is_none());
    }
}
