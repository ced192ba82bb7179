use std::fmt::{self, Display, Formatter};

use anyhow::{Context, ensure};
use lathe_arch::Precision;
use lathe_compress::{Compared, Comparison, Contender, LatencyObjective, Quiz};
use lathe_fetch::Cache;
use lathe_latency::LatencyTable;
use lathe_supernet::{Accuracy, Question, TrainSettings};

use super::print_json;
use crate::arguments::Compare;
use crate::context;
use crate::progress::Steps;

/// Rounds over the winners of a level.
const NETWORK_ROUNDS: usize = 2;

pub fn run(arguments: &Compare) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    // A mistake in texts and questions is told before the long preparation.
    let passages = arguments.lesson.passages()?;
    ensure!(
        passages.is_none() || arguments.heal_steps > 0,
        "--train-text is read by healing alone: say for how long with --heal-steps"
    );
    let quiz = quiz(arguments, &cache)?;
    let (tokens, weight) = (arguments.tokens, arguments.weight.answer_weight);
    let task = arguments.search_task.read(&cache, tokens, weight)?;
    let tested = quiz.as_ref().map_or(&[][..], |quiz| &quiz.questions);
    let search_task = task.map(|task| task.without(tested));
    ensure!(
        search_task
            .as_ref()
            .is_none_or(|task| !task.questions.is_empty()),
        "--search-task: networks are tested with all its questions, so that searches may know none of them"
    );
    let table = context::table_for(&cache, &arguments.model.model, &arguments.table)?;
    let (model, adapter) = (&arguments.model, &arguments.adapter);
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let mut prepared = context::prepare_search(&cache, model, adapter, &mut steps)?;
    prepared.choose_among(arguments.sizes.among(prepared.choices()))?;
    if let Some(passages) = passages {
        prepared.train_on(passages);
    }
    let agent = match arguments.no_measure {
        true => None,
        false => Some(context::agent(&cache, &arguments.device)?),
    };
    let comparison = Comparison {
        prepared: &prepared,
        table: &table,
        agent: agent.as_ref(),
        workload: arguments.workload,
        objectives: arguments.objective.clone(),
        levels: arguments.levels.clone(),
        precisions: precisions(&arguments.precision, &table),
        evaluations: arguments.evaluations,
        search_tokens: arguments.tokens,
        block_tokens: arguments.block_tokens,
        test_tokens: arguments.test_tokens,
        search_task,
        quiz,
        heal_steps: arguments.heal_steps,
        heal_settings: TrainSettings {
            distill_share: arguments.lesson.distill_share,
            temperature: arguments.lesson.temperature as f32,
            ..TrainSettings::default()
        },
        network_rounds: NETWORK_ROUNDS,
        seed: arguments.seed,
        folder: &arguments.out,
    };
    let compared = comparison.run(&mut |label, done, total| steps.show(label, done, total))?;
    let (folder, objectives) = (&arguments.out, &arguments.objective);
    let figures = lathe_compress::write_comparison_figures(folder, &compared, objectives)?;
    steps.finish();
    if arguments.json {
        return print_json(&compared);
    }
    print(&compared, &arguments.objective, &arguments.levels);
    println!();
    for figure in figures {
        println!("figure: {}", figure.display());
    }
    Ok(())
}

/// The questions asked for.
fn quiz(arguments: &Compare, cache: &Cache) -> anyhow::Result<Option<Quiz>> {
    if arguments.questions == 0 {
        return Ok(None);
    }
    let all = arguments.task.read(cache)?;
    Ok(Some(Quiz {
        name: arguments.task.name(),
        questions: Question::sample(&all, arguments.questions),
        mutual_info: arguments.mutual_info,
    }))
}

/// The precisions asked for, the fewest bits first; the table's where none are.
fn precisions(asked: &[Precision], table: &LatencyTable) -> Vec<Precision> {
    let is_wanted = |precision: &Precision| match asked {
        [] => table
            .entries
            .iter()
            .any(|entry| entry.block.precision() == *precision),
        asked => asked.contains(precision),
    };
    let fewest_bits_first = Precision::ALL.into_iter().rev();
    fewest_bits_first.filter(is_wanted).collect()
}

