//! From a journal's records to a table.

use std::collections::BTreeMap;

use lathe_arch::{BlockShape, Phase, Precision, SubnetConfig, Workload};
use lathe_latency::{
    Baseline, Bound, Calibration, CalibrationPoint, Entry, LatencyTable, MemoryModel, MemoryPoint,
    ModelDescription, PhaseKind, Placement, Protocol, Reference, Roof, TABLE_VERSION,
    context_bytes,
};

use crate::ProfileRequest;
use crate::deviation::Deviations;
use crate::plan::{baseline, kind};
use crate::price::{
    opening_latencies_us, reference_phase, reference_us, shares, shares_of_visits, statistics,
};
use crate::profile::Recorded;
use crate::smooth::{Noisy, smooth};
use crate::statistics::{median, quantile};
use crate::visit::{NetworkRecord, Record, RoofsRecord, networks, visits};

/// A share of the roof above which a decode's weights must have come from a cache.
const CACHED_SHARE: f64 = 1.05;
/// A share of the roof below which something is amiss.
const SLOW_SHARE: f64 = 0.25;

/// What a table is made of.
pub(crate) struct Assembly<'a> {
    pub request: &'a ProfileRequest<'a>,
    pub recorded: &'a Recorded,
    /// Where the processors were when what counts was timed.
    pub placement: Option<Placement>,
}

