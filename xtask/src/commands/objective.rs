use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use lathe_compress::{ANSWER_WEIGHT, Loss, SubnetProblem, write_json};
use lathe_fetch::Cache;
use lathe_search::{Genome, Problem, Study, StudyHeader, Trial};
use lathe_supernet::Split;
use serde_json::json;

use crate::arguments::Objective;
use crate::context;
use crate::progress::Steps;

/// What stands for the method of a study whose genomes come from elsewhere.
const METHOD: &str = "asked";

pub fn run(arguments: &Objective) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    let asked = &arguments.problem;
    // Whoever asks for objectives weighs them.
    let task = asked.task.read(&cache, asked.tokens, ANSWER_WEIGHT)?;
    let tables = asked.tables(&cache)?;
    let folder = context::folder_of(&arguments.study);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let prepared = asked.prepare(&cache, &mut steps)?;
    let windows = prepared.windows(Split::Search, asked.tokens)?;
    steps.show("running the full model on the search text", 0, 1);
    let loss = Loss::new(&prepared, &windows, task.as_ref())?;
    let (workload, latency) = (asked.workload, asked.latency);
    let mut problem =
        SubnetProblem::on_devices(&loss, &prepared.space, &tables, workload, latency)?;
    let mut known = Known::open(&arguments.study, &problem)?;
    write_json(
        &arguments.study.with_extension(context::SPACE),
        prepared.choices(),
    )?;
    steps.finish();
    let mut out = std::io::stdout().lock();
    let hello = json!({
        "cardinalities": problem.space().cardinalities(),
        "objectives": problem.objective_names(),
        "full": prepared.space.full_genome(),
    });
    writeln!(out, "{hello}")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let answer = match known.answer(&mut problem, &line?) {
            Ok(objectives) => json!({ "objectives": objectives }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// What was asked before.
struct Known {
    study: Study,
    next: usize,
    objectives: HashMap<Genome, Vec<f64>>,
}

impl Known {
    fn open(path: &Path, problem: &SubnetProblem<'_>) -> anyhow::Result<Self> {
        let names = problem.objective_names().into_iter();
        let header = StudyHeader {
            problem: problem.fingerprint(),
            cardinalities: problem.space().cardinalities().to_vec(),
            objectives: names.map(str::to_owned).collect(),
            low_fidelities: Vec::new(),
            method: METHOD.to_owned(),
            options: String::new(),
            seed: 0,
            batch: 1,
        };
        let study = Study::open_or_create(path, &header, true)?;
        let evaluations = study.evaluations()?.into_iter();
        Ok(Self {
            next: study.evaluation_count()?,
            objectives: evaluations.map(|e| (e.genome, e.objectives)).collect(),
            study,
        })
    }

    fn answer(&mut self, problem: &mut SubnetProblem<'_>, line: &str) -> anyhow::Result<Vec<f64>> {
        let genome: Genome = serde_json::from_str(line)?;
        problem.space().check(&genome)?;
        if let Some(objectives) = self.objectives.get(&genome) {
            return Ok(objectives.clone());
        }
        let clock = Instant::now();
        let trial = Trial::full(genome);
        let objectives = problem.evaluate(&trial)?;
        let evaluation = trial.with_objectives(objectives);
        // Another process may have taken the number.
        while !self.study.keep(self.next, &evaluation, clock.elapsed())? {
            self.next += 1;
        }
        self.next += 1;
        self.objectives
            .insert(evaluation.genome, evaluation.objectives.clone());
        Ok(evaluation.objectives)
    }
}
