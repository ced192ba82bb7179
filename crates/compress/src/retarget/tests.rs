//! On made-up tables and qualities of a model with two layers.

use std::path::PathBuf;

use lathe_arch::{BlockShape, ModelConfig, Phase, Precision, SpaceSpec};
use lathe_latency::{
    DeviceFingerprint, Entry, LatencyStatistics, LatencyTable, MemoryModel, ModelDescription,
    Protocol, RuntimeFingerprint, TABLE_VERSION,
};
use lathe_search::Trial;

use super::*;
use crate::LatencyObjective;

const TPOT: Objective = Objective::Latency(LatencyObjective::Tpot);
const TTFT: Objective = Objective::Latency(LatencyObjective::Ttft);
const TOTAL: Objective = Objective::Latency(LatencyObjective::Total);

fn model() -> ModelConfig {
    ModelConfig {
        num_hidden_layers: 2,
        ..ModelConfig::smollm2_135m()
    }
}

fn space() -> SearchSpace {
    let choices = SpaceSpec {
        kv_heads: vec![0, 1, 3],
        intermediate_size: vec![0, 704, 1536],
        ..SpaceSpec::standard(&model())
    };
    SearchSpace::new(&model(), "small", &choices).unwrap()
}

/// A table in which attention and MLP blocks cost these times their bytes.
fn table(device: &str, attention: f64, mlp: f64) -> LatencyTable {
    let phases = [
        Phase::Prefill {
            batch: 1,
            seq_len: 128,
        },
        Phase::Decode {
            batch: 1,
            past_len: 0,
        },
    ];
    let entry = |block: BlockShape, phase: Phase| {
        let factor = match block {
            BlockShape::EmbeddingAndHead(_) => 1e-3,
            BlockShape::Attention(_) => attention,
            BlockShape::Mlp(_) => mlp,
        };
        let price_us = factor * block.weight_bytes(&model()) as f64 / 1e3;
        Entry {
            block,
            phase,
            price_us,
            latency: LatencyStatistics {
                median_us: price_us,
                min_us: price_us,
                p90_us: price_us,
                mad_us: 0.0,
                ci95_us: [price_us; 2],
                samples: 5,
            },
            copies: 8,
            footprint_bytes: 1 << 27,
            roof: None,
            flags: Vec::new(),
        }
    };
    let entries = space().shapes().into_iter();
    LatencyTable {
        version: TABLE_VERSION,
        device: DeviceFingerprint {
            name: device.to_owned(),
            cpu_model: String::new(),
            cores: 2,
            memory_bytes: 1 << 34,
            os: String::new(),
            kernel: String::new(),
            governor: None,
            affinity: Vec::new(),
            last_level_cache_bytes: None,
            emulated: false,
        },
        runtime: RuntimeFingerprint {
            build: String::new(),
            execution_provider: String::new(),
            threads: 2,
            session_options: Default::default(),
        },
        model: ModelDescription {
            name: "small".to_owned(),
            dimensions: model(),
        },
        entries: entries
            .flat_map(|block| phases.map(|phase| entry(block, phase)))
            .collect(),
        calibration: Vec::new(),
        memory: vec![MemoryModel {
            precision: Precision::F32,
            base_bytes: 1e8,
            factor: 1.0,
            networks: 3,
        }],
        protocol: Protocol {
            seed: 1,
            last_level_cache_bytes: 32 << 20,
            visits: 10,
            disturbed_visits: 0,
            memory_bytes_per_second: 2e10,
            operations_per_second: Default::default(),
            package_watts: Some(10.0),
            placement: None,
            conditions: Vec::new(),
            references: Vec::new(),
            baselines: Vec::new(),
            repeatability: None,
        },
    }
}

/// A folder of tables, and a study in which a layer without attention loses more than one without
/// MLP.
struct Fixture {
    folder: tempfile::TempDir,
    space: SearchSpace,
    header: StudyHeader,
    evaluations: Vec<Evaluation>,
    answer_weight: f64,
}

