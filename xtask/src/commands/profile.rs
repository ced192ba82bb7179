use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use indicatif::MultiProgress;
use lathe_arch::{ModelConfig, SearchSpace, SpaceSpec};
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_profiler::{
    Agent, AgentCommand, DeviceSpec, ProfilePlan, ProfileRequest, SecondProfile, SplitRequest,
    TransportSpec, UnitDifference, Verdict, preflight, profile, profile_split, profile_twice,
    unit_difference,
};
use lathe_supernet::checkpoint::read_config;

use super::print_json;
use crate::arguments::Profile;
use crate::context;
use crate::progress::Steps;

/// Median difference of two units' prices beyond which they cannot share a profile.
const MOST_APART: f64 = 0.05;

pub fn run(arguments: &Profile) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let devices = devices(arguments)?;
    let spec = ModelSpec::find(&arguments.model)?;
    let model = read_config(&spec.fetch(&cache)?)?;
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
    let jobs = devices.iter().map(|device| {
        let job = Job::new(arguments, &cache, device, &spec.name);
        job.with_context(|| format!("device {}", device.name))
    });
    let jobs = jobs.collect::<anyhow::Result<Vec<Job>>>()?;
    if arguments.split {
        return share(arguments, &jobs, (&spec.name, &model), &plan);
    }
    let made = measure(arguments, &jobs, (&spec.name, &model), &plan);
    let tables: Vec<&LatencyTable> = made.iter().flatten().collect();
    match (arguments.json, &tables[..]) {
        (true, [table]) if jobs.len() == 1 => print_json(table)?,
        (true, tables) => print_json(&tables)?,
        (false, _) => {
            for (job, table) in jobs.iter().zip(&made) {
                if let Ok(table) = table {
                    if jobs.len() > 1 {
                        println!("\n{}", job.name);
                    }
                    print(table);
                    println!("\nwrote {}", job.out.display());
                }
            }
            print_units(&tables);
        }
    }
    let failed = jobs.iter().zip(made).filter_map(|(job, made)| {
        let error = made.err()?;
        Some(match jobs.len() {
            1 => error,
            _ => error.context(format!("device {}", job.name)),
        })
    });
    // What others have measured is written; of several errors the last ends the program.
    let mut failed: Vec<anyhow::Error> = failed.collect();
    let Some(last) = failed.pop() else {
        return Ok(());
    };
    for error in failed {
        eprintln!("error: {error:#}");
    }
    Err(last)
}

/// The devices that were named.
fn devices(arguments: &Profile) -> anyhow::Result<Vec<DeviceSpec>> {
    let devices = arguments.device.iter().map(|name| context::device(name));
    let devices = devices.collect::<anyhow::Result<Vec<_>>>()?;
    let local = devices
        .iter()
        .filter(|device| device.transport == TransportSpec::Local);
    anyhow::ensure!(
        local.count() < 2,
        "--device: two devices of this machine would disturb each other: profile one after the other"
    );
    let names: BTreeSet<&str> = devices.iter().map(|device| &*device.name).collect();
    anyhow::ensure!(
        names.len() == devices.len(),
        "--device: two devices have the same name"
    );
    anyhow::ensure!(
        devices.len() == 1 || arguments.out.is_none() || arguments.split,
        "--out: a file for one table, and {} devices: leave it away",
        devices.len()
    );
    anyhow::ensure!(
        devices.len() > 1 || !arguments.split,
        "--split: one device has nobody to share with: name several with --device"
    );
    Ok(devices)
}

/// One device's part.
struct Job {
    name: String,
    agent: AgentCommand,
    /// What stood out about the device.
    conditions: Vec<String>,
    out: PathBuf,
}

impl Job {
    fn new(
        arguments: &Profile,
        cache: &Cache,
        device: &DeviceSpec,
        model: &str,
    ) -> anyhow::Result<Self> {
        let agent = context::agent_on(cache, device, &arguments.programs)?;
        let folder = Path::new("runs").join(format!("{model}-{}", device.name));
        let out = arguments.out.clone();
        Ok(Self {
            name: device.name.clone(),
            conditions: check_device(arguments, &agent)?,
            agent,
            out: out.unwrap_or_else(|| folder.join("table.yaml")),
        })
    }
}

