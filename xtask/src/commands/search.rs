use lathe_arch::SpaceSpec;
use lathe_compress::{
    BlockScores, LatencyObjective, Limits, SubnetProblem, additive_options, default_shares,
    write_front, write_json, write_yaml,
};
use lathe_fetch::Cache;
use lathe_search::{
    AdditiveOptions, AdditiveSearch, BayesianOptions, BayesianSearch, Costs, Evaluation,
    EvolutionOptions, LocalSearch, NsgaII, NsgaIII, NsgaIIIOptions, NsgaOptions, Problem,
    RandomSearch, RegularizedEvolution, Searcher, StratifiedOptions, StratifiedRandomSearch, Study,
    StudyHeader, knee_point, pareto_front,
};
use lathe_supernet::{Evaluator, Split};

use super::print_json;
use crate::arguments::{Method, Search};
use crate::context;
use crate::progress::Steps;

/// Beside a study: the choices among which was searched.
pub const SPACE: &str = "space.json";
/// Beside a study: the best sub-network that keeps the limits.
const CHOSEN: &str = "chosen.yaml";
/// Divergence from which on a sub-network is of no use, in nats: where EHVI's front ends.
const USELESS_DIVERGENCE: f64 = 3.0;
/// Of evolution's population, one in this many is in a sample.
const SAMPLE_SHARE: usize = 10;

/// The model's own choices but for those that were given.
fn choices(arguments: &Search, own: &SpaceSpec) -> SpaceSpec {
    let mut choices = arguments.sizes.among(own);
    if !arguments.precision.is_empty() {
        choices.precision = arguments.precision.clone();
        choices.precision.sort_by_key(|precision| precision.bits());
    }
    choices
}

pub fn run(arguments: &Search) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.levels.is_empty() || arguments.method == Method::Additive,
        "--levels is an option of --method additive"
    );
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    let table = context::table_for(&cache, &arguments.model.model, &arguments.table)?;
    let folder = context::folder_of(&arguments.study);
    let mut prepared = context::prepare(&cache, &arguments.model, folder, &mut steps)?;
    prepared.choose_among(choices(arguments, prepared.choices()))?;
    let windows = prepared.windows(Split::Search, arguments.tokens)?;
    steps.show("running the full model on the search text", 0, 1);
    let evaluator = Evaluator::new(&prepared.supernet, &windows)?;
    let (workload, latency) = (arguments.workload, arguments.latency);
    let mut problem = SubnetProblem::new(&evaluator, &prepared.space, &table, workload, latency)?;
    let limits = arguments.limits.limits();
    limits.check(&table, &workload, &prepared.space)?;
    let wanted = match (&arguments.levels[..], share(&problem, latency, &limits)?) {
        ([], None) => default_shares(&prepared.space),
        ([], Some(share)) => Costs::At(vec![share]),
        (levels, _) => Costs::At(levels.to_vec()),
    };
    let windows = prepared.windows(Split::Search, arguments.block_tokens)?;
    let block_evaluator = Evaluator::new(&prepared.supernet, &windows)?;
    let blocks = arguments.study.with_extension("blocks.db");
    let scores = BlockScores::measure(
        &problem,
        &block_evaluator,
        &blocks,
        &mut |label, done, total| {
            steps.show(label, done, total);
        },
    )?;
    let options = additive_options(&problem, &scores, &wanted)?;
    let mut searcher = searcher(arguments, &problem, options)?;
    let header = StudyHeader::of(&problem, &*searcher, arguments.seed);
    let mut study = Study::open_or_create(&arguments.study, &header, arguments.resume)?;
    write_json(&arguments.study.with_extension(SPACE), prepared.choices())?;
    let budget = arguments.evaluations;
    steps.show("searching", 0, budget);
    let evaluations = lathe_search::run(
        &mut problem,
        &mut *searcher,
        &mut study,
        budget,
        |progress| {
            steps.show("searching", progress.index + 1, budget);
        },
    )?;
    steps.finish();
    let front = match limits.are_given() {
        true => pareto_front(&limits.keep(&table, &workload, &prepared.space, &evaluations)?),
        false => pareto_front(&evaluations),
    };
    write_front(folder, &problem, &front)?;
    let best = front
        .iter()
        .min_by(|a, b| a.objectives[1].total_cmp(&b.objectives[1]));
    let chosen = arguments.study.with_extension(CHOSEN);
    if let Some(best) = best.filter(|_| limits.are_given()) {
        write_yaml(&chosen, &prepared.space.decode(&best.genome)?)?;
    }
    if arguments.json {
        return print_json(&front);
    }
    print(&problem, &front)?;
    println!(
        "\nwrote {} and front.yaml, front.csv beside it",
        arguments.study.display()
    );
    if limits.are_given() {
        println!("the best that keeps all limits: {}", chosen.display());
    }
    Ok(())
}

