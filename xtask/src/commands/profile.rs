use std::path::Path;

use lathe_arch::{SearchSpace, SpaceSpec};
use lathe_compress::Effort;
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_profiler::{ProfilePlan, ProfileRequest, last_level_cache_bytes};
use lathe_supernet::checkpoint::read_config;

use super::print_json;
use crate::arguments::Profile;
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Profile) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let device = context::device(&arguments.device.device)?;
    let spec = ModelSpec::find(&arguments.model)?;
    let model = read_config(&spec.fetch(&cache)?)?;
    let agent = context::agent(&cache, &arguments.device)?;
    let choices = spec
        .search_space
        .clone()
        .unwrap_or_else(|| SpaceSpec::standard(&model));
    let space = SearchSpace::new(&model, &spec.name, &choices)?;
    let effort = if arguments.quick {
        Effort::quick()
    } else {
        Effort::standard()
    };
    let prompts = match &arguments.prompt[..] {
        [] => effort.prompts,
        given => given.to_vec(),
    };
    let limit = model.max_position_embeddings;
    let plan = ProfilePlan {
        shapes: space.shapes(),
        prompts: prompts
            .into_iter()
            .filter(|prompt| (1..=limit).contains(prompt))
            .collect(),
        depths: effort
            .depths
            .into_iter()
            .filter(|depth| *depth < limit)
            .collect(),
        batch: 1,
        rounds: arguments.rounds.unwrap_or(effort.profile_rounds).max(1),
        runs: effort.profile_runs,
        seed: 1,
        last_level_cache_bytes: last_level_cache_bytes(),
    };
    anyhow::ensure!(
        !plan.prompts.is_empty(),
        "--prompt: expected lengths from 1 to {limit} tokens"
    );
    let folder = Path::new("runs").join(format!("{}-{}", spec.name, device.name));
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| folder.join("table.yaml"));
    let mut steps = Steps::new();
    let request = ProfileRequest {
        agent: &agent,
        device: &device,
        model_name: &spec.name,
        model: &model,
        plan: &plan,
        out: &out,
        resume: arguments.resume,
    };
    let table = lathe_profiler::profile(&request, |done, total, _| {
        steps.show("profiling blocks", done, total);
    })?;
    steps.finish();
    if arguments.json {
        return print_json(&table);
    }
    print(&table);
    println!("\nwrote {}", out.display());
    Ok(())
}

fn print(table: &LatencyTable) {
    println!(
        "{:28} {:>16} {:>12} {:>20}  flags",
        "block", "phase", "median us", "95 % interval us"
    );
    for entry in &table.entries {
        let [low, high] = entry.latency.ci95_us;
        println!(
            "{:28} {:>16} {:>12.1} {:>20}  {}",
            entry.block.to_string(),
            entry.phase.to_string(),
            entry.latency.median_us,
            format!("{low:.1} to {high:.1}"),
            entry.flags.join("; ")
        );
    }
}