impl Assembly<'_> {
    pub fn table(&self) -> LatencyTable {
        let (plan, model) = (&self.recorded.plan, self.request.model);
        let references = self.references();
        let roofs = self.roofs();
        let disturbed = self
            .recorded
            .records
            .iter()
            .filter(|r| r.disturbed().is_some());
        let disturbed_visits = disturbed.count();
        let mut table = LatencyTable {
            version: TABLE_VERSION,
            device: self.recorded.device.clone(),
            runtime: self.recorded.runtime.clone(),
            model: ModelDescription {
                name: self.request.model_name.to_owned(),
                dimensions: model.clone(),
            },
            entries: self.entries(&references, &roofs),
            calibration: Vec::new(),
            memory: Vec::new(),
            protocol: Protocol {
                seed: plan.seed,
                last_level_cache_bytes: plan.last_level_cache_bytes,
                visits: self.recorded.records.len() - disturbed_visits,
                disturbed_visits,
                memory_bytes_per_second: roofs.memory_bytes_per_second,
                operations_per_second: roofs.operations_per_second,
                placement: self.placement,
                package_watts: self.package_watts(),
                conditions: self.recorded.conditions.clone(),
                references,
                baselines: self.baselines(),
                repeatability: None,
            },
        };
        for precision in plan.precisions() {
            for phase in [PhaseKind::Prefill, PhaseKind::Decode] {
                let fit = |placement: Option<&Placement>| {
                    let points = self.calibration_points(&table, precision, phase, placement);
                    Calibration::fit(precision, phase, points)
                };
                // Where too few networks were timed in the placement, all have to do.
                let fitted = fit(self.placement.as_ref()).or_else(|| fit(None));
                table.calibration.extend(fitted);
            }
            let points = self.memory_points(precision);
            table.memory.extend(MemoryModel::fit(precision, &points));
        }
        Calibration::moderate(&mut table.calibration);
        table
    }

    /// The reference chains' latencies over the whole profile.
    fn references(&self) -> Vec<Reference> {
        let (plan, model) = (&self.recorded.plan, self.request.model);
        let passes = visits(&self.recorded.records).flat_map(|visit| {
            let precision = visit.probe.block.precision();
            let passes = visit.passes.iter();
            passes.map(move |pass| (precision, reference_phase(pass.phase), pass))
        });
        let all = opening_latencies_us(passes, self.placement.as_ref());
        let reference =
            |((precision, phase), latencies_us): ((Precision, Phase), Vec<f64>)| Reference {
                precision,
                phase,
                copies: plan.reference_copies(precision, kind(&phase), model),
                median_us: median(&latencies_us),
                samples: latencies_us.len(),
            };
        all.into_iter().map(reference).collect()
    }

    /// The baseline networks' latencies over the whole profile.
    fn baselines(&self) -> Vec<Baseline> {
        let passes = networks(&self.recorded.records).flat_map(|network| {
            let passes = network.passes.iter();
            passes.map(|pass| (network.precision, pass.phase, pass))
        });
        let all = opening_latencies_us(passes, self.placement.as_ref()).into_iter();
        all.map(|((precision, phase), latencies_us)| Baseline {
            precision,
            phase,
            median_us: median(&latencies_us),
            samples: latencies_us.len(),
        })
        .collect()
    }

    /// Mean power over all visits, where it was counted.
    fn package_watts(&self) -> Option<f64> {
        let environments = || {
            let passes = visits(&self.recorded.records).flat_map(|visit| &visit.passes);
            passes.map(|pass| &pass.environment)
        };
        let counted = environments().map(|environment| Some(environment.energy_uj? as f64));
        let energy_uj: f64 = counted.sum::<Option<f64>>()?;
        let wall_us: f64 = environments().map(|e| e.wall_us as f64).sum();
        (wall_us > 0.0 && energy_uj > 0.0).then(|| energy_uj / wall_us)
    }

    fn roofs(&self) -> Roofs {
        let roofs = self
            .recorded
            .records
            .iter()
            .find_map(|record| match record {
                Record::Roofs(roofs) => Some(roofs),
                Record::Visit(_) | Record::Network(_) => None,
            });
        roofs.map(Roofs::of).unwrap_or_default()
    }

    /// One entry for each block and phase.
    fn entries(&self, references: &[Reference], roofs: &Roofs) -> Vec<Entry> {
        let (plan, model) = (&self.recorded.plan, self.request.model);
        let mut entries = Vec::new();
        let mut noisy = Vec::new();
        let anywhere = shares_of_visits(&self.recorded.records, plan, model, None);
        let there = shares_of_visits(&self.recorded.records, plan, model, self.placement.as_ref());
        let deviations = Deviations::of(&there);
        for ((probe, phase), all) in &anywhere {
            let counted = there.get(&(*probe, *phase));
            let visits = counted.unwrap_or(all);
            let precision = probe.block.precision();
            let Some(level_us) = reference_us(references, precision, *phase) else {
                continue;
            };
            let mut latency = statistics(&visits.concat(), level_us);
            let mut flags = Vec::new();
            if counted.is_none() {
                flags.push("timed in another placement of the processors".to_owned());
            }
            if latency.median_us <= 0.0 {
                latency.median_us = 1e-3;
                flags.push("below the noise".to_owned());
            }
            let half_width = deviations.half_width(probe, *phase, visits);
            let [low, high] = latency.ci95_us;
            let half_width_us = half_width * latency.median_us;
            latency.ci95_us = [
                low.min(latency.median_us - half_width_us).max(0.0),
                high.max(latency.median_us + half_width_us),
            ];
            if latency.half_width_us() > plan.target * latency.median_us {
                let percent = 100.0 * latency.half_width_us() / latency.median_us;
                let wanted = 100.0 * plan.target;
                flags.push(format!(
                    "noisy: within {percent:.1} %, wanted {wanted:.1} %"
                ));
            }
            noisy.push(Noisy {
                block: probe.block,
                phase: *phase,
                price: latency.median_us,
                error: latency.median_us * deviations.error(probe, *phase, visits),
            });
            entries.push(Entry {
                block: probe.block,
                phase: *phase,
                price_us: latency.median_us,
                latency,
                copies: plan.chain_lengths(probe, model)[1],
                footprint_bytes: plan.footprint_bytes(probe, model),
                roof: None,
                flags,
            });
        }
        for (entry, smoothed) in entries.iter_mut().zip(smooth(&noisy)) {
            entry.price_us = smoothed.price;
            let roof = roofs.of_entry(&entry.block, &entry.phase, smoothed.price, model);
            entry
                .flags
                .extend(roof.and_then(|roof| doubt(&roof, &entry.phase)));
            entry.roof = roof;
        }
        entries.sort_by_key(|entry| (entry.block, entry.phase));
        entries
    }

    fn calibration_points(
        &self,
        table: &LatencyTable,
        precision: Precision,
        phase: PhaseKind,
        placement: Option<&Placement>,
    ) -> Vec<CalibrationPoint> {
        let (plan, model) = (&self.recorded.plan, self.request.model);
        let drawn = self.recorded.networks.get(&precision).into_iter().flatten();
        let point = |(index, subnet): (usize, &SubnetConfig)| {
            let records = networks(&self.recorded.records);
            let records = records.filter(|r| (r.precision, r.index) == (precision, index));
            let passes = records.flat_map(|record| &record.passes);
            let passes: Vec<_> = passes.filter(|pass| kind(&pass.phase) == phase).collect();
            let at = passes.first()?.phase;
            let level_us = baseline_us(table, precision, at, &plan.workload)?;
            let shares: Vec<f64> = passes
                .iter()
                .flat_map(|pass| shares(pass, [0, 1], placement))
                .collect();
            if shares.is_empty() {
                return None;
            }
            let prediction = table.predict(subnet, &plan.workload).ok()?;
            Some(CalibrationPoint {
                sum_us: match phase {
                    PhaseKind::Prefill => prediction.ttft_sum_us,
                    PhaseKind::Decode => prediction.tpot_sum_us,
                },
                measured_us: level_us * median(&shares),
                flops: subnet.flops(model, &at),
                parameters: subnet.parameters(model),
            })
        };
        drawn.enumerate().filter_map(point).collect()
    }

    fn memory_points(&self, precision: Precision) -> Vec<MemoryPoint> {
        let (plan, model) = (&self.recorded.plan, self.request.model);
        let records = networks(&self.recorded.records).filter(|r| r.precision == precision);
        let point = |record: &NetworkRecord| {
            let subnet = self.recorded.networks.get(&precision)?.get(record.index)?;
            let bytes = subnet.blocks().map(|block| block.weight_bytes(model));
            let context = context_bytes(model, subnet, &plan.workload);
            Some(MemoryPoint {
                block_bytes: bytes.sum::<u64>() as f64,
                rest_bytes: record.peak_memory_bytes? as f64 - context,
            })
        };
        records.filter_map(point).collect()
    }
}

