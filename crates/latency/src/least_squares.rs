//! A line through points.

/// `y = offset + gain * x` by least squares with weights; the mean when all `x` are one.
pub(crate) fn line(points: &[(f64, f64)], weight: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let total: f64 = points.iter().map(&weight).sum();
    if total <= 0.0 {
        return (0.0, 1.0);
    }
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| {
        points.iter().map(|p| weight(p) * value(p)).sum::<f64>() / total
    };
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let spread = mean(&|p| (p.0 - x).powi(2));
    let gain = if spread > 0.0 {
        mean(&|p| (p.0 - x) * (p.1 - y)) / spread
    } else {
        0.0
    };
    (y - gain * x, gain)
}
