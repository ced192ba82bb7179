use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use lathe_arch::{ModelConfig, Precision, SearchSpace, SpaceSpec, SubnetConfig};
use lathe_compress::{
    Finetuned, Finetuning, Sampler, SamplerOptions, Sampling, latency_cost, parameter_cost,
};
use lathe_fetch::{Cache, ModelSpec};
use lathe_latency::LatencyTable;
use lathe_search::{Study, pareto_front};

use super::print_json;
use super::training::{Needs, exit_code, show};
use crate::arguments::{AdapterArgument, Train};
use crate::context;
use crate::interrupt;
use crate::progress::Steps;

/// Steps whose networks are counted for an estimate.
const ESTIMATED_STEPS: usize = 100;

pub fn run(arguments: &Train) -> anyhow::Result<ExitCode> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    // Mistakes in files are told before the long preparation.
    let training = &arguments.training;
    training.engine.check()?;
    let passages = training.lesson.passages()?;
    let table = arguments.table.as_deref();
    let table = table.map(|path| context::table_for(&cache, &arguments.model.model, path));
    let table = table.transpose()?;
    let front = match &arguments.front {
        Some(path) => read_front(path, arguments, table.as_ref())?,
        None => Vec::new(),
    };
    let spec = ModelSpec::find(&arguments.model.model)?;
    let model = context::model_config(&cache, &arguments.model.model)?;
    let own = spec.search_space.clone();
    let choices = SpaceSpec {
        precision: Vec::new(),
        ..arguments
            .sizes
            .among(&own.unwrap_or_else(|| SpaceSpec::standard(&model)))
    };
    let space = SearchSpace::new(&model, &spec.name, &choices)?;
    let sampler = sampler(arguments, &model, &space, table.as_ref(), front)?;
    let window_tokens = training.window_tokens.min(model.max_position_embeddings);
    let mut settings = training.settings(window_tokens);
    settings.balance = !arguments.unbalanced;
    let drawn = (0..ESTIMATED_STEPS).map(|step| sampler.networks(step));
    let drawn: Vec<SubnetConfig> = drawn.collect::<Result<Vec<_>, _>>()?.concat();
    let needs = Needs::of_supernet(&model, &drawn, ESTIMATED_STEPS, &settings, training);
    if training.estimate {
        return needs.print(training.json);
    }
    needs.check()?;
    let untrained = AdapterArgument { adapter: None };
    let mut prepared = context::prepare(&cache, &arguments.model, &untrained, &mut steps)?;
    prepared.choose_among(choices)?;
    if let Some(passages) = passages {
        prepared.train_on(passages);
    }
    let finetuning = Finetuning {
        prepared: &prepared,
        sampler: &sampler,
        engine: training.engine.of(&prepared.supernet)?,
        settings,
        window_tokens,
        validation_tokens: training.validation_tokens,
        run: training.run(),
    };
    interrupt::watch();
    let finetuned = finetuning.run(&mut |event| show(&mut steps, "training", &event))?;
    steps.finish();
    match training.json {
        true => print_json(&finetuned)?,
        false => print(arguments, &finetuned),
    }
    Ok(exit_code(finetuned.is_interrupted))
}

fn sampler(
    arguments: &Train,
    model: &ModelConfig,
    space: &SearchSpace,
    table: Option<&LatencyTable>,
    front: Vec<SubnetConfig>,
) -> anyhow::Result<Sampler> {
    let cost = match table {
        Some(table) => latency_cost(table, space, arguments.workload, arguments.latency)?,
        None => parameter_cost(model, space),
    };
    let by_default = match front.is_empty() {
        true => Sampling::Stratified,
        false => Sampling::Front,
    };
    let options = SamplerOptions {
        sampling: arguments.sampling.unwrap_or(by_default),
        networks: arguments.networks,
        least_share: arguments.least_share,
        seed: arguments.training.seed,
        front,
    };
    Sampler::new(space, cost, options)
}

/// The networks of a front.yaml, or of a study's front.
fn read_front(
    path: &Path,
    arguments: &Train,
    table: Option<&LatencyTable>,
) -> anyhow::Result<Vec<SubnetConfig>> {
    let is_yaml = |extension: &OsStr| extension == "yaml" || extension == "yml";
    if path.extension().is_some_and(is_yaml) {
        return lathe_compress::read_front(path);
    }
    let table = table.context("--front with a study: give its --table too")?;
    let space: SearchSpace = context::space_of(path, &arguments.model.model, table)?;
    let study = Study::open(path)?;
    let front = pareto_front(&study.evaluations()?);
    let networks = front.iter().map(|found| space.decode(&found.genome));
    let networks = networks.map(|network| Ok(network?.with_precision(Precision::F32)));
    networks.collect()
}

fn print(arguments: &Train, finetuned: &Finetuned) {
    println!(
        "{} steps on {} tokens; on {} tokens that were not trained on:",
        finetuned.steps, finetuned.trained_tokens, finetuned.validation_tokens,
    );
    println!(
        "{:<10} {:>21} {:>25}",
        "", "divergence (nats)", "perplexity"
    );
    for network in &finetuned.validated {
        println!(
            "{:<10} {:>9.4} -> {:>8.4} {:>11.2} -> {:>10.2}",
            network.network.as_deref().unwrap_or(""),
            network.kl[0],
            network.kl[1],
            network.perplexity[0],
            network.perplexity[1],
        );
    }
    let out = arguments.training.out.display();
    match finetuned.is_interrupted {
        true => println!("stopped: run the same command with --resume to go on"),
        false => println!("wrote {out}: name it with --adapter to search, evaluate and export"),
    }
}
