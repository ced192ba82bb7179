use std::process::ExitCode;
use std::time::Duration;

use lathe_arch::Precision;
use lathe_compress::{Healed, Healing, HealingEvent, TrainingLength};
use lathe_fetch::Cache;
use lathe_supernet::{LoraSettings, Parameters, TrainSettings};

use super::print_json;
use crate::arguments::Heal;
use crate::context::{self, Network};
use crate::interrupt;
use crate::progress::Steps;

/// Learning rates by default, of all weights and of adapters.
const LEARNING_RATES: [f64; 2] = [3e-4, 3e-3];
/// Stopped by Ctrl-C, as shells report it.
const INTERRUPTED: u8 = 130;

pub fn run(arguments: &Heal) -> anyhow::Result<ExitCode> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    // A mistake in the text is told before the long preparation.
    let passages = arguments.train_text.as_deref();
    let passages = passages.map(lathe_compress::read_text).transpose()?;
    let Network {
        mut prepared,
        config,
        weights,
    } = begin(&cache, arguments, &mut steps)?;
    if let Some(passages) = passages {
        prepared.train_on(passages);
    }
    let context = prepared.model().max_position_embeddings;
    let window_tokens = arguments.window_tokens.min(context);
    let healing = Healing {
        prepared: &prepared,
        config: &config,
        weights,
        settings: settings(arguments, window_tokens),
        length: match arguments.steps {
            Some(steps) => TrainingLength::Steps(steps),
            None => TrainingLength::Time(Duration::from_secs_f64(60.0 * arguments.minutes)),
        },
        window_tokens,
        save_every: arguments.save_every,
        validate_every: arguments.validate_every,
        validation_tokens: arguments.validation_tokens,
        folder: &arguments.out,
        resume: arguments.resume,
        is_interrupted: &interrupt::is_asked,
    };
    interrupt::watch();
    let healed = healing.run(&mut |event| show(&mut steps, event))?;
    steps.finish();
    if arguments.json {
        print_json(&healed)?;
    } else {
        print(arguments, &healed);
    }
    Ok(match healed.is_interrupted {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    })
}

/// The sub-network, its weights to begin with where they are not in the state already, and its model
/// without what made them: that takes memory.
fn begin(cache: &Cache, arguments: &Heal, steps: &mut Steps) -> anyhow::Result<Network> {
    let (model, path) = (&arguments.model, &arguments.subnet);
    if arguments.resume {
        return Ok(Network {
            config: context::stored_subnet(cache, &model.model, path)?.config,
            prepared: context::prepare_unpruned(cache, model, steps)?,
            weights: None,
        });
    }
    let mut network = context::prepare_network(cache, model, Some(path), steps)?;
    if network.weights.is_some() {
        return Ok(network);
    }
    let config = network.config.clone();
    // Rounded weights have no gradient: they are rounded when they are used.
    network.config = network.config.with_precision(Precision::F32);
    let weights = Parameters::of(&network.cut(arguments.keep_drift, steps)?);
    drop(network);
    Ok(Network {
        prepared: context::prepare_unpruned(cache, model, steps)?,
        config,
        weights: Some(weights),
    })
}

fn settings(arguments: &Heal, window_tokens: usize) -> TrainSettings {
    let lora = arguments.rank.map(|rank| LoraSettings {
        rank,
        alpha: arguments.alpha.unwrap_or(2.0 * rank as f64),
        targets: arguments.targets.clone(),
    });
    let learning_rate = LEARNING_RATES[usize::from(lora.is_some())];
    TrainSettings {
        steps: None,
        warmup_steps: arguments.warmup_steps,
        learning_rate: arguments.learning_rate.unwrap_or(learning_rate),
        weight_decay: arguments.weight_decay,
        clip: arguments.clip,
        windows_per_step: arguments.batch_tokens.div_ceil(window_tokens),
        distill_share: arguments.distill_share,
        temperature: arguments.temperature,
        seed: arguments.seed,
        lora,
    }
}

fn show(steps: &mut Steps, event: HealingEvent<'_>) {
    match event {
        HealingEvent::Preparing(label, done, total) => steps.show(label, done, total),
        HealingEvent::Trained {
            report,
            steps: in_all,
            tokens_per_second,
            validation_kl,
        } => {
            steps.show(
                "healing",
                report.step,
                in_all.unwrap_or(0).max(report.step + 1),
            );
            steps.note(&format!(
                "loss {:.4}, validation {validation_kl:.4}, {tokens_per_second:.0} tokens/s",
                report.loss
            ));
        }
    }
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
    let out = arguments.out.display();
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
