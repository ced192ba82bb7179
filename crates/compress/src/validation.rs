//! Predictions against measurements of whole sub-networks that the table has not seen.

use std::path::Path;

use lathe_arch::{BlockShape, Precision, SubnetConfig, Workload};
use lathe_latency::{Calibration, LatencyTable, PhaseKind, Prediction};
use lathe_profiler::{
    AgentCommand, Agreement, Comparison, Elsewhere, HeldOut, MeasuredNetwork, NaiveSums,
    PLACEMENT_PATIENCE, Structure, agreement, check_structure, draw_subnets, network_phases,
};
use serde::{Deserialize, Serialize};

use crate::Progress;

/// A memory prediction is right within this share of the measured peak.
const MEMORY_SHARE: f64 = 0.05;
/// Or within this many bytes.
const MEMORY_BYTES: f64 = 10e6;

/// How predictions held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The workload.
    pub workload: Workload,
    /// Seed of the draw.
    pub seed: u64,
    /// Whether whole networks hold exactly the operators of their blocks.
    pub structure: Vec<Structure>,
    /// Each precision on networks of its own.
    pub precisions: Vec<PrecisionValidation>,
}

/// One precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrecisionValidation {
    /// Precision of all weights.
    pub precision: Precision,
    /// Time to first token.
    pub prefill: PhaseValidation,
    /// Time per output token.
    pub decode: PhaseValidation,
    /// Peak memory, where the system tells.
    pub memory: Option<MemoryValidation>,
    /// Set when the machine was not as it was for the table, and what that means.
    pub elsewhere: Option<Elsewhere>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseValidation {
    /// The calibrated prediction.
    pub agreement: Agreement,
    /// The same networks against themselves, one visit against another: the noise of the
    /// measurements. `None` with one visit each.
    pub noise_floor: Option<Agreement>,
    /// Share of the networks inside the 90 % prediction interval.
    pub coverage90: f64,
    /// The baseline's latency now over that of the table, less 1: what the machine's speed
    /// changed by. It is taken out of the measurements.
    pub drift: f64,
    /// Other predictors on the same networks.
    pub predictors: Vec<Predictor>,
    /// Network by network.
    pub comparisons: Vec<Comparison>,
    /// 95 % confidence intervals of the measurements, in microseconds.
    pub measured_ci95_us: Vec<[f64; 2]>,
}

/// Another way to predict latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predictor {
    /// What it is.
    pub name: String,
    /// How it agrees.
    pub agreement: Agreement,
}

/// Predicted against measured peak memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryValidation {
    /// Networks compared.
    pub networks: usize,
    /// Share within 5 % or 10 MB.
    pub within: f64,
    /// Mean absolute relative error.
    pub mape: f64,
    /// Largest absolute error in bytes.
    pub worst_bytes: f64,
}

/// What to validate and how.
pub struct ValidationPlan<'a> {
    /// How to start the agent.
    pub agent: &'a AgentCommand,
    /// The table.
    pub table: &'a LatencyTable,
    /// When the networks run.
    pub workload: Workload,
    /// Precisions, each with networks of its own.
    pub precisions: Vec<Precision>,
    /// Networks of each precision.
    pub subnets: usize,
    /// Visits to each network.
    pub rounds: usize,
    /// Seed of the draw, other than the calibration's.
    pub seed: u64,
    /// Whether lone blocks and differenced chains are measured for comparison.
    pub is_compared: bool,
    /// Begins the names of the files made meanwhile, and of nothing else.
    pub work: &'a Path,
}