/// Measures on all devices at once.
fn measure(
    arguments: &Profile,
    jobs: &[Job],
    (model_name, model): (&str, &ModelConfig),
    plan: &ProfilePlan,
) -> Vec<anyhow::Result<LatencyTable>> {
    let lines = MultiProgress::new();
    let one = |job: &Job| -> anyhow::Result<LatencyTable> {
        let (mut steps, label) = match jobs.len() {
            1 => (Steps::new(), "profiling".to_owned()),
            _ => (Steps::among(&lines), format!("{}: profiling", job.name)),
        };
        let request = ProfileRequest {
            agent: &job.agent,
            model_name,
            model,
            conditions: &job.conditions,
            plan,
            out: &job.out,
            resume: arguments.resume,
        };
        let show = |share: f64, _: &str| steps.show(&label, (1000.0 * share) as usize, 1000);
        Ok(match (arguments.aa, arguments.hog) {
            (false, _) => profile(&request, show)?,
            (true, true) => profile_twice(&request, SecondProfile::Disturbed, show)?,
            (true, false) => profile_twice(&request, SecondProfile::Undisturbed, show)?,
        })
    };
    thread::scope(|scope| {
        let running = jobs.iter().map(|job| scope.spawn(|| one(job)));
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(|running| running.join());
        ended
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Has the devices share one profile, and prints its table.
fn share(
    arguments: &Profile,
    jobs: &[Job],
    (model_name, model): (&str, &ModelConfig),
    plan: &ProfilePlan,
) -> anyhow::Result<()> {
    let names: Vec<&str> = jobs.iter().map(|job| &*job.name).collect();
    let folder = Path::new("runs").join(format!("{model_name}-{}", names.join("+")));
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| folder.join("table.yaml"));
    let units = jobs.iter().map(|job| (&job.agent, &job.conditions[..]));
    let request = SplitRequest {
        whole: ProfileRequest {
            agent: &jobs[0].agent,
            model_name,
            model,
            conditions: &[],
            plan,
            out: &out,
            resume: arguments.resume,
        },
        units: &units.collect::<Vec<_>>(),
        most_apart: MOST_APART,
    };
    let lines = MultiProgress::new();
    let steps = jobs.iter().map(|job| {
        let label = format!("{}: profiling", job.name);
        Mutex::new((Steps::among(&lines), label))
    });
    let steps: Vec<_> = steps.collect();
    let made = profile_split(&request, |unit, share, _| {
        let mut steps = steps[unit].lock().unwrap_or_else(PoisonError::into_inner);
        let (steps, label) = &mut *steps;
        steps.show(label, (1000.0 * share) as usize, 1000);
    })?;
    drop(steps);
    if arguments.json {
        return print_json(&made.table);
    }
    print(&made.table);
    println!("\nwrote {}", out.display());
    for (one, other, difference) in &made.differences {
        print_difference([names[*one], names[*other]], difference);
    }
    Ok(())
}

/// How far units of one kind of device differ, pair by pair.
fn print_units(tables: &[&LatencyTable]) {
    for (index, one) in tables.iter().enumerate() {
        for other in &tables[index + 1..] {
            if let Some(difference) = unit_difference(one, other) {
                print_difference([&one.device.name, &other.device.name], &difference);
            }
        }
    }
}

fn print_difference([one, other]: [&str; 2], difference: &UnitDifference) {
    println!(
        "{one} and {other} are of one kind: {} prices differ by {:.1} % in the median, {:.1} % in the 95th percentile, {:.1} % at most",
        difference.entries,
        100.0 * difference.median,
        100.0 * difference.p95,
        100.0 * difference.worst
    );
}

/// Says what stands out about the device before it is measured; `--strict` refuses to measure one
/// that is not fit.
fn check_device(arguments: &Profile, command: &AgentCommand) -> anyhow::Result<Vec<String>> {
    let mut agent = Agent::start(command)?;
    let inspection = agent.inspect()?;
    let device = command.device();
    let cap_bytes = device.memory_cap_mib.map(|mib| mib.saturating_mul(1 << 20));
    let preflight = preflight(&inspection, agent.threads(), cap_bytes);
    let whose = match arguments.device.len() {
        1 => String::new(),
        _ => format!("{}: ", device.name),
    };
    for finding in &preflight.findings {
        let (severity, what) = (&finding.severity, &finding.what);
        eprintln!("{whose}{severity}: {what} {}", finding.remedy);
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
    if let Some(minutes) = arguments.minutes {
        plan = plan.lasting(60.0 * minutes);
    }
    plan.target = arguments.interval.unwrap_or(plan.target);
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
