use lathe_arch::{SearchSpace, SpaceSpec};
use lathe_compress::Validation;
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_profiler::{Agent, fingerprint};

use super::print_json;
use crate::arguments::Validate;
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Validate) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let table = LatencyTable::load(&arguments.table)?;
    anyhow::ensure!(
        arguments.subnets > 0 && arguments.rounds > 0,
        "--subnets and --rounds: expected at least 1"
    );
    let device = context::device(&arguments.device.device)?;
    let command = context::agent(&cache, &arguments.device)?;
    let (here, runtime) = fingerprint(&device, &Agent::start(&command)?.hello().runtime_build);
    table.ensure_comparable(&here, &runtime)?;
    // A model given by path has no entry in models/; its space is the standard one.
    let model = &table.model.dimensions;
    let choices = ModelSpec::find(&table.model.name)
        .ok()
        .and_then(|spec| spec.search_space);
    let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
    let space = SearchSpace::new(model, &table.model.name, &choices)?;
    let mut steps = Steps::new();
    let validation = lathe_compress::validate(
        &command,
        &table,
        &space,
        &arguments.workload,
        arguments.subnets,
        arguments.rounds,
        arguments.seed,
        &arguments.table.with_extension("validation.work"),
        &mut |label, done, total| steps.show(label, done, total),
    )?;
    steps.finish();
    if arguments.json {
        return print_json(&validation);
    }
    print(&validation);
    Ok(())
}

fn print(validation: &Validation) {
    let agreement = &validation.decode.agreement;
    println!(
        "{} held-out sub-networks at {}",
        agreement.networks, validation.workload
    );
    println!(
        "{:8} {:>8} {:>8} {:>8} {:>10} {:>11} {:>8} {:>9} {:>9} {:>8}",
        "phase",
        "MAPE",
        "median",
        "bias",
        "within 5 %",
        "within 10 %",
        "worst",
        "Kendall",
        "Spearman",
        "spread"
    );
    for (name, phase) in [
        ("prefill", &validation.prefill),
        ("decode", &validation.decode),
    ] {
        let a = &phase.agreement;
        println!(
            "{name:8} {:>7.1}% {:>7.1}% {:>+7.1}% {:>9.0}% {:>10.0}% {:>7.1}% {:>9.3} {:>9.3} {:>7.1}x",
            100.0 * a.mape,
            100.0 * a.median_error,
            100.0 * a.bias,
            100.0 * a.within_5_percent,
            100.0 * a.within_10_percent,
            100.0 * a.worst,
            a.kendall_tau,
            a.spearman,
            a.spread,
        );
    }
}