/// The method that was asked for, beginning with the first genomes of `options`.
fn searcher(
    arguments: &Search,
    problem: &SubnetProblem<'_>,
    options: AdditiveOptions,
) -> anyhow::Result<Box<dyn Searcher>> {
    let first = options.first.clone();
    let full_us = problem.latency_us(&problem.search_space().full_genome());
    let (space, seed) = (problem.space(), arguments.seed);
    Ok(match arguments.method {
        Method::Additive => Box::new(AdditiveSearch::new(options, seed)?),
        Method::Nsga2 => {
            let options = NsgaOptions {
                population: arguments.population,
                first,
                ..NsgaOptions::default()
            };
            Box::new(NsgaII::new(space, options, seed)?)
        }
        Method::Nsga3 => {
            let options = NsgaIIIOptions {
                population: arguments.population,
                first,
                ..NsgaIIIOptions::default()
            };
            let objectives = problem.objective_names().len();
            Box::new(NsgaIII::new(space, objectives, options, seed)?)
        }
        Method::LocalSearch => Box::new(LocalSearch::new(space, &first, seed)?),
        Method::Evolution => {
            let options = EvolutionOptions {
                population: arguments.population,
                sample: arguments.population.div_ceil(SAMPLE_SHARE),
                first,
            };
            Box::new(RegularizedEvolution::new(space, options, seed)?)
        }
        Method::Ehvi => {
            let options = BayesianOptions {
                reference: Some([full_us, USELESS_DIVERGENCE]),
                first,
                ..BayesianOptions::default()
            };
            let cost = problem.cost();
            Box::new(BayesianSearch::new(space, Some(cost), options, seed)?)
        }
        Method::Stratified => {
            let range = match &options.costs {
                Costs::Between(savings) => {
                    Some(full_us + savings.start()..=full_us + savings.end())
                }
                Costs::At(_) => None,
            };
            let options = StratifiedOptions {
                range,
                first,
                ..StratifiedOptions::default()
            };
            let cost = problem.cost();
            Box::new(StratifiedRandomSearch::new(space, cost, options, seed)?)
        }
        Method::Random => Box::new(RandomSearch::new(space, &first, seed)?),
    })
}

/// The share of the full model's latency at which evaluations are to be spent: the limit on the
/// latency that is minimised, where the full model does not keep it.
fn share(
    problem: &SubnetProblem<'_>,
    latency: LatencyObjective,
    limits: &Limits,
) -> anyhow::Result<Option<f64>> {
    let limit_us = match latency {
        LatencyObjective::Tpot => limits.tpot_us,
        LatencyObjective::Ttft => limits.ttft_us,
        LatencyObjective::Total => None,
    };
    let Some(limit_us) = limit_us else {
        return Ok(None);
    };
    let space = problem.search_space();
    let full_us = problem.latency_us(&space.full_genome());
    let least_us = problem.latency_us(&vec![0; space.full_genome().len()]);
    anyhow::ensure!(
        limit_us > least_us,
        "--max-{}: the smallest network of the space takes {:.2} ms, more than {:.2} ms",
        latency.name(),
        least_us / 1000.0,
        limit_us / 1000.0
    );
    let share = limit_us / full_us;
    Ok((share < 1.0).then_some(share))
}

fn print(problem: &SubnetProblem<'_>, front: &[Evaluation]) -> anyhow::Result<()> {
    let points: Vec<[f64; 2]> = front
        .iter()
        .map(|e| [e.objectives[0], e.objectives[1]])
        .collect();
    let knee = knee_point(&points);
    println!(
        "{:>9} {:>9} {:>12} {:>12}",
        "TTFT ms", "TPOT ms", "KL (nats)", "parameters"
    );
    for (index, evaluation) in front.iter().enumerate() {
        let [ttft_us, tpot_us] = problem.ttft_and_tpot_us(&evaluation.genome);
        let subnet = problem.search_space().decode(&evaluation.genome)?;
        println!(
            "{:>9.1} {:>9.2} {:>12.4} {:>10.1} M{}",
            ttft_us / 1000.0,
            tpot_us / 1000.0,
            evaluation.objectives[1],
            subnet.parameters(problem.model()) as f64 / 1e6,
            if knee == Some(index) { "  knee" } else { "" }
        );
    }
    Ok(())
}
