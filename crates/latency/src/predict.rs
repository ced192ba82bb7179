//! The sum: a sub-network costs what its blocks cost.

use std::collections::BTreeMap;

use lathe_arch::{BlockShape, MlpConfig, Phase, SubnetConfig, Workload};
use serde::{Deserialize, Serialize};

use crate::{Entry, LatencyError, LatencyStatistics, LatencyTable};

/// What a sub-network is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Time to first token: the prefill.
    pub ttft_us: f64,
    /// Half of the 95 % confidence interval of `ttft_us`, from the noise of the entries alone.
    pub ttft_half_width_us: f64,
    /// Time per output token, averaged over the generated tokens.
    pub tpot_us: f64,
    /// Half of the 95 % confidence interval of `tpot_us`, from the noise of the entries alone.
    pub tpot_half_width_us: f64,
    /// The whole workload: prefill and all decode steps.
    pub total_us: f64,
    /// True when a width lies between measured widths.
    pub is_interpolated: bool,
}

/// The price of one block in both phases.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Price {
    pub prefill_us: f64,
    pub prefill_half_width_us: f64,
    pub decode_us: f64,
    pub decode_half_width_us: f64,
    pub is_interpolated: bool,
}

impl Price {
    /// `share` of the way from `self` to `other`.
    fn between(&self, other: &Price, share: f64) -> Price {
        let mix = |a: f64, b: f64| a + share * (b - a);
        Price {
            prefill_us: mix(self.prefill_us, other.prefill_us),
            prefill_half_width_us: mix(self.prefill_half_width_us, other.prefill_half_width_us),
            decode_us: mix(self.decode_us, other.decode_us),
            decode_half_width_us: mix(self.decode_half_width_us, other.decode_half_width_us),
            is_interpolated: true,
        }
    }
}

impl LatencyTable {
    /// Predicts a sub-network by summing its blocks' prices.
    ///
    /// Prompts between measured lengths and MLP widths between measured widths are interpolated
    /// linearly; decode is affine in the past length (least squares over the measured depths).
    ///
    /// # Errors
    /// When the sub-network does not fit the model, has a block that was not measured, or the
    /// workload lies outside the table.
    pub fn predict(
        &self,
        subnet: &SubnetConfig,
        workload: &Workload,
    ) -> Result<Prediction, LatencyError> {
        subnet.check(&self.model.dimensions)?;
        let mut counts: BTreeMap<BlockShape, usize> = BTreeMap::new();
        counts.insert(BlockShape::EmbeddingAndHead, 1);
        for block in subnet.blocks() {
            *counts.entry(block).or_default() += 1;
        }
        let mut sum = Price::default();
        for (block, count) in counts {
            let price = self.price(&block, workload)?;
            let count = count as f64;
            sum.prefill_us += count * price.prefill_us;
            sum.decode_us += count * price.decode_us;
            // The same entry's error enters `count` times; different entries are independent.
            sum.prefill_half_width_us += (count * price.prefill_half_width_us).powi(2);
            sum.decode_half_width_us += (count * price.decode_half_width_us).powi(2);
            sum.is_interpolated |= price.is_interpolated;
        }
        let steps = workload.decode_steps() as f64;
        Ok(Prediction {
            ttft_us: sum.prefill_us,
            ttft_half_width_us: sum.prefill_half_width_us.sqrt(),
            tpot_us: sum.decode_us,
            tpot_half_width_us: sum.decode_half_width_us.sqrt(),
            total_us: sum.prefill_us + steps * sum.decode_us,
            is_interpolated: sum.is_interpolated,
        })
    }

