use lathe_export::export_onnx;
use lathe_fetch::Cache;
use lathe_onnx::LogitRows;

use super::print_json;
use crate::arguments::{Export, Format};
use crate::context;
use crate::progress::Steps;

pub fn run(arguments: &Export) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut steps = Steps::new();
    let (adapter, subnet) = (&arguments.adapter, arguments.subnet.as_deref());
    let mut network =
        context::prepare_network(&cache, &arguments.model, adapter, subnet, &mut steps)?;
    if let Some(precision) = arguments.precision {
        network.config = network.config.with_precision(precision);
    }
    let cut = network.cut(arguments.keep_drift, &mut steps)?;
    steps.show("writing", 0, 1);
    let exported = match arguments.format {
        Format::Onnx => export_onnx(
            &arguments.out,
            &cut,
            Some(&network.prepared.tokenizer),
            LogitRows::Last,
        )?,
    };
    steps.finish();
    if arguments.json {
        return print_json(&exported);
    }
    println!(
        "wrote {}: {:.1} M parameters, {:.0} MB",
        arguments.out.display(),
        exported.parameters as f64 / 1e6,
        exported.model_bytes as f64 / 1e6
    );
    Ok(())
}
