use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::SpaceSpec;
use lathe_compress::{write_json, write_text};
use lathe_search::{Evaluation, Fidelity, SearchError, Study, pareto_front};
use serde::Serialize;

use super::print_json;
use crate::arguments::StudyCommand;
use crate::context;

/// Studies are files with this ending.
const ENDING: &str = "db";

pub fn run(command: &StudyCommand) -> anyhow::Result<()> {
    match command {
        StudyCommand::List { folder, json } => list(folder, *json),
        StudyCommand::Show { study, json } => show(study, *json),
        StudyCommand::Merge { studies, out } => merge(studies, out),
        StudyCommand::Export { study, out } => export(study, out),
    }
}

/// What a study says of itself.
#[derive(Serialize)]
struct Description {
    path: PathBuf,
    problem: String,
    objectives: Vec<String>,
    method: String,
    seed: u64,
    evaluations: usize,
    wall_s: f64,
}

impl Description {
    fn of(path: &Path, study: &Study) -> Result<Self, SearchError> {
        let header = study.header();
        let records = study.records()?;
        let seconds = records.iter().map(|record| record.wall.as_secs_f64());
        Ok(Self {
            path: path.to_owned(),
            problem: header.problem.clone(),
            objectives: header.objectives.clone(),
            method: header.method.clone(),
            seed: header.seed,
            evaluations: records.len(),
            wall_s: seconds.sum(),
        })
    }

    fn print(&self) {
        println!(
            "{}: {} evaluations in {:.0} s by {}, seed {}",
            self.path.display(),
            self.evaluations,
            self.wall_s,
            self.method,
            self.seed
        );
        println!(
            "  {} against {}",
            self.objectives.join(" against "),
            self.problem
        );
    }
}

fn list(folder: &Path, json: bool) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    paths.sort();
    let mut all = Vec::new();
    for path in &paths {
        match Study::open(path).and_then(|study| Description::of(path, &study)) {
            Ok(description) => all.push(description),
            Err(error) => eprintln!("warning: left out: {error}"),
        }
    }
    if json {
        return print_json(&all);
    }
    if all.is_empty() {
        println!("no studies in {}", folder.display());
    }
    all.iter().for_each(Description::print);
    Ok(())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        // A link could lead in a circle.
        if entry.file_type()?.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|ending| ending == ENDING) {
            paths.push(path);
        }
    }
    Ok(())
}

fn show(path: &Path, json: bool) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Shown {
        #[serde(flatten)]
        description: Description,
        front: Vec<Evaluation>,
    }
    let study = Study::open(path)?;
    let description = Description::of(path, &study)?;
    let front = pareto_front(&study.evaluations()?);
    if json {
        return print_json(&Shown { description, front });
    }
    description.print();
    println!("  {} on the front:", front.len());
    for evaluation in &front {
        let numbers = evaluation
            .objectives
            .iter()
            .map(|value| format!("{value:>14.4}"));
        println!("{}  {:?}", numbers.collect::<String>(), evaluation.genome);
    }
    Ok(())
}

fn merge(paths: &[PathBuf], out: &Path) -> anyhow::Result<()> {
    let studies = paths.iter().map(|path| Study::open(path));
    let studies = studies.collect::<Result<Vec<_>, _>>()?;
    let choices = common_choices(paths)?;
    let merged = Study::merge(&studies, out)?;
    if let Some(choices) = choices {
        write_json(&out.with_extension(context::SPACE), &choices)?;
    }
    println!(
        "wrote {}: {} evaluations",
        out.display(),
        merged.evaluation_count()?
    );
    Ok(())
}

/// What lies beside all of the studies or beside none: with the same numbers of choices, others could
/// be meant.
fn common_choices(studies: &[PathBuf]) -> anyhow::Result<Option<SpaceSpec>> {
    let mut common: Option<(&Path, Option<SpaceSpec>)> = None;
    for study in studies {
        let choices = context::read_json(&study.with_extension(context::SPACE))?;
        match &common {
            Some((first, others)) => anyhow::ensure!(
                *others == choices,
                "{} chose among other blocks than {}: their {} files differ",
                study.display(),
                first.display(),
                context::SPACE
            ),
            None => common = Some((study, choices)),
        }
    }
    Ok(common.and_then(|(_, choices)| choices))
}

fn export(path: &Path, out: &Path) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Exported<'a> {
        number: usize,
        #[serde(flatten)]
        evaluation: &'a Evaluation,
        seed: u64,
        wall_s: f64,
    }
    let study = Study::open(path)?;
    let records = study.records()?;
    let rows = records.iter().map(|record| Exported {
        number: record.number,
        evaluation: &record.evaluation,
        seed: record.seed,
        wall_s: record.wall.as_secs_f64(),
    });
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("json") => write_json(out, &rows.collect::<Vec<_>>())?,
        Some("csv") => {
            let mut csv = format!(
                "number,{},fidelity,seed,wall_s,genome\n",
                study.header().objectives.join(",")
            );
            for row in rows {
                let objectives = row.evaluation.objectives.iter().map(f64::to_string);
                let genome = row.evaluation.genome.iter().map(usize::to_string);
                csv += &format!(
                    "{},{},{},{},{},{}\n",
                    row.number,
                    objectives.collect::<Vec<_>>().join(","),
                    fidelity(row.evaluation.fidelity),
                    row.seed,
                    row.wall_s,
                    genome.collect::<Vec<_>>().join(" ")
                );
            }
            write_text(out, &csv)?;
        }
        _ => anyhow::bail!("--out {}: name a .csv or a .json file", out.display()),
    }
    println!("wrote {}: {} evaluations", out.display(), records.len());
    Ok(())
}

/// As a field of a CSV file.
fn fidelity(fidelity: Fidelity) -> String {
    match fidelity {
        Fidelity::Low(index) => format!("low {index}"),
        Fidelity::Full => "full".to_owned(),
    }
}
