//! The front and what it is made with.

use criterion::{Criterion, criterion_group, criterion_main};
use lathe_search::{Choice, Evaluation, Trial, additive_front, hypervolume, pareto_front};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn fronts(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let evaluations: Vec<Evaluation> = (0..1000)
        .map(|_| {
            let x: f64 = rng.random_range(0.0..1.0);
            let objectives = vec![x, 1.0 / (0.1 + x) + rng.random_range(0.0..1.0)];
            Trial::full(Vec::new()).with_objectives(objectives)
        })
        .collect();
    let points: Vec<[f64; 2]> = evaluations
        .iter()
        .map(|e| [e.objectives[0], e.objectives[1]])
        .collect();
    c.bench_function("Pareto front of 1000 evaluations", |b| {
        b.iter(|| pareto_front(&evaluations))
    });
    c.bench_function("hypervolume of 1000 points", |b| {
        b.iter(|| hypervolume(&points, &[1.0, 12.0]));
    });
    let choice = |count: usize| {
        move |index: usize| -> Choice {
            let share = index as f64 / (count - 1) as f64;
            [share, (1.0 - share).powi(2)]
        }
    };
    let variables: Vec<Vec<Choice>> = (0..60)
        .map(|variable| {
            let count = if variable % 2 == 0 { 4 } else { 9 };
            let weight = rng.random_range(0.5..2.0);
            (0..count)
                .map(choice(count))
                .map(|[cost, loss]| [cost, weight * loss])
                .collect()
        })
        .collect();
    let mut group = c.benchmark_group("additive front");
    group.sample_size(10);
    group.bench_function("60 variables", |b| b.iter(|| additive_front(&variables)));
    group.finish();
}

criterion_group!(benches, fronts);
criterion_main!(benches);
