//! Loading a table and predicting from it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lathe_arch::{SubnetConfig, Workload};
use lathe_benches::{space, table};
use lathe_latency::{LatencyTable, SpacePrices};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn load(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let path = folder.path().join("table.yaml");
    table().save(&path).expect("the table can be written");
    c.bench_function("load a table", |b| b.iter(|| LatencyTable::load(&path)));
}

fn predict(c: &mut Criterion) {
    let (table, workload) = (table(), Workload::default());
    let subnet = SubnetConfig::full(&table.model.dimensions);
    c.bench_function("predict one sub-network from the table", |b| {
        b.iter(|| table.predict(black_box(&subnet), &workload));
    });
    let space = space();
    let prices = SpacePrices::new(&table, &space, &workload).expect("the table covers its space");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let counts = space.cardinalities();
    let genomes: Vec<Vec<usize>> = (0..1000)
        .map(|_| {
            counts
                .iter()
                .map(|count| rng.random_range(0..*count))
                .collect()
        })
        .collect();
    let mut group = c.benchmark_group("predict in a search");
    group.throughput(Throughput::Elements(genomes.len() as u64));
    group.bench_function("1000 sub-networks", |b| {
        b.iter(|| {
            genomes
                .iter()
                .map(|g| prices.ttft_and_tpot_us(g)[1])
                .sum::<f64>()
        });
    });
    group.finish();
}

criterion_group!(benches, load, predict);
criterion_main!(benches);
