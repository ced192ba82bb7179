use std::path::Path;

use lathe_arch::{SearchSpace, SpaceSpec};
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_profiler::{
    Agent, AgentCommand, ProfilePlan, ProfileRequest, SecondProfile, Verdict, preflight, profile,
    profile_twice,
};
use lathe_supernet::checkpoint::read_config;

use super::print_json;
use crate::arguments::Profile;
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Profile) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let spec = ModelSpec::find(&arguments.model)?;
    let model = read_config(&spec.fetch(&cache)?)?;
    let agent = context::agent(&cache, &arguments.device)?;
    let choices = spec
        .search_space
        .clone()
        .unwrap_or_else(|| SpaceSpec::standard(&model));
    let space = SearchSpace::new(&model, &spec.name, &choices)?;
    let blocks = if arguments.quick {
        ProfilePlan::blocks(&space, &arguments.precision)
    } else {
        ProfilePlan::grid(&space, &model, &arguments.precision)
    };
    let plan = plan(arguments, blocks).within(&model);
    let limit = model.max_position_embeddings;
    anyhow::ensure!(
        !plan.prompts.is_empty() && !plan.depths.is_empty(),
        "--prompt and --depth: expected lengths up to the model's {limit} tokens"
    );
    anyhow::ensure!(
        !plan.batches.is_empty() && !plan.batches.contains(&0),
        "--batch: expected at least 1"
    );
    plan.check_workload()?;
    let folder = Path::new("runs").join(format!("{}-{}", spec.name, agent.device().name));
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| folder.join("table.yaml"));
    let conditions = check_device(arguments, &agent)?;
    let mut steps = Steps::new();
    let request = ProfileRequest {
        agent: &agent,
        model_name: &spec.name,
        model: &model,
        conditions: &conditions,
        plan: &plan,
        out: &out,
        resume: arguments.resume,
    };
    let show = |share: f64, _: &str| steps.show("profiling", (1000.0 * share) as usize, 1000);
    let table = if arguments.aa {
        let second = match arguments.hog {
            true => SecondProfile::Disturbed,
            false => SecondProfile::Undisturbed,
        };
        profile_twice(&request, second, show)?
    } else {
        profile(&request, show)?
    };
    steps.finish();
    if arguments.json {
        return print_json(&table);
    }
    print(&table);
    println!("\nwrote {}", out.display());
    Ok(())
}

/// Says what stands out about the device before it is measured; `--strict` refuses to measure one
/// that is not fit.
fn check_device(arguments: &Profile, command: &AgentCommand) -> anyhow::Result<Vec<String>> {
    let mut agent = Agent::start(command)?;
    let inspection = agent.inspect()?;
    let cap = command.device().memory_cap_mib;
    let cap_bytes = cap.map(|mib| mib.saturating_mul(1 << 20));
    let preflight = preflight(&inspection, agent.threads(), cap_bytes);
    for finding in &preflight.findings {
        eprintln!("{}: {} {}", finding.severity, finding.what, finding.remedy);
    }
    let verdict = preflight.verdict();
    anyhow::ensure!(
        !arguments.strict || verdict == Verdict::Fit,
        "--strict: the device is {verdict}"
    );
    let findings = preflight.findings.into_iter().map(|finding| finding.what);
    Ok(findings.chain(command.conditions()).collect())
}

/// The standard plan with what the command line says otherwise.
fn plan(arguments: &Profile, blocks: Vec<lathe_arch::BlockShape>) -> ProfilePlan {
    let mut plan = if arguments.quick {
        ProfilePlan::quick(blocks)
    } else {
        ProfilePlan::thorough(blocks)
    };
    if !arguments.prompt.is_empty() {
        plan.prompts.clone_from(&arguments.prompt);
    }
    if !arguments.depth.is_empty() {
        plan.depths.clone_from(&arguments.depth);
    }
    plan.batches.clone_from(&arguments.batch);
    plan.limit_s = arguments
        .minutes
        .map_or(plan.limit_s, |m| 60.0 * m.max(0.0));
    plan.networks = arguments.networks.unwrap_or(plan.networks);
    plan.workload = arguments.workload;
    plan
}

fn print(table: &LatencyTable) {
    println!(
        "{:34} {:>16} {:>11} {:>22} {:>6}  flags",
        "block", "phase", "price us", "95 % interval us", "roof"
    );
    for entry in &table.entries {
        let [low, high] = entry.latency.ci95_us;
        let roof = entry
            .roof
            .map(|roof| format!("{:.0} %", 100.0 * roof.share));
        println!(
            "{:34} {:>16} {:>11.1} {:>22} {:>6}  {}",
            entry.block.to_string(),
            entry.phase.to_string(),
            entry.price_us,
            format!("{low:.1} to {high:.1}"),
            roof.unwrap_or_default(),
            entry.flags.join("; ")
        );
    }
    let protocol = &table.protocol;
    println!(
        "\n{} visits, {} more were disturbed and thrown away",
        protocol.visits, protocol.disturbed_visits
    );
    match protocol.package_watts {
        Some(watts) => println!("the processors take {watts:.1} W"),
        None => println!("energy: the device offers no counter"),
    }
    if let Some(placement) = &protocol.placement {
        println!(
            "{:.0} % of the turns count: those with the processors {:.0} ns apart",
            100.0 * placement.share,
            placement.round_trip_ns
        );
    }
    let giga = 1e9;
    println!(
        "memory is read at {:.1} GB/s",
        protocol.memory_bytes_per_second / giga
    );
    for (precision, rate) in &protocol.operations_per_second {
        println!(
            "{precision} matrix products run at {:.0} GFLOP/s",
            rate / giga
        );
    }
    for fit in &table.calibration {
        println!(
            "{} {:?}: {:+.0} us + {:.3} x sum, {:.1} % error on networks left out",
            fit.precision,
            fit.phase,
            fit.offset_us,
            fit.gain,
            100.0 * fit.relative_error
        );
    }
    if let Some(repeat) = &protocol.repeatability {
        println!(
            "A/A over {} entries: median difference {:.1} %, 95th percentile {:.1} %, largest {:.1} % (before smoothing {:.1} and {:.1} %)",
            repeat.entries,
            100.0 * repeat.median,
            100.0 * repeat.p95,
            100.0 * repeat.worst,
            100.0 * repeat.raw_median,
            100.0 * repeat.raw_p95
        );
        for entry in &repeat.most_different {
            println!(
                "  {:.1} %: {}, {}",
                100.0 * entry.share,
                entry.block,
                entry.phase
            );
        }
        if let Some(hog) = &repeat.interference {
            println!(
                "a busy loop ran beside {} visits of the second profile; {} were noticed and thrown away",
                hog.visits, hog.noticed
            );
        }
    }
}
