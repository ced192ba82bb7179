//! The sum: a sub-network costs what its blocks cost.

use std::collections::BTreeMap;

use lathe_arch::{
    AttentionConfig, BlockShape, LogitRows, MlpConfig, Phase, Precision, SubnetConfig, Workload,
};
use serde::{Deserialize, Serialize};

use crate::least_squares::line;
use crate::{Entry, LatencyError, LatencyTable, PhaseKind};

/// The two phases in the order in which prices hold them.
const PHASES: [PhaseKind; 2] = [PhaseKind::Prefill, PhaseKind::Decode];
/// Half widths of the normal distribution: 90 % over 95 %.
const Z90_OVER_Z95: f64 = 1.645 / 1.960;

/// What a sub-network is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Time to first token: the prefill.
    pub ttft_us: f64,
    /// Half of the 90 % prediction interval of `ttft_us`. Without a calibration on whole networks
    /// it holds the noise of the entries alone.
    pub ttft_half_width_us: f64,
    /// Time per output token, averaged over the generated tokens.
    pub tpot_us: f64,
    /// Half of the 90 % prediction interval of `tpot_us`, likewise.
    pub tpot_half_width_us: f64,
    /// The whole workload: prefill and all decode steps.
    pub total_us: f64,
    /// `ttft_us` before calibration: the sum of the prices.
    pub ttft_sum_us: f64,
    /// `tpot_us` before calibration.
    pub tpot_sum_us: f64,
    /// Largest resident memory over the workload in bytes, where that was measured.
    pub peak_memory_bytes: Option<f64>,
    /// True when a width or a number of heads lies between measured ones.
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
    /// Predicts a sub-network: the sum of its blocks' prices, corrected by the calibration of
    /// each block's precision where there is one.
    ///
    /// Prompts, MLP widths and query heads between measured ones are interpolated linearly;
    /// decode is affine in the past length (least squares over the measured depths).
    ///
    /// # Errors
    /// When the sub-network does not fit the model, has a block that was not measured, or the
    /// workload lies outside the table.
    pub fn predict(
        &self,
        subnet: &SubnetConfig,
        workload: &Workload,
    ) -> Result<Prediction, LatencyError> {
        self.predict_with_logits(subnet, workload, LogitRows::Last)
    }

    /// Predicts a sub-network whose LM head scores `logit_rows` in prefill.
    ///
    /// # Errors
    /// As for [`LatencyTable::predict`].
    pub fn predict_with_logits(
        &self,
        subnet: &SubnetConfig,
        workload: &Workload,
        logit_rows: LogitRows,
    ) -> Result<Prediction, LatencyError> {
        subnet.check(&self.model.dimensions)?;
        let mut counts: BTreeMap<BlockShape, usize> = BTreeMap::new();
        counts.insert(subnet.head(logit_rows), 1);
        for block in subnet.blocks() {
            *counts.entry(block).or_default() += 1;
        }
        let mut sum = Price::default();
        let mut corrected = self.offset(subnet.head_precision);
        for (block, count) in counts {
            let price = self.price(&block, workload)?;
            let gain = self.gain(block.precision());
            let count = count as f64;
            sum.prefill_us += count * price.prefill_us;
            sum.decode_us += count * price.decode_us;
            corrected[0] += count * gain[0] * price.prefill_us;
            corrected[1] += count * gain[1] * price.decode_us;
            // The same entry's error enters `count` times; different entries are independent.
            sum.prefill_half_width_us += (count * price.prefill_half_width_us).powi(2);
            sum.decode_half_width_us += (count * price.decode_half_width_us).powi(2);
            sum.is_interpolated |= price.is_interpolated;
        }
        let [ttft_us, tpot_us] = corrected;
        let half_width = |phase, sum_us: f64, noise_us: f64| {
            let calibration = self.calibration(subnet.head_precision, phase);
            calibration.map_or(noise_us, |c| c.half_width90_us(sum_us))
        };
        let prefill_noise_us = Z90_OVER_Z95 * sum.prefill_half_width_us.sqrt();
        let decode_noise_us = Z90_OVER_Z95 * sum.decode_half_width_us.sqrt();
        let steps = workload.decode_steps() as f64;
        Ok(Prediction {
            ttft_us,
            ttft_half_width_us: half_width(PhaseKind::Prefill, sum.prefill_us, prefill_noise_us),
            tpot_us,
            tpot_half_width_us: half_width(PhaseKind::Decode, sum.decode_us, decode_noise_us),
            total_us: ttft_us + steps * tpot_us,
            ttft_sum_us: sum.prefill_us,
            tpot_sum_us: sum.decode_us,
            peak_memory_bytes: self.predict_peak_memory_bytes(subnet, workload),
            is_interpolated: sum.is_interpolated,
        })
    }

    /// Offsets of prefill and decode in microseconds, 0 without a calibration.
    pub(crate) fn offset(&self, precision: Precision) -> [f64; 2] {
        PHASES.map(|phase| {
            self.calibration(precision, phase)
                .map_or(0.0, |c| c.offset_us)
        })
    }

    /// Gains of prefill and decode, 1 without a calibration.
    pub(crate) fn gain(&self, precision: Precision) -> [f64; 2] {
        PHASES.map(|phase| self.calibration(precision, phase).map_or(1.0, |c| c.gain))
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
        let asked = size(block);
        let alike = self.entries.iter().map(|entry| entry.block);
        let alike = alike.filter(|other| resized(other, asked) == *block);
        let sizes: Vec<usize> = alike.map(|other| size(&other)).collect();
        let below = sizes.iter().filter(|size| **size < asked).max();
        let above = sizes.iter().filter(|size| **size > asked).min();
        let (Some(&below), Some(&above)) = (below, above) else {
            return Err(not_measured());
        };
        let at = |size| {
            self.measured_price(&resized(block, size), workload)?
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
                Phase::Prefill { seq_len, .. } => prefill.push(Point::of(entry, seq_len)),
                Phase::Decode { past_len, .. } => decode.push(Point::of(entry, past_len)),
            }
        }
        if prefill.is_empty() || decode.is_empty() {
            return Err(LatencyError::Batch { batch });
        }
        prefill.sort_by_key(|point| point.tokens);
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