fn print(compared: &Compared, objectives: &[LatencyObjective], levels: &[f64]) {
    let [ttft_us, tpot_us] = compared.predicted_us;
    println!(
        "{} at {}: full model perplexity {:.2}, TTFT {:.1} ms, TPOT {:.2} ms",
        compared.model,
        compared.workload,
        compared.perplexity,
        ttft_us / 1000.0,
        tpot_us / 1000.0,
    );
    if let (Some(quiz), Some(full)) = (&compared.quiz, &compared.accuracy) {
        let (count, answers) = (full.questions, answers(full));
        let by = measured_by(full);
        println!("{quiz}, {count} questions, right {by}: full model {answers}");
    }
    for &objective in objectives {
        for &level in levels {
            println!("\n{level} of the full model's {}", objective.name());
            println!(
                "{:<34} {:>8} {:>8} {:>11} {:>9} {:>9}  {:>9} {:>9}  {}",
                "",
                "TTFT ms",
                "TPOT ms",
                "perplexity",
                "log ppl",
                "healed",
                "measured",
                "(ms)",
                compared.quiz.as_deref().unwrap_or_default()
            );
            for contender in compared.at(objective, level) {
                print_contender(contender);
            }
            let ours = compared.at(objective, level);
            for ours in ours.iter().filter(|c| c.method.is_search()) {
                print_ratios(compared, ours);
            }
        }
    }
}

/// How much less a search loses than the best baseline of its level.
fn print_ratios(compared: &Compared, ours: &Contender) {
    for (label, is_refitted) in [("as published", false), ("with the refit", true)] {
        if let Some(best) = compared.best_baseline(ours.objective, ours.level, is_refitted) {
            println!(
                "{}: {:.2} of the loss of the best baseline {label}",
                ours.name(),
                ours.log_perplexity_increase / best.log_perplexity_increase
            );
        }
    }
    for measure in MEASURES {
        let right = |c: &Contender| (measure.right)(c.accuracy.as_ref()?);
        let all = compared.at(ours.objective, ours.level).into_iter();
        let baselines = all.filter(|c| c.method.is_baseline());
        let best = baselines.filter_map(|c| Some((c, right(c)?)));
        let best = best.max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share));
        if let (Some(of_ours), Some((best, of_best))) = (right(ours), best) {
            println!(
                "{}: {of_ours} right {}, of the baselines at most {of_best} ({})",
                ours.name(),
                measure.name,
                best.name()
            );
        }
    }
    let increase = |c: &Contender| Some(c.healed.as_ref()?.log_perplexity_increase);
    let all = compared.at(ours.objective, ours.level).into_iter();
    let baselines = all.filter(|c| c.method.is_baseline()).filter_map(increase);
    if let (Some(of_ours), Some(best)) = (increase(ours), baselines.reduce(f64::min)) {
        println!(
            "{}: {:.2} of the loss of the best baseline, all healed",
            ours.name(),
            of_ours / best
        );
    }
}

fn print_contender(contender: &Contender) {
    let measured = contender.measured.as_ref().map(|m| {
        format!(
            "{:>9.1} {:>9.2}",
            m.ttft.median_us / 1000.0,
            m.tpot.median_us / 1000.0
        )
    });
    let healed = contender.healed.as_ref();
    let healed = healed.map(|healed| format!("{:>+9.3}", healed.log_perplexity_increase));
    println!(
        "{:<34} {:>8.1} {:>8.2} {:>11.2} {:>+9.3} {:>9}  {:>19}  {}",
        contender.name(),
        contender.ttft_us / 1000.0,
        contender.tpot_us / 1000.0,
        contender.perplexity,
        contender.log_perplexity_increase,
        healed.unwrap_or_default(),
        measured.unwrap_or_default(),
        contender.accuracy.as_ref().map(answers).unwrap_or_default()
    );
}

/// A share of right answers and its standard error.
struct Share {
    share: f64,
    error: f64,
}

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} +- {:.3}", self.share, self.error)
    }
}

/// What makes an answer right.
struct Measure {
    name: &'static str,
    right: fn(&Accuracy) -> Option<Share>,
}

const MEASURES: [Measure; 2] = [
    Measure {
        name: "per character",
        right: |accuracy| {
            Some(Share {
                share: accuracy.acc_norm,
                error: accuracy.acc_norm_stderr,
            })
        },
    },
    Measure {
        name: "by mutual information",
        right: |accuracy| {
            accuracy.mutual_info.map(|by| Share {
                share: by.acc_mutual_info,
                error: by.acc_mutual_info_stderr,
            })
        },
    },
];

/// Right answers by every measure there is.
fn answers(accuracy: &Accuracy) -> String {
    let shares = MEASURES.iter().filter_map(|m| (m.right)(accuracy));
    let shares: Vec<String> = shares.map(|share| share.to_string()).collect();
    shares.join(", ")
}

/// The measures of these answers.
fn measured_by(accuracy: &Accuracy) -> String {
    let there = MEASURES.iter().filter(|m| (m.right)(accuracy).is_some());
    let names: Vec<&str> = there.map(|measure| measure.name).collect();
    names.join(" and ")
}
