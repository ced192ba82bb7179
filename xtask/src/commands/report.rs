use lathe_compress::{StudyReport, Summary, Validation, learning_curves};
use lathe_latency::LatencyTable;
use lathe_search::Study;

use super::validate::HELD_OUT;
use crate::arguments::Report;
use crate::context;

pub fn run(arguments: &Report) -> anyhow::Result<()> {
    let study = Study::open(&arguments.study)?;
    let folder = context::folder_of(&arguments.study);
    let table = arguments
        .table
        .clone()
        .unwrap_or_else(|| folder.join("table.yaml"));
    let held_out = table.with_extension(HELD_OUT);
    let table = LatencyTable::load(&table)?;
    let name = arguments.model.as_ref().unwrap_or(&table.model.name);
    let space = context::space_of(&arguments.study, name, &table)?;
    let summary: Option<Summary> = context::read_json(&folder.join("summary.json"))?;
    // What `validate` left beside the table is the larger measurement.
    let validation: Option<Validation> = context::read_json(&held_out)?;
    let validation = validation.as_ref();
    let trainings = arguments.training.iter();
    let trainings = trainings.map(|folder| learning_curves(folder));
    let trainings = trainings.collect::<anyhow::Result<Vec<_>>>()?;
    StudyReport {
        table: &table,
        space: &space,
        study: &study,
        workload: arguments.workload,
        validation: validation.or(summary.as_ref().map(|summary| &summary.validation)),
        summary: summary.as_ref(),
        trainings: &trainings,
    }
    .write(&arguments.out)?;
    println!("wrote {}", arguments.out.display());
    Ok(())
}
