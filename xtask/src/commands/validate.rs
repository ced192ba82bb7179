use anyhow::Context;
use lathe_arch::{Precision, SubnetConfig};
use lathe_compress::{
    NamedLatency, NamedNetwork, NamedValidation, PhaseValidation, Validation, ValidationPlan,
    write_json,
};
use lathe_fetch::Cache;
use lathe_latency::LatencyTable;
use lathe_profiler::{Agent, AgentCommand, Agreement, HeldOut, PLACEMENT_PATIENCE};

use super::print_json;
use crate::arguments::Validate;
use crate::context;
use crate::progress::Steps;

/// Ends the name of the file that the report takes its scatter plots from.
pub const HELD_OUT: &str = "held-out.json";

pub fn run(arguments: &Validate) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let table = LatencyTable::load(&arguments.table)?;
    anyhow::ensure!(
        arguments.subnets > 0 && arguments.rounds > 0,
        "--subnets and --rounds: expected at least 1"
    );
    let command = context::agent(&cache, &arguments.device)?;
    let mut agent = Agent::start(&command)?;
    let here = agent.inspect()?;
    let here = agent.fingerprints(&here);
    drop(agent);
    table.ensure_comparable(&here.device, &here.runtime)?;
    let priced = |precision: &Precision| {
        let mut entries = table.entries.iter();
        entries.any(|entry| entry.block.precision() == *precision)
    };
    let all_priced: Vec<Precision> = Precision::ALL.into_iter().filter(priced).collect();
    if !arguments.subnet.is_empty() {
        let most_bits = *all_priced.first().context("the table has no prices")?;
        return validate_named(arguments, &table, &command, most_bits);
    }
    let precisions = match &arguments.precision[..] {
        [] => all_priced,
        given => given.to_vec(),
    };
    if let Some(missing) = precisions.iter().find(|precision| !priced(precision)) {
        anyhow::bail!(
            "--precision {missing}: {} has no prices for it",
            arguments.table.display()
        );
    }
    let mut steps = Steps::new();
    let plan = ValidationPlan {
        agent: &command,
        table: &table,
        workload: arguments.workload,
        precisions,
        subnets: arguments.subnets,
        rounds: arguments.rounds,
        seed: arguments.seed,
        is_compared: true,
        work: &arguments.table.with_added_extension("held-out"),
    };
    let validation = plan.run(&mut |label, done, total| steps.show(label, done, total))?;
    steps.finish();
    write_json(&arguments.table.with_extension(HELD_OUT), &validation)?;
    if arguments.json {
        return print_json(&validation);
    }
    print(&validation);
    println!(
        "\nwrote {}, which `cargo xtask report` draws",
        arguments.table.with_extension(HELD_OUT).display()
    );
    Ok(())
}

/// Measures the sub-networks that the arguments name, and the full model in `precision` beside them.
fn validate_named(
    arguments: &Validate,
    table: &LatencyTable,
    command: &AgentCommand,
    precision: Precision,
) -> anyhow::Result<()> {
    let model = &table.model.dimensions;
    let mut names = vec![format!("full model, {precision}")];
    let mut subnets = vec![SubnetConfig::full(model).with_precision(precision)];
    for path in &arguments.subnet {
        names.push(path.display().to_string());
        subnets.push(lathe_compress::read_subnet(path, model)?.config);
    }
    let mut steps = Steps::new();
    let networks = HeldOut {
        agent: command,
        table,
        subnets: &subnets,
        workload: arguments.workload,
        rounds: arguments.rounds,
        seed: arguments.seed,
        patience: PLACEMENT_PATIENCE,
        work: &arguments.table.with_added_extension("named"),
    };
    let mut show = |label: &str, done, total| steps.show(label, done, total);
    let validation = NamedValidation::measure(&names, &networks, &mut show)?;
    steps.finish();
    if arguments.json {
        return print_json(&validation);
    }
    print_named(&validation);
    Ok(())
}

