//! What searchers themselves take: time of asking and telling, and memory as a study grows.
//!
//! ```text
//! cargo run --release -p lathe-search --example overhead -- 100000
//! ```

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::process;
use std::time::Instant;

use lathe_search::{
    AdditiveOptions, AdditiveSearch, Costs, EvolutionOptions, LocalSearch, NsgaII, NsgaOptions,
    Problem, RandomSearch, RegularizedEvolution, Searcher, Space, Study, StudyHeader, Trial, run,
};
use sysinfo::{Pid, ProcessesToUpdate, System};

/// As a model of thirty layers has them.
const GENES: usize = 60;
const CHOICES: usize = 9;
/// Evaluations after which memory is first looked at.
const EARLY: usize = 1000;
/// Evaluations of the additive method, whose model takes the longest to fit: as many as a search has,
/// and ten times as many.
const ADDITIVE: [usize; 2] = [100, 1000];

struct Blocks(Space);

impl Problem for Blocks {
    type Error = Infallible;

    fn space(&self) -> &Space {
        &self.0
    }

    fn objective_names(&self) -> Vec<&str> {
        vec!["cost", "loss"]
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, Infallible> {
        let genes = trial.genome.iter().enumerate();
        let sums = genes.map(|(i, gene)| choice(i, *gene));
        Ok(sums.fold(vec![0.0, 0.0], |sum, [cost, loss]| {
            vec![sum[0] + cost, sum[1] + loss]
        }))
    }
}

fn choice(variable: usize, choice: usize) -> [f64; 2] {
    let kept = choice as f64 / (CHOICES - 1) as f64;
    let weight = (1 + 7 * variable % 11) as f64;
    [kept, weight * (1.0 - kept).powi(2)]
}

type Methods = Vec<(Box<dyn Searcher>, usize)>;

/// Every method and how many evaluations it makes.
fn methods(space: &Space, evaluations: usize) -> Result<Methods, Box<dyn std::error::Error>> {
    let choices = |variable| (0..CHOICES).map(|c| choice(variable, c)).collect();
    let additive = AdditiveOptions {
        variables: (0..GENES).map(choices).collect(),
        costs: Costs::Between(0.25 * GENES as f64..=GENES as f64),
        first: Vec::new(),
    };
    let evolution = EvolutionOptions::default();
    let mut methods: Methods = vec![
        (Box::new(RandomSearch::new(space, &[], 1)?), evaluations),
        (
            Box::new(NsgaII::new(space, NsgaOptions::default(), 1)?),
            evaluations,
        ),
        (Box::new(LocalSearch::new(space, &[], 1)?), evaluations),
        (
            Box::new(RegularizedEvolution::new(space, evolution, 1)?),
            evaluations,
        ),
    ];
    for most in ADDITIVE {
        let additive = AdditiveSearch::new(additive.clone(), 1)?;
        methods.push((Box::new(additive), evaluations.min(most)));
    }
    Ok(methods)
}

/// Resident memory of this process.
fn resident_bytes() -> Option<u64> {
    let pid = Pid::from_u32(process::id());
    let mut system = System::new().ok()?;
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
    Some(system.process(pid)?.memory())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let evaluations = std::env::args().nth(1).map(|text| text.parse());
    let evaluations: usize = evaluations.transpose()?.unwrap_or(100_000);
    let space = Space::new(vec![CHOICES; GENES])?;
    println!("method          evaluations  us a trial  MB after {EARLY}  MB at the end");
    for (mut searcher, budget) in methods(&space, evaluations)? {
        let folder = tempfile::tempdir()?;
        let mut problem = Blocks(space.clone());
        let header = StudyHeader::of(&problem, &*searcher, 1);
        let mut study = Study::open_or_create(&folder.path().join("study.db"), &header, false)?;
        let mut early = None;
        let clock = Instant::now();
        run(
            &mut problem,
            &mut *searcher,
            &mut study,
            budget,
            |progress| {
                if progress.index + 1 == EARLY {
                    early = resident_bytes();
                }
                ControlFlow::Continue(())
            },
        )?;
        let us = clock.elapsed().as_secs_f64() * 1e6 / budget as f64;
        let megabytes = |bytes: Option<u64>| {
            bytes.map_or_else(|| "-".to_owned(), |b| format!("{:.1}", b as f64 / 1e6))
        };
        println!(
            "{:14} {budget:>12} {us:>11.0} {:>14} {:>14}",
            searcher.name(),
            megabytes(early),
            megabytes(resident_bytes())
        );
    }
    Ok(())
}
