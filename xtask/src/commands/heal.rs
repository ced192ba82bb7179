use std::process::ExitCode;

use anyhow::{Context, ensure};
use lathe_arch::{Precision, SubnetConfig};
use lathe_compress::{Healed, Healing, Prepared, Race, Raced, StoredSubnet};
use lathe_fetch::Cache;
use lathe_supernet::{Parameters, TrainSettings};

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
    let model = &arguments.model.model;
    let subnets = arguments.subnet.iter();
    let subnets = subnets.map(|path| context::stored_subnet(&cache, model, path));
    let subnets = subnets.collect::<anyhow::Result<Vec<StoredSubnet>>>()?;
    ensure!(
        subnets.len() == 1 || training.steps.is_some(),
        "of several networks the one that heals best is found in parts of --steps: say how many"
    );
    let model = context::model_config(&cache, model)?;
    let window_tokens = training.window_tokens.min(model.max_position_embeddings);
    let settings = training.settings(window_tokens);
    let largest = subnets.iter().max_by_key(|s| s.config.parameters(&model));
    let largest = &largest.context("no network is given")?.config;
    let needs = Needs::of_network(&model, largest, &settings, training);
    if training.estimate {
        return needs.print(training.json);
    }
    needs.check()?;
    let mut job = Job {
        arguments,
        cache,
        settings,
        window_tokens,
        steps: &mut steps,
    };
    match &subnets[..] {
        [_] => job.heal(passages),
        _ => job.race(&subnets, passages),
    }
}

/// What healing one network and racing several have in common.
struct Job<'a> {
    arguments: &'a Heal,
    cache: Cache,
    settings: TrainSettings,
    window_tokens: usize,
    steps: &'a mut Steps,
}

impl Job<'_> {
    fn heal(&mut self, passages: Option<Vec<String>>) -> anyhow::Result<ExitCode> {
        let training = &self.arguments.training;
        let Network {
            mut prepared,
            config,
            weights,
        } = self.begin()?;
        if let Some(passages) = passages {
            prepared.train_on(passages);
        }
        let healing = Healing {
            prepared: &prepared,
            config: &config,
            weights,
            engine: training.engine.of(&prepared.supernet)?,
            settings: self.settings.clone(),
            window_tokens: self.window_tokens,
            validation_tokens: training.validation_tokens,
            run: training.run(),
        };
        interrupt::watch();
        let healed = healing.run(&mut |event| show(self.steps, "healing", &event))?;
        self.steps.finish();
        if training.json {
            print_json(&healed)?;
        } else {
            print(self.arguments, &healed);
        }
        Ok(exit_code(healed.is_interrupted))
    }

    fn race(
        &mut self,
        subnets: &[StoredSubnet],
        passages: Option<Vec<String>>,
    ) -> anyhow::Result<ExitCode> {
        let training = &self.arguments.training;
        ensure!(
            self.arguments.adapter.adapter.is_none() || subnets.iter().all(|s| s.weights.is_none()),
            "--adapter: one of the networks was healed and has weights of its own: leave one of both away"
        );
        Race::check_folder(&training.out, training.resume)?;
        let mut prepared = self.line_up(subnets)?;
        if let Some(passages) = passages {
            prepared.train_on(passages);
        }
        let networks: Vec<SubnetConfig> = subnets.iter().map(|s| s.config.clone()).collect();
        let race = Race {
            prepared: &prepared,
            networks: &networks,
            engine: training.engine.of(&prepared.supernet)?,
            settings: self.settings.clone(),
            window_tokens: self.window_tokens,
            validation_tokens: training.validation_tokens,
            run: training.run(),
        };
        let name = |network: usize| self.arguments.subnet[network].display();
        let raced = race.run(&mut |network, event| {
            let label = network.map_or("healing the best".to_owned(), |network| {
                format!("healing {}", name(network))
            });
            show(self.steps, &label, &event);
        })?;
        self.steps.finish();
        if training.json {
            print_json(&raced)?;
        } else {
            print_race(self.arguments, &raced);
        }
        Ok(exit_code(raced.is_interrupted()))
    }

    /// The sub-network, its weights to begin with where they are not in the state already, and its model
    /// without what made them: that takes memory.
    fn begin(&mut self) -> anyhow::Result<Network> {
        let Heal { model, adapter, .. } = self.arguments;
        let path = &self.arguments.subnet[0];
        if self.arguments.training.resume {
            return Ok(Network {
                config: context::stored_subnet(&self.cache, &model.model, path)?.config,
                prepared: context::prepare_unpruned(&self.cache, model, adapter, self.steps)?,
                weights: None,
            });
        }
        let mut network =
            context::prepare_network(&self.cache, model, adapter, Some(path), self.steps)?;
        if network.weights.is_some() {
            return Ok(network);
        }
        let config = network.config.clone();
        // Rounded weights have no gradient: they are rounded when they are used.
        network.config = network.config.with_precision(Precision::F32);
        let weights = Parameters::of(&network.cut(self.arguments.keep_drift, self.steps)?);
        drop(network);
        Ok(Network {
            prepared: context::prepare_unpruned(&self.cache, model, adapter, self.steps)?,
            config,
            weights: Some(weights),
        })
    }

    /// Has what each of several networks begins with in the race's folder, and returns the model alone.
    fn line_up(&mut self, subnets: &[StoredSubnet]) -> anyhow::Result<Prepared> {
        let Heal { model, adapter, .. } = self.arguments;
        let out = &self.arguments.training.out;
        let waiting = subnets.iter().enumerate();
        let waiting: Vec<_> = waiting
            .filter(|(at, _)| !Race::beginning(out, *at).exists())
            .collect();
        let (trained, cut): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, s)| s.weights.is_some());
        if !cut.is_empty() {
            let mut network = Network {
                prepared: context::prepare(&self.cache, model, adapter, self.steps)?,
                config: cut[0].1.config.clone(),
                weights: None,
            };
            for (at, subnet) in cut {
                network.config = subnet.config.clone().with_precision(Precision::F32);
                let weights = Parameters::of(&network.cut(self.arguments.keep_drift, self.steps)?);
                Race::line_up(out, at, &weights, &network.prepared)?;
            }
        }
        let prepared = context::prepare_unpruned(&self.cache, model, adapter, self.steps)?;
        for (at, subnet) in trained {
            let path = subnet.weights.as_deref().context("it has weights")?;
            let weights = Parameters::load(path, &prepared.supernet, &subnet.config)?;
            Race::line_up(out, at, &weights, &prepared)?;
        }
        interrupt::watch();
        Ok(prepared)
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

fn print_race(arguments: &Heal, raced: &Raced) {
    println!("steps    loss  above mean  divergence  perplexity  network");
    for leg in &raced.legs {
        println!(
            "{:>5} {:>7.4} {:>+11.4} {:>11.4} {:>11.2}  {}",
            leg.steps,
            leg.training_loss,
            leg.excess_loss,
            leg.validation_kl,
            leg.validation_perplexity,
            arguments.subnet[leg.network].display()
        );
    }
    for network in &raced.went_wrong {
        println!(
            "its training went wrong: {}",
            arguments.subnet[*network].display()
        );
    }
    match (&raced.winner, &raced.healed) {
        (Some(winner), Some(healed)) => {
            println!("the best: {}", arguments.subnet[*winner].display());
            print(arguments, healed);
        }
        _ => println!("stopped: run the same command with --resume to go on"),
    }
}