fn print_named(validation: &NamedValidation) {
    if let Some(elsewhere) = validation.elsewhere {
        println!("warning: {elsewhere}");
    }
    println!(
        "at {}, with 95 % intervals of the measured medians",
        validation.workload
    );
    let title = "predicted  measured";
    println!(
        "{:36}   {:36}   {:20}",
        "time to first token, ms", "time per output token, ms", "peak memory, MB"
    );
    println!("{title:36}   {title:36}   {title:20}   network");
    let latency = |of: &NamedLatency| {
        let [predicted, measured] = [of.predicted_us, of.measured_us].map(|us| us / 1e3);
        let [low, high] = of.measured_ci95_us.map(|us| us / 1e3);
        let interval = format!("({low:.2} to {high:.2})");
        format!("{predicted:>9.2} {measured:>9.2} {interval:16}")
    };
    let megabytes =
        |bytes: Option<f64>| bytes.map_or("-".to_owned(), |bytes| format!("{:.1}", bytes / 1e6));
    for network in &validation.networks {
        println!(
            "{}   {}   {:>9} {:>9}    {}",
            latency(&network.ttft),
            latency(&network.tpot),
            megabytes(network.predicted_memory_bytes),
            megabytes(network.measured_memory_bytes.map(|bytes| bytes as f64)),
            network.name
        );
    }
    let drift = |of: fn(&NamedNetwork) -> &NamedLatency| {
        let drifts = validation.networks.iter().map(|network| of(network).drift);
        100.0 * drifts.sum::<f64>() / validation.networks.len() as f64
    };
    println!(
        "the machine is {:+.1} % slower than when profiled in prefill and {:+.1} % in decode: that is not in these times",
        drift(|network| &network.ttft),
        drift(|network| &network.tpot)
    );
}

fn print(validation: &Validation) {
    for structure in &validation.structure {
        match &structure.differences[..] {
            [] => println!(
                "{}: the optimised network holds exactly the {} operators of its blocks",
                structure.precision, structure.operators
            ),
            found => println!("{}: {}", structure.precision, found.join("; ")),
        }
    }
    for at in &validation.precisions {
        let networks = at.decode.agreement.networks;
        println!(
            "\n{networks} held-out {} sub-networks at {}, seed {}",
            at.precision, validation.workload, validation.seed
        );
        if let Some(elsewhere) = at.elsewhere {
            println!("warning: {elsewhere}");
        }
        println!(
            "{:39} {:>7} {:>7} {:>7} {:>8} {:>7} {:>8} {:>9} {:>7}",
            "", "MAPE", "bias", "in 5 %", "in 10 %", "worst", "Kendall", "Spearman", "spread"
        );
        for (name, phase) in [("prefill", &at.prefill), ("decode", &at.decode)] {
            print_phase(name, phase);
        }
        if let Some(memory) = &at.memory {
            println!(
                "peak memory: {:.0} % of {} within 5 % or 10 MB, mean error {:.1} %, worst {:.1} MB",
                100.0 * memory.within,
                memory.networks,
                100.0 * memory.mape,
                memory.worst_bytes / 1e6
            );
        }
    }
}

fn print_phase(name: &str, phase: &PhaseValidation) {
    let row = |label: &str, a: &Agreement| {
        println!(
            "{name:8}{label:31} {:>6.1}% {:>+6.1}% {:>6.0}% {:>7.0}% {:>6.1}% {:>8.3} {:>9.3} {:>6.1}x",
            100.0 * a.mape,
            100.0 * a.bias,
            100.0 * a.within_5_percent,
            100.0 * a.within_10_percent,
            100.0 * a.worst,
            a.kendall_tau,
            a.spearman,
            a.spread,
        );
    };
    row("table", &phase.agreement);
    for predictor in &phase.predictors {
        row(&predictor.name, &predictor.agreement);
    }
    if let Some(floor) = &phase.noise_floor {
        row("a network against itself", floor);
    }
    println!(
        "{name:8}{:.0} % inside the 90 % interval; the machine is {:+.1} % slower than when profiled",
        100.0 * phase.coverage90,
        100.0 * phase.drift
    );
}
