//! A figure of methods against each other: what each loses at each latency.

use crate::curves::{Curve, along, file, picture, plot, values};
use crate::scale::Scale;
use crate::svg::{Axis, time_unit};

/// A self-contained SVG file with all curves, of latencies in microseconds and what is lost there. `latency`
/// and `loss` name the axes.
///
/// Losses above `most` leave the picture, so that the worst method does not flatten the others.
pub fn comparison_figure(curves: &[Curve], latency: &str, loss: &str, most: f64) -> String {
    let [latencies, losses] = values(curves, most);
    let (unit, symbol) = time_unit(latencies.iter().copied().fold(0.0, f64::max));
    let name = format!("{latency} ({symbol})");
    let x = Axis {
        scale: along(&latencies),
        name: &name,
        unit,
    };
    let y = Axis {
        scale: Scale::from_zero(losses.into_iter(), plot().vertical()),
        name: loss,
        unit: 1.0,
    };
    file(picture(curves, [x, y], most, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_named_and_hopeless_points_are_left_out() {
        let curve = |name: &str, last: f64| Curve {
            name: name.to_owned(),
            is_dashed: name == "b<",
            color: 0,
            points: vec![(10_000.0, last), (20_000.0, 0.0)],
        };
        let svg = comparison_figure(&[curve("a", 1.0), curve("b<", 9.0)], "TPOT", "loss", 2.0);
        assert!(svg.contains(">a<") && svg.contains(">b&lt;<"), "{svg}");
        assert!(svg.contains("TPOT (ms)"));
        // Of the second curve only the second point is drawn.
        let path = |dashed: &str| svg.matches(dashed).count();
        assert_eq!(path("stroke-dasharray"), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