/// The latency of the baseline network: as measured, or as predicted for another workload.
pub(crate) fn baseline_us(
    table: &LatencyTable,
    precision: Precision,
    phase: Phase,
    workload: &Workload,
) -> Option<f64> {
    let mut baselines = table.protocol.baselines.iter();
    if let Some(measured) = baselines.find(|b| b.precision == precision && b.phase == phase) {
        return Some(measured.median_us);
    }
    let subnet = baseline(precision, &table.model.dimensions);
    let prediction = table.predict(&subnet, workload).ok()?;
    Some(match kind(&phase) {
        PhaseKind::Prefill => prediction.ttft_us,
        PhaseKind::Decode => prediction.tpot_us,
    })
}

/// What a share of the roof says against an entry.
fn doubt(roof: &Roof, phase: &Phase) -> Option<String> {
    let percent = 100.0 * roof.share;
    if roof.share > CACHED_SHARE && kind(phase) == PhaseKind::Decode {
        return Some(format!(
            "{percent:.0} % of the memory's rate: weights came from a cache"
        ));
    }
    (roof.share < SLOW_SHARE).then(|| format!("only {percent:.0} % of the device's limit"))
}

/// The device's limits.
#[derive(Default)]
struct Roofs {
    memory_bytes_per_second: f64,
    operations_per_second: BTreeMap<Precision, f64>,
}

impl Roofs {
    fn of(record: &RoofsRecord) -> Self {
        // Limits are what the device can do: the fastest run of each.
        let seconds = |runs: &[u64]| {
            let runs: Vec<f64> = runs.iter().map(|ns| *ns as f64 / 1e9).collect();
            quantile(&runs, 0.0).max(1e-9)
        };
        let rates = record.operations.iter();
        let rate = |(precision, operations, runs): &(Precision, u64, Vec<u64>)| {
            (*precision, *operations as f64 / seconds(runs))
        };
        Self {
            memory_bytes_per_second: record.buffer_bytes as f64 / seconds(&record.reading_ns),
            operations_per_second: rates.map(rate).collect(),
        }
    }

    fn of_entry(
        &self,
        block: &BlockShape,
        phase: &Phase,
        price_us: f64,
        model: &lathe_arch::ModelConfig,
    ) -> Option<Roof> {
        let operations = self.operations_per_second.get(&block.precision())?;
        let compute_us = block.flops(model, phase) as f64 / operations * 1e6;
        let bytes = block.traffic_bytes(model, phase) as f64;
        let memory_us = bytes / self.memory_bytes_per_second * 1e6;
        let bound = if compute_us > memory_us {
            Bound::Compute
        } else {
            Bound::Memory
        };
        Some(Roof {
            share: compute_us.max(memory_us) / price_us,
            bound,
        })
    }
}