/// The size along which blocks are interpolated: neurons, or query heads over the same KV heads.
fn size(block: &BlockShape) -> usize {
    match block {
        BlockShape::EmbeddingAndHead(_) => 0,
        BlockShape::Attention(attention) => attention.heads,
        BlockShape::Mlp(mlp) => mlp.intermediate_size,
    }
}

/// The same block in another size.
fn resized(block: &BlockShape, size: usize) -> BlockShape {
    match *block {
        BlockShape::EmbeddingAndHead(head) => BlockShape::EmbeddingAndHead(head),
        BlockShape::Attention(attention) => BlockShape::Attention(AttentionConfig {
            heads: size,
            ..attention
        }),
        BlockShape::Mlp(mlp) => BlockShape::Mlp(MlpConfig {
            intermediate_size: size,
            ..mlp
        }),
    }
}

/// The price of a block at one prompt length or depth.
struct Point {
    tokens: usize,
    price_us: f64,
    half_width_us: f64,
}

impl Point {
    fn of(entry: &Entry, tokens: usize) -> Self {
        Self {
            tokens,
            price_us: entry.price_us,
            half_width_us: entry.latency.half_width_us(),
        }
    }
}

/// Price and half width at `tokens`, linear between the neighbours in `points` (sorted).
fn interpolated(points: &[Point], tokens: usize) -> Result<(f64, f64), LatencyError> {
    let (least, most) = (points[0].tokens, points[points.len() - 1].tokens);
    if !(least..=most).contains(&tokens) {
        return Err(LatencyError::PromptRange {
            asked: tokens,
            least,
            most,
        });
    }
    let above = points.partition_point(|point| point.tokens < tokens);
    let upper = &points[above];
    if upper.tokens == tokens {
        return Ok((upper.price_us, upper.half_width_us));
    }
    let lower = &points[above - 1];
    let share = (tokens - lower.tokens) as f64 / (upper.tokens - lower.tokens) as f64;
    let mix = |a: f64, b: f64| a + share * (b - a);
    Ok((
        mix(lower.price_us, upper.price_us),
        mix(lower.half_width_us, upper.half_width_us),
    ))
}

/// Price at `past_len` on the least-squares line through the depths, and the mean half width.
/// One depth is a constant.
fn affine(points: &[Point], past_len: f64) -> (f64, f64) {
    let pairs: Vec<(f64, f64)> = points
        .iter()
        .map(|point| (point.tokens as f64, point.price_us))
        .collect();
    let (offset_us, slope_us) = line(&pairs, |_| 1.0);
    let half_width_us = points.iter().map(|point| point.half_width_us).sum::<f64>();
    (
        offset_us + slope_us * past_len,
        half_width_us / points.len() as f64,
    )
}
