use std::process::ExitCode;

use lathe_arch::Precision;
use lathe_compress::{Healed, Healing};
use lathe_fetch::Cache;
use lathe_supernet::Parameters;

use super::print_json;
use super::training::{Needs, exit_code, show};
use crate::arguments::Heal;
use crate::context::{self, Network};
use crate::interrupt;
use crate::progress::Steps;

pub fn run(arguments: &Heal) -> anyhow::Result<ExitCode> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    // A mistake in the text is told before the long preparation.
    let training = &arguments.training;
    training.engine.check()?;
    let passages = training.lesson.passages()?;
    let subnet = context::stored_subnet(&cache, &arguments.model.model, &arguments.subnet)?;
    let model = context::model_config(&cache, &arguments.model.model)?;
    let window_tokens = training.window_tokens.min(model.max_position_embeddings);
    let settings = training.settings(window_tokens);
    let needs = Needs::of_network(&model, &subnet.config, &settings, training);
    if training.estimate {
        return needs.print(training.json);
    }
    needs.check()?;
    let Network {
        mut prepared,
        config,
        weights,
    } = begin(&cache, arguments, &mut steps)?;
    if let Some(passages) = passages {
        prepared.train_on(passages);
    }
    let healing = Healing {
        prepared: &prepared,
        config: &config,
        weights,
        engine: training.engine.of(&prepared.supernet)?,
        settings,
        window_tokens,
        validation_tokens: training.validation_tokens,
        run: training.run(),
    };
    interrupt::watch();
    let healed = healing.run(&mut |event| show(&mut steps, "healing", &event))?;
    steps.finish();
    if training.json {
        print_json(&healed)?;
    } else {
        print(arguments, &healed);
    }
    Ok(exit_code(healed.is_interrupted))
}

/// The sub-network, its weights to begin with where they are not in the state already, and its model
/// without what made them: that takes memory.
fn begin(cache: &Cache, arguments: &Heal, steps: &mut Steps) -> anyhow::Result<Network> {
    let (model, path) = (&arguments.model, &arguments.subnet);
    let adapter = &arguments.adapter;
    if arguments.training.resume {
        return Ok(Network {
            config: context::stored_subnet(cache, &model.model, path)?.config,
            prepared: context::prepare_unpruned(cache, model, adapter, steps)?,
            weights: None,
        });
    }
    let mut network = context::prepare_network(cache, model, adapter, Some(path), steps)?;
    if network.weights.is_some() {
        return Ok(network);
    }
    let config = network.config.clone();
    // Rounded weights have no gradient: they are rounded when they are used.
    network.config = network.config.with_precision(Precision::F32);
    let weights = Parameters::of(&network.cut(arguments.keep_drift, steps)?);
    drop(network);
    Ok(Network {
        prepared: context::prepare_unpruned(cache, model, adapter, steps)?,
        config,
        weights: Some(weights),
    })
}

fn print(arguments: &Heal, healed: &Healed) {
    let [before, after] = healed.validation_kl;
    let [perplexity_before, perplexity_after] = healed.validation_perplexity;
    println!(
        "{} steps on {} tokens, {:.1} M parameters: divergence {before:.4} -> {after:.4} nats a token, perplexity {perplexity_before:.2} -> {perplexity_after:.2} on {} tokens that were not trained on",
        healed.steps,
        healed.trained_tokens,
        healed.parameters as f64 / 1e6,
        healed.validation_tokens,
    );
    let out = arguments.training.out.display();
    match healed.is_interrupted {
        true => println!("stopped: run the same command with --resume to go on"),
        false => println!("wrote {out}: name it with --subnet to evaluate and export"),
    }
    if !healed.is_interrupted && after >= before {
        println!(
            "warning: it diverges no less than before: take a lower --learning-rate, or more text"
        );
    }
}
