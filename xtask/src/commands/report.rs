use std::path::Path;

use lathe_arch::{SearchSpace, SpaceSpec};
use lathe_compress::{StudyReport, Summary, Validation};
use lathe_fetch::ModelSpec;
use lathe_latency::LatencyTable;
use lathe_search::Study;
use serde::de::DeserializeOwned;

use super::search::SPACE;
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
    let model = &table.model.dimensions;
    // What the search left beside the study, or the model's. A model given by path has no entry in
    // models/; its space is the standard one.
    let searched: Option<SpaceSpec> = read_json(&arguments.study.with_extension(SPACE))?;
    let of_model = || ModelSpec::find(name).ok()?.search_space;
    let choices = searched.or_else(of_model);
    let choices = choices.unwrap_or_else(|| SpaceSpec::standard(model));
    let space = SearchSpace::new(model, &table.model.name, &choices)?;
    let summary: Option<Summary> = read_json(&folder.join("summary.json"))?;
    // What `validate` left beside the table is the larger measurement.
    let validation: Option<Validation> = read_json(&held_out)?;
    let validation = validation.as_ref();
    StudyReport {
        table: &table,
        space: &space,
        study: &study,
        workload: arguments.workload,
        validation: validation.or(summary.as_ref().map(|summary| &summary.validation)),
        summary: summary.as_ref(),
    }
    .write(&arguments.out)?;
    println!("wrote {}", arguments.out.display());
    Ok(())
}

/// What an earlier command left, if it did.
fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path)?;
    let value = serde_json::from_slice(&text);
    value
        .map(Some)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}