impl Fixture {
    fn new() -> Self {
        let space = space();
        let genomes = (0..81).map(|n| vec![n / 27, n / 9 % 3, n / 3 % 3, n % 3]);
        let evaluation = |genome: Vec<usize>| {
            let lost = |gene: usize| [1.0, 0.3, 0.0][gene];
            let kl = 1.5 * (lost(genome[0]) + lost(genome[2])) + lost(genome[1]) + lost(genome[3]);
            let genes = genome.iter().enumerate();
            // Later layers matter a little less, so that no two networks are alike.
            let later: usize = genes.map(|(index, gene)| gene * (4 - index)).sum();
            // What is known lies in the second MLP.
            let answers = lost(genome[3]) - 0.1;
            let objectives = vec![0.0, kl + 1e-3 * later as f64, answers];
            Trial::full(genome).with_objectives(objectives)
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            header: StudyHeader {
                problem: "small on a machine, 128+64, Tpot".to_owned(),
                cardinalities: space.cardinalities(),
                objectives: ["latency_us", "kl_divergence", "bits_per_byte_increase"]
                    .map(str::to_owned)
                    .to_vec(),
                low_fidelities: Vec::new(),
                method: "random".to_owned(),
                options: String::new(),
                seed: 1,
                batch: 1,
            },
            evaluations: genomes.map(evaluation).collect(),
            answer_weight: 0.0,
            space,
        }
    }

    fn load(&self, tables: &[LatencyTable]) -> anyhow::Result<DeviceTables> {
        let save = |(index, table): (usize, &LatencyTable)| {
            let path = self.folder.path().join(format!("{index}.yaml"));
            table.save(&path).unwrap();
            path
        };
        let paths: Vec<PathBuf> = tables.iter().enumerate().map(save).collect();
        DeviceTables::load(&paths, &self.header)
    }

    fn ask(
        &self,
        tables: &[LatencyTable],
        objectives: &[Objective],
        limits: Limits,
    ) -> anyhow::Result<Retargeted> {
        Retarget {
            header: &self.header,
            evaluations: &self.evaluations,
            space: &self.space,
            tables: &self.load(tables)?,
            workload: "128+64".parse().unwrap(),
            objectives,
            limits,
            answer_weight: self.answer_weight,
        }
        .front()
    }

    fn front(&self, tables: &[LatencyTable], objectives: &[Objective]) -> Front {
        let found = self.ask(tables, objectives, Limits::default()).unwrap();
        assert_eq!(found.chosen, None);
        found.front
    }

    fn message(&self, tables: &[LatencyTable], objectives: &[Objective]) -> String {
        let found = self.ask(tables, objectives, Limits::default());
        format!("{:#}", found.unwrap_err())
    }
}

fn genomes(front: &Front) -> Vec<Vec<usize>> {
    let genomes = front.members.iter().map(|member| member.genome.clone());
    genomes.collect()
}

fn fields(front: &Front) -> Vec<String> {
    front.columns.iter().map(Column::field).collect()
}

#[test]
fn values_are_those_of_the_table_and_the_study() {
    let fixture = Fixture::new();
    let table = table("box", 1.0, 1.0);
    let front = fixture.front(std::slice::from_ref(&table), &Objective::ALL);
    let expected = Objective::ALL.map(Objective::field);
    assert_eq!(fields(&front), expected);
    // Weights are all that costs, so the smallest and the full network are on every front.
    assert_eq!(genomes(&front)[0], [0; 4]);
    assert!(genomes(&front).contains(&vec![2; 4]));
    let workload = "128+64".parse().unwrap();
    for member in &front.members {
        let prediction = table.predict(&member.subnet, &workload).unwrap();
        let bytes = member.subnet.weight_bytes(&model()) as f64;
        let is_it = |e: &&Evaluation| e.genome == member.genome;
        let evaluation = fixture.evaluations.iter().find(is_it).unwrap();
        let expected = [
            prediction.ttft_us,
            prediction.tpot_us,
            prediction.total_us,
            prediction.peak_memory_bytes.unwrap(),
            bytes,
            prediction.total_us * 10.0 / 1e6,
            evaluation.objectives[1],
            evaluation.objectives[2],
        ];
        for (value, expected) in member.values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9 * expected.abs().max(1.0));
        }
        assert_eq!(member.parameters, member.subnet.parameters(&model()));
    }
}

#[test]
fn a_front_has_the_objectives_that_are_asked() {
    let fixture = Fixture::new();
    let tables = [table("box", 1.0, 1.0)];
    let two = fixture.front(&tables, &[TPOT, Objective::Kl]);
    assert!(two.members.len() > 2 && two.knee().is_some());
    let three = fixture.front(&tables, &[TPOT, Objective::Memory, Objective::Kl]);
    assert_eq!(three.knee(), None);
    let all = genomes(&three);
    assert!(genomes(&two).iter().all(|genome| all.contains(genome)));
    // Without quality the smallest network is the best in everything.
    let one = fixture.front(&tables, &[TTFT, Objective::Size]);
    assert_eq!(genomes(&one), [vec![0; 4]]);
    let nearest = fixture.front(&tables, &[Objective::Kl]);
    assert_eq!(nearest.members.len(), 1);
    // In the order in which they are asked, the front by the first.
    let turned = fixture.front(&tables, &[Objective::Kl, TPOT]);
    let mut backwards = genomes(&turned);
    backwards.reverse();
    assert_eq!(backwards, genomes(&two));
    assert_eq!(fields(&turned), ["kl_divergence", "tpot_us"]);
}

