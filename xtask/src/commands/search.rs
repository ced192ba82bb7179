use std::ops::ControlFlow;

use anyhow::Context;
use lathe_compress::{
    BlockScores, LatencyObjective, Limits, Loss, SubnetProblem, default_shares, write_json,
    write_yaml,
};
use lathe_fetch::Cache;
use lathe_search::{
    Costs, Evaluation, HalvingOptions, Study, StudyHeader, SuccessiveHalving, knee_point,
    pareto_front,
};
use lathe_supernet::Split;

use super::front::print as print_front;
use super::print_json;
use crate::arguments::{Method, Search};
use crate::context;
use crate::method::searcher;
use crate::progress::Steps;

/// Beside a study: the best sub-network that keeps the limits.
const CHOSEN: &str = "chosen.yaml";
/// With stages, one in this many sub-networks rises to the next.
const REDUCTION: usize = 3;
/// Tokens of a block score.
const BLOCK_TOKENS: usize = 512;
/// The same where networks are healed afterwards: sizes chosen on less text end no better than others there.
const BLOCK_TOKENS_TO_HEAL: usize = 2048;

pub fn run(arguments: &Search) -> anyhow::Result<()> {
    let is_additive = arguments.method == Method::Additive;
    anyhow::ensure!(
        arguments.levels.is_empty() || is_additive,
        "--levels is an option of --method additive"
    );
    anyhow::ensure!(
        !(arguments.from_scratch && is_additive),
        "--from-scratch: --method additive is made of block scores; name another method"
    );
    anyhow::ensure!(
        !(arguments.from_scratch && arguments.to_heal),
        "--to-heal: block scores find the networks that heal well, and --from-scratch does without them"
    );
    anyhow::ensure!(
        !(arguments.problem.task.search_task.is_some() && arguments.method == Method::Ehvi),
        "--method ehvi minimises two objectives, and with --search-task there are more"
    );
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    let asked = &arguments.problem;
    let task = asked
        .task
        .read(&cache, asked.tokens, arguments.weight.answer_weight)?;
    let tables = asked.tables(&cache)?;
    let folder = context::folder_of(&arguments.study);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let prepared = asked.prepare(&cache, &mut steps)?;
    let mut loss = |tokens: usize| {
        let windows = prepared.windows(Split::Search, tokens)?;
        steps.show("running the full model on the search text", 0, 1);
        Loss::new(&prepared, &windows, task.as_ref())
    };
    let full = loss(asked.tokens)?;
    let stages = arguments.stage_tokens.iter();
    let stages = stages
        .map(|tokens| loss(*tokens))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let block_tokens = match arguments.to_heal {
        true => BLOCK_TOKENS_TO_HEAL,
        false => BLOCK_TOKENS,
    };
    let blocks = loss(arguments.block_tokens.unwrap_or(block_tokens))?;
    let (workload, latency) = (asked.workload, asked.latency);
    let problem = SubnetProblem::on_devices(&full, &prepared.space, &tables, workload, latency)?;
    let mut problem = problem.begun_with(prepared.trained());
    if !stages.is_empty() {
        problem = problem.with_low_fidelities(&stages)?;
    }
    let limits = arguments.limits.limits();
    limits.check(&tables, workload, &prepared.space)?;
    let mut searcher = match arguments.from_scratch {
        true => searcher(arguments, &problem, None)?,
        false => {
            let path = arguments.study.with_extension("blocks.db");
            let measure = match arguments.to_heal {
                true => BlockScores::measure_for_healing,
                false => BlockScores::measure,
            };
            let mut show = |label: &str, done, total| steps.show(label, done, total);
            let scores = measure(&problem, &blocks, &path, &mut show)?;
            let wanted = wanted(arguments, &problem)?;
            searcher(arguments, &problem, Some((&scores, &wanted)))?
        }
    };
    if !stages.is_empty() {
        let options = HalvingOptions {
            low_fidelities: stages.len(),
            reduction: REDUCTION,
        };
        searcher = Box::new(SuccessiveHalving::new(searcher, options)?);
    }
    let header = StudyHeader::of(&problem, &*searcher, arguments.seed);
    let header = header.with_batch(arguments.batch as usize);
    let mut study = Study::open_or_create(&arguments.study, &header, arguments.resume)?;
    write_json(
        &arguments.study.with_extension(context::SPACE),
        prepared.choices(),
    )?;
    let budget = arguments.evaluations;
    steps.show("searching", 0, budget);
    lathe_search::run(
        &mut problem,
        &mut *searcher,
        &mut study,
        budget,
        |progress| {
            steps.show("searching", progress.spent as usize, budget);
            ControlFlow::Continue(())
        },
    )?;
    steps.finish();
    let mut kept = study.evaluations()?;
    if limits.are_given() {
        kept = limits.keep(&tables, workload, &prepared.space, &kept)?;
    }
    let front = pareto_front(&kept);
    problem.front(&front)?.write(folder)?;
    let lost = |evaluation: &Evaluation| problem.loss().total(&evaluation.objectives);
    let best = front.iter().min_by(|a, b| lost(a).total_cmp(&lost(b)));
    let chosen = arguments.study.with_extension(CHOSEN);
    if let Some(best) = best.filter(|_| limits.are_given()) {
        write_yaml(&chosen, &prepared.space.decode(&best.genome)?)?;
    }
    if arguments.json {
        return print_json(&front);
    }
    let points = front.iter().map(|e| match e.objectives[..] {
        [latency_us, lost] => Some([latency_us, lost]),
        _ => None,
    });
    let points: Option<Vec<[f64; 2]>> = points.collect();
    let knee = points.and_then(|points| knee_point(&points));
    print_front(&problem.front(&front)?, knee);
    println!(
        "\nwrote {} and front.yaml, front.csv beside it",
        arguments.study.display()
    );
    if limits.are_given() {
        println!("the best that keeps all limits: {}", chosen.display());
    }
    Ok(())
}

/// Where the front is wanted: at the levels that were asked for, at the limit on the latency that is
/// minimised, or everywhere.
fn wanted(arguments: &Search, problem: &SubnetProblem<'_>) -> anyhow::Result<Costs> {
    let share = share(
        problem,
        arguments.problem.latency,
        &arguments.limits.limits(),
    )?;
    Ok(match (&arguments.levels[..], share) {
        ([], None) => default_shares(problem.search_space()),
        ([], Some(share)) => Costs::At(vec![share]),
        (levels, _) => Costs::At(levels.to_vec()),
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