    pub(crate) fn price(
        &self,
        block: &BlockShape,
        workload: &Workload,
    ) -> Result<Price, LatencyError> {
        if let Some(price) = self.measured_price(block, workload)? {
            return Ok(price);
        }
        let not_measured = || LatencyError::NotMeasured {
            block: block.to_string(),
            phase: "prefill and decode",
        };
        let BlockShape::Mlp(mlp) = block else {
            return Err(not_measured());
        };
        let widths = self.entries.iter().filter_map(|entry| match entry.block {
            BlockShape::Mlp(measured) if measured.precision == mlp.precision => {
                Some(measured.intermediate_size)
            }
            _ => None,
        });
        let widths: Vec<usize> = widths.collect();
        let asked = mlp.intermediate_size;
        let below = widths.iter().filter(|width| **width < asked).max();
        let above = widths.iter().filter(|width| **width > asked).min();
        let (Some(&below), Some(&above)) = (below, above) else {
            return Err(not_measured());
        };
        let at = |intermediate_size| {
            let block = BlockShape::Mlp(MlpConfig {
                intermediate_size,
                ..*mlp
            });
            self.measured_price(&block, workload)?
                .ok_or_else(not_measured)
        };
        let share = (asked - below) as f64 / (above - below) as f64;
        Ok(at(below)?.between(&at(above)?, share))
    }

    /// The price of a block of which there are entries.
    fn measured_price(
        &self,
        block: &BlockShape,
        workload: &Workload,
    ) -> Result<Option<Price>, LatencyError> {
        let entries: Vec<&Entry> = self.entries.iter().filter(|e| e.block == *block).collect();
        if entries.is_empty() {
            return Ok(None);
        }
        let batch = workload.batch;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for entry in entries.iter().filter(|entry| entry.phase.batch() == batch) {
            match entry.phase {
                Phase::Prefill { seq_len, .. } => prefill.push((seq_len, entry.latency)),
                Phase::Decode { past_len, .. } => decode.push((past_len, entry.latency)),
            }
        }
        if prefill.is_empty() || decode.is_empty() {
            return Err(LatencyError::Batch { batch });
        }
        prefill.sort_by_key(|(tokens, _)| *tokens);
        let prompt = interpolated(&prefill, workload.prompt_tokens)?;
        let step = affine(&decode, workload.mean_past_len());
        Ok(Some(Price {
            prefill_us: prompt.0,
            prefill_half_width_us: prompt.1,
            decode_us: step.0,
            decode_half_width_us: step.1,
            is_interpolated: false,
        }))
    }
}

/// Value and half width at `tokens`, linear between the neighbours in `points` (sorted).
fn interpolated(
    points: &[(usize, LatencyStatistics)],
    tokens: usize,
) -> Result<(f64, f64), LatencyError> {
    let (least, most) = (points[0].0, points[points.len() - 1].0);
    if !(least..=most).contains(&tokens) {
        return Err(LatencyError::PromptRange {
            asked: tokens,
            least,
            most,
        });
    }
    let above = points.partition_point(|(at, _)| *at < tokens);
    let (high, upper) = &points[above];
    if *high == tokens {
        return Ok((upper.median_us, upper.half_width_us()));
    }
    let (low, lower) = &points[above - 1];
    let share = (tokens - low) as f64 / (high - low) as f64;
    let mix = |a: f64, b: f64| a + share * (b - a);
    Ok((
        mix(lower.median_us, upper.median_us),
        mix(lower.half_width_us(), upper.half_width_us()),
    ))
}

/// Value at `past_len` of the least-squares line through the depths, and the mean half width.
/// One depth is a constant.
fn affine(points: &[(usize, LatencyStatistics)], past_len: f64) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |value: &dyn Fn(&(usize, LatencyStatistics)) -> f64| {
        points.iter().map(value).sum::<f64>() / count
    };
    let depth = |point: &(usize, LatencyStatistics)| point.0 as f64;
    let mean_depth = mean(&depth);
    let mean_latency = mean(&|point| point.1.median_us);
    let spread = mean(&|point| (depth(point) - mean_depth).powi(2));
    let covariance =
        mean(&|point| (depth(point) - mean_depth) * (point.1.median_us - mean_latency));
    let slope = if spread > 0.0 {
        covariance / spread
    } else {
        0.0
    };
    let half_width = mean(&|point| point.1.half_width_us());
    (mean_latency + slope * (past_len - mean_depth), half_width)
}