#[test]
fn another_device_has_another_front() {
    let fixture = Fixture::new();
    let front = |table| fixture.front(&[table], &[TPOT, Objective::Kl]);
    let even = front(table("box", 1.0, 1.0));
    // All twice as dear: the same networks, at another price but for the head's.
    let slow = front(table("slow", 2.0, 2.0));
    assert_eq!(genomes(&slow), genomes(&even));
    let span = |front: &Front| {
        let at = |member: Option<&Member>| member.unwrap().values[0];
        at(front.members.last()) - at(front.members.first())
    };
    assert!((span(&slow) / span(&even) - 2.0).abs() < 1e-9);
    // Dear attention is what goes first; the front is another one.
    let attention = front(table("phone", 50.0, 0.1));
    assert_ne!(genomes(&attention), genomes(&even));
    let is_cheaper = |member: &Member| member.genome[0] + member.genome[2] == 0;
    assert!(attention.members.iter().any(is_cheaper));
}

#[test]
fn several_devices_count_together() {
    let fixture = Fixture::new();
    let tables = [table("box", 1.0, 1.0), table("phone", 50.0, 0.1)];
    let objectives = [TPOT, Objective::Size, Objective::Kl];
    let both = fixture.front(&tables, &objectives);
    let named = [
        "tpot_us@box",
        "tpot_us@phone",
        "weight_bytes",
        "kl_divergence",
    ];
    assert_eq!(fields(&both), named);
    let all = genomes(&both);
    for table in &tables {
        let one = fixture.front(std::slice::from_ref(table), &objectives);
        assert!(genomes(&one).iter().all(|genome| all.contains(genome)));
    }
    // Devices of one name, and names that would need quotes.
    let tables = ["local", "local", "a, b\n", ""].map(|name| table(name, 1.0, 1.0));
    let alike = fixture.front(&tables, &[TTFT]);
    let named = ["local", "local-2", "a__b_", "device"].map(|name| format!("ttft_us@{name}"));
    assert_eq!(fields(&alike), named);
}

