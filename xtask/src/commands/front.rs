use std::path::Path;

use lathe_arch::Workload;
use lathe_compress::{
    Column, DeviceTables, LatencyObjective, Member, Objective, Retarget, Retargeted, remove_file,
    write_yaml,
};
use lathe_search::Study;
use serde::Serialize;

use super::print_json;
use crate::arguments::Front;
use crate::context;

/// The best sub-network that keeps the limits.
const CHOSEN: &str = "chosen.yaml";
/// Characters of a column, at least.
const WIDTH: usize = 9;

pub fn run(arguments: &Front) -> anyhow::Result<()> {
    let study = Study::open(&arguments.study)?;
    let tables = DeviceTables::load(&arguments.table, study.header())?;
    let first = tables.first();
    let space = context::space_of(&arguments.study, &first.model.name, first)?;
    let evaluations = study.evaluations()?;
    let found = Retarget {
        header: study.header(),
        evaluations: &evaluations,
        space: &space,
        tables: &tables,
        workload: arguments.workload,
        objectives: &arguments.objectives,
        limits: arguments.limits.limits(),
        answer_weight: arguments.answer_weight,
    }
    .front()?;
    if let Some(folder) = &arguments.out {
        found.front.write(folder)?;
        // What an earlier front left would be taken for this one's.
        let depths = 0..=first.model.dimensions.num_hidden_layers;
        for file in depths.map(of_depth).chain([CHOSEN.to_owned()]) {
            remove_file(&folder.join(file))?;
        }
        if let Some(chosen) = &found.chosen {
            write_yaml(&folder.join(CHOSEN), &chosen.subnet)?;
        }
        for member in &found.shallower {
            write_yaml(&folder.join(shallower(member)), &member.subnet)?;
        }
    }
    if arguments.json {
        return print_json(&Shown::of(&found, &tables, arguments.workload));
    }
    println!(
        "{} at {}, {} evaluations",
        first.model.name,
        arguments.workload,
        evaluations.len()
    );
    for device in tables.iter() {
        let (table, path) = (&device.table, device.path.display());
        let (cpu, threads) = (&table.device.cpu_model, table.runtime.threads);
        let s = if threads == 1 { "" } else { "s" };
        println!("{}: {cpu}, {threads} thread{s}, {path}", device.name);
    }
    println!();
    print(&found.front, found.front.knee());
    if let Some(folder) = &arguments.out {
        print_written(folder, &found);
    }
    Ok(())
}

/// The front as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    model: &'a str,
    workload: Workload,
    devices: Vec<ShownDevice<'a>>,
    objectives: Vec<String>,
    front: &'a lathe_compress::Front,
    /// Index of the knee, where there are two objectives.
    knee: Option<usize>,
    /// Genome of the best that keeps the limits, where there are any.
    chosen: Option<&'a [usize]>,
    /// Those of networks with fewer layers, which may be better once healed.
    shallower: Vec<&'a [usize]>,
}

#[derive(Serialize)]
struct ShownDevice<'a> {
    name: &'a str,
    cpu_model: &'a str,
    table: &'a Path,
}

impl<'a> Shown<'a> {
    fn of(found: &'a Retargeted, tables: &'a DeviceTables, workload: Workload) -> Self {
        let devices = tables.iter().map(|device| ShownDevice {
            name: &device.name,
            cpu_model: &device.table.device.cpu_model,
            table: &device.path,
        });
        let chosen = found.chosen.as_ref();
        Self {
            model: &tables.first().model.name,
            workload,
            devices: devices.collect(),
            objectives: found.front.columns.iter().map(Column::field).collect(),
            front: &found.front,
            knee: found.front.knee(),
            chosen: chosen.map(|chosen| &chosen.genome[..]),
            shallower: found.shallower.iter().map(|m| &m.genome[..]).collect(),
        }
    }
}

/// How an objective is shown: what it is called, its unit, the unit in that of files, and decimals.
fn shown(objective: Objective) -> (&'static str, &'static str, f64, usize) {
    match objective {
        Objective::Latency(LatencyObjective::Ttft) => ("TTFT", " ms", 1e3, 1),
        Objective::Latency(LatencyObjective::Tpot) => ("TPOT", " ms", 1e3, 2),
        Objective::Latency(LatencyObjective::Total) => ("total", " ms", 1e3, 1),
        Objective::Memory => ("memory", " MB", 1e6, 1),
        Objective::Size => ("size", " MB", 1e6, 1),
        Objective::Energy => ("energy", " J", 1.0, 3),
        Objective::Kl => ("KL", " (nats)", 1.0, 4),
        Objective::Answers => ("answers", " (bits/byte)", 1.0, 4),
    }
}

fn heading(column: &Column) -> String {
    let (name, unit, ..) = shown(column.objective);
    let device = column.device.as_ref();
    let device = device.map_or(String::new(), |device| format!("@{device}"));
    format!("{:>WIDTH$}", format!("{name}{device}{unit}"))
}

/// Prints a front, one member a line, and marks its knee.
pub fn print(front: &lathe_compress::Front, knee: Option<usize>) {
    let headings: Vec<String> = front.columns.iter().map(heading).collect();
    println!("{}   parameters", headings.join("  "));
    for (index, member) in front.members.iter().enumerate() {
        let columns = front.columns.iter().zip(&headings).zip(&member.values);
        let cells = columns.map(|((column, heading), value)| {
            let (_, _, unit, decimals) = shown(column.objective);
            let width = heading.chars().count();
            format!("{:>width$.decimals$}", value / unit)
        });
        println!(
            "{} {:>10.1} M{}",
            cells.collect::<Vec<_>>().join("  "),
            member.parameters as f64 / 1e6,
            if knee == Some(index) { "  knee" } else { "" }
        );
    }
}

/// The file of a network with fewer layers than the best one.
fn shallower(member: &Member) -> String {
    of_depth(member.subnet.depth())
}

fn of_depth(depth: usize) -> String {
    format!("depth-{depth}.yaml")
}

fn print_written(folder: &Path, found: &Retargeted) {
    println!("\nwrote front.yaml and front.csv in {}", folder.display());
    if found.chosen.is_some() {
        let chosen = folder.join(CHOSEN);
        println!("the best that keeps all limits: {}", chosen.display());
        let shallower: Vec<String> = found.shallower.iter().map(shallower).collect();
        if !shallower.is_empty() {
            println!(
                "fewer layers, and perhaps better once healed (heal takes several): {}",
                shallower.join(", ")
            );
        }
    }
}
