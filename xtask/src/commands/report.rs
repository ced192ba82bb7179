use std::path::Path;

use lathe_arch::{SearchSpace, SpaceSpec};
use lathe_compress::{StudyReport, Summary};
use lathe_fetch::ModelSpec;
use lathe_latency::LatencyTable;
use lathe_search::Study;

use crate::arguments::Report;
use crate::context;

pub fn run(arguments: &Report) -> anyhow::Result<()> {
    let study = Study::open(&arguments.study)?;
    let folder = context::folder_of(&arguments.study);
    let table = arguments
        .table
        .clone()
        .unwrap_or_else(|| folder.join("table.yaml"));
    let table = LatencyTable::load(&table)?;
    let name = arguments.model.as_ref().unwrap_or(&table.model.name);
    // A model given by path has no entry in models/; its space is the standard one.
    let choices = ModelSpec::find(name)
        .ok()
        .and_then(|spec| spec.search_space);
    let model = &table.model.dimensions;
    let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
    let space = SearchSpace::new(model, &table.model.name, &choices)?;
    let summary = read_summary(&folder.join("summary.json"))?;
    StudyReport {
        table: &table,
        space: &space,
        study: &study,
        workload: arguments.workload,
        validation: summary.as_ref().map(|summary| &summary.validation),
        summary: summary.as_ref(),
    }
    .write(&arguments.out)?;
    println!("wrote {}", arguments.out.display());
    Ok(())
}

/// What a quickstart left beside its study.
fn read_summary(path: &Path) -> anyhow::Result<Option<Summary>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path)?;
    let summary = serde_json::from_slice(&text);
    summary.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}
