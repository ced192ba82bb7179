//! One profile shared among several units of one kind of device.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use lathe_arch::{BlockShape, Phase, Precision};
use lathe_latency::LatencyTable;

use crate::placement::most_common;
use crate::plan::{Probe, ProfilePlan};
use crate::profile::{ProfileRequest, Recorded, record};
use crate::units::{UnitDifference, unit_difference};
use crate::visit::{PassRecord, Record, round_trips};
use crate::{AgentCommand, ProfilerError};

/// One in so many blocks of a kind is measured by every unit: by these they are compared.
const COMMON_EVERY: usize = 4;

/// A profile that several units share.
pub struct SplitRequest<'a> {
    /// What to measure; the table goes to its `out`, and what each unit measured beside it.
    pub whole: ProfileRequest<'a>,
    /// How to start agents on each unit, and what was noticed about it.
    pub units: &'a [(&'a AgentCommand, &'a [String])],
    /// Median difference of the prices that two units have both measured, as a share, beyond which one
    /// table cannot speak for both.
    pub most_apart: f64,
}

/// A table of several units' visits.
pub struct SplitProfile {
    /// The table, with the fingerprint of the first unit.
    pub table: LatencyTable,
    /// How far pairs of units differ on the blocks that all have measured, by their places in the request.
    pub differences: Vec<(usize, usize, UnitDifference)>,
}

