use lathe_arch::{Precision, SubnetConfig};
use lathe_fetch::Cache;
use lathe_supernet::{Evaluator, Split};
use serde_json::json;

use super::print_json;
use crate::arguments::{Evaluate, Task};
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Evaluate) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    let folder = context::model_folder(&cache, &arguments.model.model);
    let prepared = context::prepare(&cache, &arguments.model, &folder, &mut steps)?;
    let subnet = match &arguments.subnet {
        Some(path) => lathe_compress::read_subnet(path, prepared.model())?,
        None => SubnetConfig::full(prepared.model()),
    };
    anyhow::ensure!(
        subnet.common_precision() == Some(Precision::F32),
        "--subnet: it has int8 or int4 weights, and quality is scored in f32 only: remove `precision` and `head_precision` to score its structure"
    );
    let windows = prepared.windows(Split::Test, arguments.tokens)?;
    steps.show("running the full model", 0, 1);
    let evaluator = Evaluator::new(&prepared.supernet, &windows)?;
    steps.show("scoring", 0, 1);
    let cut = prepared.supernet.cut(&subnet)?;
    let quality = match arguments.task {
        Task::Perplexity => evaluator.perplexity(&cut),
        Task::Kl => evaluator.perplexity_and_kl(&cut),
    };
    steps.finish();
    let parameters = subnet.parameters(prepared.model());
    if arguments.json {
        return print_json(&json!({
            "perplexity": quality.perplexity(),
            "negative_log_likelihood": quality.negative_log_likelihood,
            "standard_error": quality.standard_error,
            "kl_divergence": quality.kl_divergence,
            "tokens": quality.tokens,
            "parameters": parameters,
        }));
    }
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
    Ok(())
}