impl ValidationPlan<'_> {
    /// Draws sub-networks, measures them whole beside the table's reference and compares.
    ///
    /// # Errors
    /// When the table lacks a block or a reference, the agent fails or the disk does not take the
    /// graphs.
    pub fn run(&self, progress: Progress<'_>) -> anyhow::Result<Validation> {
        let table = self.table;
        let blocks = table.entries.iter().map(|entry| entry.block);
        let blocks = blocks.filter(|block| self.precisions.contains(&block.precision()));
        progress("checking the optimised graphs", 0, 1);
        let structure = check_structure(
            self.agent,
            &table.model.dimensions,
            &blocks.collect::<Vec<_>>(),
            table.runtime.threads,
            &self.work.with_added_extension("structure.work"),
        )?;
        let precisions = self.precisions.iter();
        let precisions = precisions.map(|&precision| self.precision(precision, progress));
        Ok(Validation {
            workload: self.workload,
            seed: self.seed,
            structure,
            precisions: precisions.collect::<anyhow::Result<_>>()?,
        })
    }

    fn precision(
        &self,
        precision: Precision,
        progress: Progress<'_>,
    ) -> anyhow::Result<PrecisionValidation> {
        let table = self.table;
        let blocks: Vec<BlockShape> = table.entries.iter().map(|entry| entry.block).collect();
        // The calibration's networks come from the same draw with another seed.
        let seed = self.seed.wrapping_add(1_000);
        let model = &table.model.dimensions;
        let subnets = draw_subnets(model, &blocks, precision, self.subnets, seed);
        let predictions = subnets.iter().map(|s| table.predict(s, &self.workload));
        let predictions = predictions.collect::<Result<Vec<_>, _>>()?;
        let held_out = HeldOut {
            agent: self.agent,
            table,
            subnets: &subnets,
            workload: self.workload,
            rounds: self.rounds,
            seed: self.seed,
            patience: PLACEMENT_PATIENCE,
            work: &self.work.with_added_extension(precision.name()),
        };
        let label = format!("measuring {precision} sub-networks");
        let measured = held_out.measure(|done, total| progress(&label, done, total))?;
        let (naive, elsewhere) = if self.is_compared {
            let label = format!("measuring {precision} blocks alone");
            let sums = held_out.naive_sums(|done, total| progress(&label, done, total))?;
            (Some(sums.0), measured.elsewhere.or(sums.1))
        } else {
            (None, measured.elsewhere)
        };
        let seen = Seen {
            table,
            precision,
            workload: self.workload,
            subnets: &subnets,
            predictions: &predictions,
            measured: &measured.networks,
            naive: naive.as_deref(),
        };
        Ok(PrecisionValidation {
            precision,
            prefill: seen.phase(PhaseKind::Prefill),
            decode: seen.phase(PhaseKind::Decode),
            memory: seen.memory(),
            elsewhere,
        })
    }
}

/// All that is known of the networks of one precision.
struct Seen<'a> {
    table: &'a LatencyTable,
    precision: Precision,
    workload: Workload,
    subnets: &'a [SubnetConfig],
    predictions: &'a [Prediction],
    measured: &'a [MeasuredNetwork],
    naive: Option<&'a [NaiveSums]>,
}