/// Measures a plan's blocks on several units at once, each a part of them, and writes one table.
///
/// `on_progress` is told the unit, the share that it has done, and what comes next there.
///
/// # Errors
/// As for `profile`; and when the units are not of one kind, or not equally fast. What a unit has
/// measured stays in its journal and in a table of its own.
pub fn profile_split(
    request: &SplitRequest<'_>,
    on_progress: impl Fn(usize, f64, &str) + Sync,
) -> Result<SplitProfile, ProfilerError> {
    let (whole, on_progress) = (request.whole, &on_progress);
    let measured = thread::scope(|scope| {
        let running = (0..request.units.len()).map(|unit| {
            let show = move |share: f64, what: &str| on_progress(unit, share, what);
            scope.spawn(move || measure(request, unit, show))
        });
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(|running| running.join());
        ended
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let (recorded, tables): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    let differences = differences(&tables, request.most_apart)?;
    let table = joined(recorded, whole.plan).table(&whole);
    table.save(whole.out)?;
    Ok(SplitProfile { table, differences })
}

/// One unit's part.
fn measure(
    request: &SplitRequest<'_>,
    unit: usize,
    on_progress: impl FnMut(f64, &str),
) -> Result<(Recorded, LatencyTable), ProfilerError> {
    let (agent, conditions) = request.units[unit];
    let name = &agent.device().name;
    let out = request.whole.out.with_extension(format!("{name}.yaml"));
    let part = ProfileRequest {
        agent,
        conditions,
        plan: &request.whole.plan.part(unit, request.units.len()),
        out: &out,
        ..request.whole
    };
    let of_unit = |source| ProfilerError::Unit {
        unit: name.clone(),
        source: Box::new(source),
    };
    let recorded = record(&part, on_progress).map_err(of_unit)?;
    let table = recorded.table(&part);
    table.save(&out)?;
    Ok((recorded, table))
}

impl ProfilePlan {
    /// What one of several units measures: every so many blocks of each kind, those that all measure,
    /// networks of its own, and as much of the time.
    fn part(&self, unit: usize, units: usize) -> Self {
        let mut seen: BTreeMap<(Precision, u8), usize> = BTreeMap::new();
        let is_part = |block: &&BlockShape| {
            let kind = match block {
                BlockShape::EmbeddingAndHead(_) => 0,
                BlockShape::Attention(_) => 1,
                BlockShape::Mlp(_) => 2,
            };
            let seen = seen.entry((block.precision(), kind)).or_default();
            let (common, turn) = (*seen / COMMON_EVERY, *seen);
            *seen += 1;
            // The common ones do not count, lest one unit has them all as its own.
            turn.is_multiple_of(COMMON_EVERY) || (turn - common) % units == unit
        };
        let blocks: Vec<BlockShape> = self.blocks.iter().filter(is_part).copied().collect();
        let share = blocks.len() as f64 / self.blocks.len().max(1) as f64;
        Self {
            blocks,
            budget_s: self.budget_s * share,
            limit_s: self.limit_s * share,
            networks: self.networks.div_ceil(units),
            seed: self.seed.wrapping_add(unit as u64),
            ..self.clone()
        }
    }
}

/// How far pairs of units differ.
fn differences(
    tables: &[LatencyTable],
    most_apart: f64,
) -> Result<Vec<(usize, usize, UnitDifference)>, ProfilerError> {
    let mut all = Vec::new();
    for (index, one) in tables.iter().enumerate() {
        for (other_index, other) in tables.iter().enumerate().skip(index + 1) {
            let names = || [one, other].map(|table| table.device.name.clone());
            let Some(difference) = unit_difference(one, other) else {
                return Err(ProfilerError::OtherKind { units: names() });
            };
            if difference.median > most_apart {
                return Err(ProfilerError::UnitsDiffer {
                    units: names(),
                    entries: difference.entries,
                    percent: 100.0 * difference.median,
                    limit_percent: 100.0 * most_apart,
                });
            }
            all.push((index, other_index, difference));
        }
    }
    Ok(all)
}

/// Everything that the units have recorded, as if one had.
fn joined(units: Vec<Recorded>, whole: &ProfilePlan) -> Recorded {
    let names: Vec<String> = units.iter().map(|unit| unit.device.name.clone()).collect();
    let mut units = units.into_iter();
    let mut all = units
        .next()
        .expect("a profile is shared by at least one unit");
    all.plan = ProfilePlan {
        last_level_cache_bytes: all.plan.last_level_cache_bytes,
        ..whole.clone()
    };
    all.restrict();
    for mut unit in units {
        unit.restrict();
        for record in &mut unit.records {
            if let Record::Network(network) = record {
                network.index += all.networks.get(&network.precision).map_or(0, Vec::len);
            }
        }
        for (precision, networks) in unit.networks {
            all.networks.entry(precision).or_default().extend(networks);
        }
        all.records.extend(unit.records);
        all.conditions.extend(unit.conditions);
    }
    let of = format!("shared among units: {}", names.join(", "));
    all.conditions.insert(0, of);
    all
}

/// What a record is about.
type Subject = (Option<Probe>, Option<(Precision, usize)>);

impl Recorded {
    /// Leaves only the turns in the unit's own most common placement, so that those of several
    /// units can be read together. What was never timed there stays as it is.
    fn restrict(&mut self) {
        let Some(placement) = most_common(round_trips(&self.records)) else {
            return;
        };
        let mut there: BTreeSet<(Subject, Phase)> = BTreeSet::new();
        for record in self.records.iter().filter(|r| r.disturbed().is_none()) {
            let (subject, passes) = passes(record);
            let timed = passes
                .iter()
                .filter(|pass| !pass.turns_us(Some(&placement)).is_empty());
            there.extend(timed.map(|pass| (subject, pass.phase)));
        }
        for record in &mut self.records {
            let subject = passes(record).0;
            for pass in passes_mut(record) {
                if there.contains(&(subject, pass.phase)) {
                    pass.keep(&placement);
                } else {
                    pass.round_trips_ns.clear();
                }
            }
        }
    }
}

fn passes(record: &Record) -> (Subject, &[PassRecord]) {
    match record {
        Record::Roofs(_) => ((None, None), &[]),
        Record::Visit(visit) => ((Some(visit.probe), None), &visit.passes),
        Record::Network(network) => {
            let network_of = (network.precision, network.index);
            ((None, Some(network_of)), &network.passes)
        }
    }
}

fn passes_mut(record: &mut Record) -> &mut [PassRecord] {
    match record {
        Record::Roofs(_) => &mut [],
        Record::Visit(visit) => &mut visit.passes,
        Record::Network(network) => &mut network.passes,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lathe_agent::Environment;
    use lathe_arch::{AttentionConfig, MlpConfig, ModelConfig, SubnetConfig};

    use super::*;
    use crate::visit::{NetworkRecord, VisitRecord, networks};

    fn plan() -> ProfilePlan {
        let model = ModelConfig::smollm2_135m();
        let attention = (1..=3).map(|groups| AttentionConfig::with_groups(&model, groups));
        let mlp = (1..=12).map(|width| MlpConfig::with_width(128 * width));
        let attention = attention.map(BlockShape::Attention);
        ProfilePlan::quick(attention.chain(mlp.map(BlockShape::Mlp)).collect())
    }

    fn unit(records: Vec<Record>) -> Recorded {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds");
        let seed = LatencyTable::load(&seeds.join("table/profile")).unwrap();
        let network = SubnetConfig::full(&ModelConfig::smollm2_135m());
        Recorded {
            plan: plan(),
            device: seed.device,
            runtime: seed.runtime,
            networks: [(Precision::F32, vec![network])].into(),
            records,
            conditions: Vec::new(),
        }
    }

    #[test]
    fn networks_of_units_keep_apart() {
        let visit = || {
            Record::Network(NetworkRecord {
                precision: Precision::F32,
                index: 0,
                passes: Vec::new(),
                seconds: 1.0,
                peak_memory_bytes: None,
                disturbed: None,
            })
        };
        let units = (0..3).map(|_| unit(vec![visit(), visit()])).collect();
        let all = joined(units, &plan());
        assert_eq!(all.networks[&Precision::F32].len(), 3);
        let indices = networks(&all.records).map(|network| network.index);
        assert_eq!(indices.collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn parts_are_the_whole_and_have_a_part_in_common() {
        let whole = plan();
        for units in 1..4 {
            let parts: Vec<ProfilePlan> = (0..units).map(|unit| whole.part(unit, units)).collect();
            let by_how_many = whole.blocks.iter().map(|block| {
                let having = parts.iter().filter(|part| part.blocks.contains(block));
                having.count()
            });
            let by_how_many: Vec<usize> = by_how_many.collect();
            assert!(by_how_many.iter().all(|n| *n == 1 || *n == units));
            // The first of each kind, and two more MLPs.
            let common = by_how_many.iter().filter(|n| **n == units).count();
            assert!(units == 1 || common == 4, "{by_how_many:?}");
            let lengths: Vec<usize> = parts.iter().map(|part| part.blocks.len()).collect();
            let spread = lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
            assert!(spread <= 2, "{lengths:?}");
            let seconds: f64 = parts.iter().map(|part| part.budget_s).sum();
            assert!(seconds < whole.budget_s * (1.0 + 0.3 * units as f64));
        }
    }

    #[test]
    fn each_unit_has_a_placement_of_its_own() {
        let visit = |width, round_trips_ns: Vec<u64>| {
            let pass = PassRecord {
                phase: Phase::Prefill {
                    batch: 1,
                    seq_len: 8,
                },
                durations_ns: (0..6).map(|turn| vec![100 + turn, 7]).collect(),
                round_trips_ns,
                environment: Environment::default(),
            };
            Record::Visit(VisitRecord {
                probe: Probe {
                    block: BlockShape::Mlp(MlpConfig::with_width(width)),
                    kind: lathe_latency::PhaseKind::Prefill,
                },
                passes: vec![pass],
                seconds: 1.0,
                disturbed: None,
            })
        };
        // Mostly near; the second block was never timed but far.
        let mut unit = unit(vec![
            visit(128, vec![80, 80, 80, 80, 300, 300, 80]),
            visit(256, vec![300; 7]),
            visit(128, vec![80; 7]),
        ]);
        unit.restrict();
        let turns = unit.records.iter().map(|record| {
            let pass = &passes(record).1[0];
            assert!(pass.round_trips_ns.is_empty());
            pass.durations_ns.len()
        });
        assert_eq!(turns.collect::<Vec<_>>(), [3, 6, 6]);
    }
}