#[test]
fn limits_hold_on_every_device() {
    let fixture = Fixture::new();
    let tables = [table("box", 1.0, 1.0), table("phone", 4.0, 0.1)];
    let full = |table: &LatencyTable| {
        let subnet = fixture.space.decode(&[2; 4]).unwrap();
        let prediction = table.predict(&subnet, &"128+64".parse().unwrap());
        prediction.unwrap().tpot_us
    };
    let tpot_us = 0.6 * full(&tables[1]).min(full(&tables[0]));
    let limits = Limits {
        tpot_us: Some(tpot_us),
        ..Limits::default()
    };
    let found = fixture
        .ask(&tables, &[TPOT, Objective::Kl], limits)
        .unwrap();
    let keeps = |member: &Member| member.values[..2].iter().all(|value| *value <= tpot_us);
    assert!(!found.front.members.is_empty() && found.front.members.iter().all(keeps));
    let chosen = found.chosen.unwrap();
    let least = found.front.members.iter().map(|member| member.values[2]);
    assert_eq!(chosen.values[2], least.fold(f64::INFINITY, f64::min));
    // The nearest is found where nearness is no objective, too.
    let found = fixture.ask(&tables, &[TPOT], limits).unwrap();
    assert_eq!(found.chosen.unwrap().genome, chosen.genome);
    let limits = Limits {
        tpot_us: Some(1.0),
        ..Limits::default()
    };
    let message = fixture
        .ask(&tables, &[TPOT], limits)
        .unwrap_err()
        .to_string();
    let words = ["time per output token on box", "on phone", "81"];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn what_cannot_be_told_is_refused() {
    let fixture = Fixture::new();
    let sound = table("box", 1.0, 1.0);
    let changed = |change: fn(&mut LatencyTable)| {
        let mut table = sound.clone();
        change(&mut table);
        [table]
    };
    let kl = [TOTAL, Objective::Kl];
    let cases = [
        (
            changed(|t| t.model.name = "large".to_owned()),
            &kl[..],
            ["`large`", "`small`"],
        ),
        (
            changed(|t| t.entries.truncate(4)),
            &kl,
            ["no price", "0.yaml"],
        ),
        (
            changed(|t| t.protocol.package_watts = None),
            &[Objective::Energy],
            ["package_watts", "`box`"],
        ),
        (
            changed(|t| t.memory.clear()),
            &[Objective::Memory],
            ["memory", "f32"],
        ),
        ([sound.clone()], &[TPOT, TPOT], ["tpot", "twice"]),
        ([sound.clone()], &[], ["no objective", "given"]),
    ];
    for (tables, objectives, words) in cases {
        let message = fixture.message(&tables, objectives);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let mut other = sound.clone();
    other.model.dimensions.hidden_size = 640;
    let message = fixture.message(&[sound.clone(), other], &kl);
    assert!(message.contains("dimensions"), "{message}");
    let path = fixture.folder.path().join("0.yaml");
    let twice = DeviceTables::load(&[path.clone(), path], &fixture.header);
    assert!(twice.unwrap_err().to_string().contains("twice"));
    type Change = fn(&mut Fixture);
    let cases: [(Change, &str); 3] = [
        (|f| f.evaluations.clear(), "no evaluations"),
        (|f| f.header.cardinalities[0] = 4, "space.json"),
        (|f| f.header.objectives[1] = "regret".to_owned(), "regret"),
    ];
    for (change, word) in cases {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        let message = fixture.message(std::slice::from_ref(&sound), &kl);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_front_is_written_as_a_search_writes_its_own() {
    let fixture = Fixture::new();
    let front = fixture.front(&[table("box", 1.0, 1.0)], &[TPOT, Objective::Kl]);
    let folder = fixture.folder.path();
    front.write(folder).unwrap();
    let csv = std::fs::read_to_string(folder.join("front.csv")).unwrap();
    assert!(
        csv.starts_with("tpot_us,kl_divergence,parameters\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 1 + front.members.len());
    let yaml = std::fs::read_to_string(folder.join("front.yaml")).unwrap();
    assert!(yaml.starts_with("- tpot_us: "), "{yaml}");
    let rows: Vec<serde_yaml::Value> = serde_yaml::from_str(&yaml).unwrap();
    for (row, member) in rows.iter().zip(&front.members) {
        assert_eq!(row["kl_divergence"].as_f64(), Some(member.values[1]));
        let subnet = serde_yaml::from_value(row["subnet"].clone());
        assert_eq!(member.subnet, subnet.unwrap());
        assert!(row.get("genome").is_none());
    }
    let json = serde_json::to_value(&front).unwrap();
    assert_eq!(json[0]["genome"], serde_json::json!([0, 0, 0, 0]));
    assert_eq!(json[0]["tpot_us"], front.members[0].values[0]);
}

#[test]
fn networks_of_fewer_layers_stand_beside_the_best() {
    let mut fixture = Fixture::new();
    let device = [table("local", 1.0, 1.0)];
    let second_alone = [0, 0, 2, 2];
    let subnet = fixture.space.decode(&second_alone).unwrap();
    let prediction = device[0].predict(&subnet, &"128+64".parse().unwrap());
    let limits = Limits {
        tpot_us: Some(prediction.unwrap().tpot_us),
        ..Limits::default()
    };
    let ask = |fixture: &Fixture| fixture.ask(&device, &[TPOT, Objective::Kl], limits);
    let least = ask(&fixture).unwrap().chosen.unwrap();
    assert_eq!(least.subnet.depth(), 2);
    for (times_more, expected) in [(1.2, vec![1]), (1.8, vec![]), (0.9, vec![])] {
        for evaluation in &mut fixture.evaluations {
            if evaluation.genome == second_alone {
                evaluation.objectives[1] = times_more * least.values[1];
            }
        }
        let found = ask(&fixture).unwrap();
        let depths = found.shallower.iter().map(|member| member.subnet.depth());
        assert_eq!(depths.collect::<Vec<_>>(), expected, "{times_more}");
    }
    // Where answers weigh most, the network is chosen that keeps them.
    fixture.answer_weight = 100.0;
    let knowing = ask(&fixture).unwrap().chosen.unwrap();
    assert_eq!((least.genome[3], knowing.genome[3]), (1, 2));
    let unlimited = fixture.ask(&device, &[TPOT], Limits::default()).unwrap();
    assert!(unlimited.shallower.is_empty());
}
