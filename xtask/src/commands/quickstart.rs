use std::path::Path;

use lathe_compress::{Effort, Summary};
use lathe_fetch::{Cache, ModelSpec};

use super::print_json;
use crate::arguments::Quickstart;
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Quickstart) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let model = ModelSpec::find(&arguments.model)?;
    let agent = context::agent(&cache, &arguments.device)?;
    let mut effort = if arguments.quick {
        Effort::quick()
    } else {
        Effort::standard()
    };
    if let Some(evaluations) = arguments.evaluations {
        effort.evaluations = evaluations;
    }
    let name = if arguments.quick {
        "quickstart-quick"
    } else {
        "quickstart"
    };
    let folder = arguments
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(name));
    let mut steps = Steps::new();
    let summary = lathe_compress::quickstart(
        &lathe_compress::Quickstart {
            model: &model,
            agent: &agent,
            cache: &cache,
            text: arguments.text.as_deref(),
            folder: &folder,
            workload: arguments.workload,
            tpot_ratio: arguments.tpot_ratio,
            effort,
        },
        &mut |label, done, total| steps.show(label, done, total),
    )?;
    steps.finish();
    if arguments.json {
        return print_json(&summary);
    }
    print(&summary);
    Ok(())
}

fn print(summary: &Summary) {
    let Summary {
        base,
        chosen,
        uniform,
        validation,
        ..
    } = summary;
    let ms = |us: f64| us / 1000.0;
    println!("\n{} at {} tokens", summary.model, summary.workload);
    println!(
        "{:44} {:>9} {:>9} {:>11} {:>11}",
        "", "TTFT ms", "TPOT ms", "perplexity", "parameters"
    );
    for network in [base, chosen, uniform] {
        println!(
            "{:44} {:>9.1} {:>9.2} {:>11.2} {:>9.1} M",
            network.label,
            ms(network.measured.ttft.median_us),
            ms(network.measured.tpot.median_us),
            network.perplexity,
            network.parameters as f64 / 1e6,
        );
    }
    let speed =
        |us: fn(&lathe_profiler::NetworkLatency) -> f64| us(&base.measured) / us(&chosen.measured);
    println!(
        "\nThe chosen sub-network is measured {:.2}x as fast in decode and {:.2}x in prefill; it takes {:.0} % less time per token.",
        speed(|m| m.tpot.median_us),
        speed(|m| m.ttft.median_us),
        100.0 * (1.0 - chosen.measured.tpot.median_us / base.measured.tpot.median_us),
    );
    println!(
        "Uniform pruning at {:.2} ms per token has perplexity {:.2}; the chosen sub-network {:.2} at {:.2} ms.",
        ms(uniform.measured.tpot.median_us),
        uniform.perplexity,
        chosen.perplexity,
        ms(chosen.measured.tpot.median_us),
    );
    let phases = validation
        .precisions
        .iter()
        .flat_map(|at| [("prefill", &at.prefill), ("decode", &at.decode)]);
    for (name, phase) in phases {
        let agreement = &phase.agreement;
        println!(
            "Predicted against measured, {name}: MAPE {:.1} % on {} held-out sub-networks.",
            100.0 * agreement.mape,
            agreement.networks
        );
    }
    println!(
        "Search: {} evaluations, {} on the front.",
        summary.evaluations, summary.front
    );
    for (name, path) in [
        ("model for onnxruntime-genai", &summary.exported),
        ("latency table", &summary.table),
        ("report", &summary.report),
    ] {
        println!("{name}: {}", path.display());
    }
}