impl Seen<'_> {
    fn phase(&self, phase: PhaseKind) -> PhaseValidation {
        let at = match phase {
            PhaseKind::Prefill => 0,
            PhaseKind::Decode => 1,
        };
        let measured = || self.measured.iter().map(|network| &network.phases[at]);
        let compare = |predicted_us: Vec<f64>| -> Vec<Comparison> {
            let pairs = predicted_us.into_iter().zip(measured());
            let pairs = pairs.map(|(predicted_us, measured)| Comparison {
                predicted_us,
                measured_us: measured.median_us,
            });
            pairs.collect()
        };
        let of = |value: [fn(&Prediction) -> f64; 2]| -> Vec<f64> {
            self.predictions.iter().map(value[at]).collect()
        };
        let comparisons = compare(of([|p| p.ttft_us, |p| p.tpot_us]));
        let half_widths = of([|p| p.ttft_half_width_us, |p| p.tpot_half_width_us]);
        let inside = comparisons
            .iter()
            .zip(&half_widths)
            .filter(|(pair, half)| (pair.predicted_us - pair.measured_us).abs() <= **half);
        let count = comparisons.len().max(1) as f64;
        let mut predictors = vec![Predictor {
            name: "sum of prices, not calibrated".to_owned(),
            agreement: agreement(&compare(of([|p| p.ttft_sum_us, |p| p.tpot_sum_us]))),
        }];
        let mut add = |name: &str, predicted_us: Option<Vec<f64>>| {
            if let Some(predicted_us) = predicted_us {
                predictors.push(Predictor {
                    name: name.to_owned(),
                    agreement: agreement(&compare(predicted_us)),
                });
            }
        };
        let naive = |value: &dyn Fn(&NaiveSums) -> f64| {
            self.naive
                .map(|naive| naive.iter().map(value).collect::<Vec<f64>>())
        };
        add("sum of lone blocks", naive(&|sums| sums.lone_us[at]));
        add(
            "difference of 10 copies",
            naive(&|sums| sums.differenced_us[at]),
        );
        add(
            "FLOPs",
            self.scaled(phase, &|point| point.flops as f64, &self.flops(at)),
        );
        let parameters = self.subnets.iter();
        let parameters: Vec<f64> = parameters
            .map(|subnet| subnet.parameters(&self.table.model.dimensions) as f64)
            .collect();
        add(
            "parameters",
            self.scaled(phase, &|point| point.parameters as f64, &parameters),
        );
        PhaseValidation {
            agreement: agreement(&comparisons),
            noise_floor: self.noise_floor(at),
            coverage90: inside.count() as f64 / count,
            drift: measured().map(|m| m.drift).sum::<f64>() / count,
            predictors,
            measured_ci95_us: measured().map(|m| m.ci95_us).collect(),
            comparisons,
        }
    }

    /// One visit to each network against another.
    fn noise_floor(&self, at: usize) -> Option<Agreement> {
        let pairs = self.measured.iter().map(|network| {
            let visits = &network.phases[at].visits_us;
            Some(Comparison {
                predicted_us: *visits.first()?,
                measured_us: *visits.get(1)?,
            })
        });
        let pairs: Option<Vec<Comparison>> = pairs.collect();
        pairs.map(|pairs| agreement(&pairs))
    }

    fn flops(&self, at: usize) -> Vec<f64> {
        let model = &self.table.model.dimensions;
        let phase = network_phases(&self.workload)[at];
        let flops = self.subnets.iter().map(|s| s.flops(model, &phase) as f64);
        flops.collect()
    }

    /// A count, scaled to latencies by the line through the calibration's networks: as fair as can
    /// be to a predictor that has no unit of time.
    fn scaled(
        &self,
        phase: PhaseKind,
        count: &dyn Fn(&lathe_latency::CalibrationPoint) -> f64,
        counts: &[f64],
    ) -> Option<Vec<f64>> {
        let calibration = self.table.calibration(self.precision, phase)?;
        let points = calibration.points.iter().map(|point| {
            let sum_us = count(point);
            lathe_latency::CalibrationPoint { sum_us, ..*point }
        });
        let line = Calibration::fit(self.precision, phase, points.collect())?;
        let latency = counts
            .iter()
            .map(|count| line.offset_us + line.gain * count);
        Some(latency.collect())
    }

    fn memory(&self) -> Option<MemoryValidation> {
        let pairs = self.predictions.iter().zip(self.measured);
        let pairs: Vec<(f64, f64)> = pairs
            .filter_map(|(prediction, measured)| {
                Some((
                    prediction.peak_memory_bytes?,
                    measured.peak_memory_bytes? as f64,
                ))
            })
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let count = pairs.len() as f64;
        let errors = || {
            pairs
                .iter()
                .map(|(predicted, peak)| ((predicted - peak).abs(), *peak))
        };
        let right = |(error, peak): &(f64, f64)| *error <= (MEMORY_SHARE * peak).max(MEMORY_BYTES);
        Some(MemoryValidation {
            networks: pairs.len(),
            within: errors().filter(right).count() as f64 / count,
            mape: errors().map(|(error, peak)| error / peak).sum::<f64>() / count,
            worst_bytes: errors().map(|(error, _)| error).fold(0.0, f64::max),
        })
    }
}
