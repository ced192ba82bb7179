//! The covariance of a block's channels, made safe to factorise.

use faer::Mat;

use crate::SupernetError;
use crate::calibration::ChannelStatistics;

/// What is added to the diagonal, as a share of its mean: draws refitted weights towards the
/// checkpoint's own, and keeps channels that never vary from ruling.
const RIDGE: f64 = 0.01;
/// Variance below which a channel counts as constant.
const SMALLEST: f64 = 1e-10;

/// `E[x x^T] - E[x] E[x]^T + lambda I` of `channels`, in that order.
///
/// # Errors
/// When the calibration's file cannot be read.
pub(crate) fn ridge_covariance(
    statistics: &ChannelStatistics,
    channels: &[usize],
) -> Result<Mat<f64>, SupernetError> {
    let moments = statistics.second_moment.load()?;
    let count = statistics.mean.len().max(1) as f64;
    let ridge = RIDGE * statistics.variances().sum::<f64>() / count + SMALLEST;
    let covariance = |i: usize, j: usize| {
        let (a, b) = (channels[i], channels[j]);
        let moment = f64::from(moments[[a, b]]);
        let covariance = moment - statistics.mean[a] * statistics.mean[b];
        covariance + if i == j { ridge } else { 0.0 }
    };
    Ok(Mat::from_fn(channels.len(), channels.len(), covariance))
}
