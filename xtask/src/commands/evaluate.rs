use std::time::Instant;

use lathe_compress::Prepared;
use lathe_fetch::Cache;
use lathe_supernet::{
    Accuracy, ChoiceQuality, Quality, Question, QuestionSet, Split, Subnet, perplexity_and_kl_on,
    perplexity_on,
};
use serde_json::json;

use super::print_json;
use crate::arguments::{Evaluate, Task};
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Evaluate) -> anyhow::Result<()> {
    arguments.engine.check()?;
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    // A mistake in the questions is told before the long preparation.
    let questions = match &arguments.task {
        Task::Perplexity | Task::Kl => None,
        Task::Questions(source) => Some(source.read(&cache)?),
    };
    let (adapter, subnet) = (&arguments.adapter, arguments.subnet.as_deref());
    let network = context::prepare_network(&cache, &arguments.model, adapter, subnet, &mut steps)?;
    let cut = network.cut(arguments.keep_drift, &mut steps)?;
    match questions {
        None => text(arguments, &network.prepared, &cut, steps),
        Some(questions) => choice(arguments, &network.prepared, &cut, &questions, steps),
    }
}

fn text(
    arguments: &Evaluate,
    prepared: &Prepared,
    cut: &Subnet<'_>,
    mut steps: Steps,
) -> anyhow::Result<()> {
    let windows = prepared.windows(Split::Test, arguments.tokens)?;
    let clock = Instant::now();
    steps.show("scoring", 0, 1);
    let engine = arguments.engine.of(&prepared.supernet)?;
    let quality = if arguments.task == Task::Kl {
        perplexity_and_kl_on(&*engine, cut, &windows)?
    } else {
        perplexity_on(&*engine, cut, &windows)?
    };
    let seconds = clock.elapsed().as_secs_f64();
    steps.finish();
    let parameters = cut.config().parameters(prepared.model());
    if arguments.json {
        return print_json(&json!({
            "perplexity": quality.perplexity(),
            "negative_log_likelihood": quality.negative_log_likelihood,
            "standard_error": quality.standard_error,
            "kl_divergence": quality.kl_divergence,
            "tokens": quality.tokens,
            "seconds": seconds,
            "parameters": parameters,
        }));
    }
    print_text(&quality, parameters);
    Ok(())
}

fn print_text(quality: &Quality, parameters: u64) {
    println!(
        "perplexity {:.3} (log {:.4} +- {:.4}) on {} tokens, {:.1} M parameters",
        quality.perplexity(),
        quality.negative_log_likelihood,
        quality.standard_error,
        quality.tokens,
        parameters as f64 / 1e6,
    );
    if let Some(kl) = quality.kl_divergence {
        println!("KL divergence from the full model {kl:.4} nats per token");
    }
}

fn choice(
    arguments: &Evaluate,
    prepared: &Prepared,
    cut: &Subnet<'_>,
    questions: &[Question],
    mut steps: Steps,
) -> anyhow::Result<()> {
    let context = prepared.model().max_position_embeddings;
    let sample = Question::sample(questions, arguments.questions);
    let encode = match arguments.mutual_info {
        true => QuestionSet::with_choices_alone,
        false => QuestionSet::new,
    };
    let set = encode(&sample, &prepared.tokenizer, context)?;
    let engine = arguments.engine.of(&prepared.supernet)?;
    let show = |done, total| steps.show("answering", done, total);
    let quality = set.score_on(&*engine, cut, show)?;
    steps.finish();
    if arguments.json {
        return print_json(&quality);
    }
    print_choice(&quality);
    Ok(())
}

fn print_choice(quality: &ChoiceQuality) {
    let by_information = |accuracy: &Accuracy| {
        let right = accuracy.mutual_info.as_ref();
        let right = right.map(|by| (by.acc_mutual_info, by.acc_mutual_info_stderr));
        right
            .map(|(share, error)| format!(" {share:>7.4} +-{error:.4}"))
            .unwrap_or_default()
    };
    println!(
        "{:<42} {:>9} {:>15} {:>15}{}",
        "",
        "questions",
        "acc",
        "acc_norm",
        quality.all.mutual_info.map_or("", |_| " acc_mutual_info")
    );
    let all = [("all", &quality.all)];
    let topics = quality.topics.iter().map(|(name, a)| (name.as_str(), a));
    for (name, accuracy) in topics.chain(all) {
        println!(
            "{name:<42} {:>9} {:>7.4} +-{:.4} {:>7.4} +-{:.4}{}",
            accuracy.questions,
            accuracy.acc,
            accuracy.acc_stderr,
            accuracy.acc_norm,
            accuracy.acc_norm_stderr,
            by_information(accuracy),
        );
    }
    println!(
        "right choices: {:.4} +-{:.4} bits per byte",
        quality.bits_per_byte, quality.bits_per_byte_stderr
    );
}
