use lathe_compress::Narrowing;
use lathe_fetch::{Cache, ModelSpec};

use super::print_json;
use crate::arguments::Narrow;
use crate::progress::Steps;

pub fn run(arguments: &Narrow) -> anyhow::Result<()> {
    let mut steps = Steps::new();
    let narrowing = Narrowing {
        model: &ModelSpec::find(&arguments.model)?,
        cache: &Cache::from_env()?,
        text: arguments.text.as_deref(),
        hidden_size: arguments.hidden_size,
        calibration_tokens: arguments.calibration_tokens,
        test_tokens: arguments.tokens,
        folder: &arguments.out,
    };
    let narrowed = narrowing.run(&mut |label, done, total| steps.show(label, done, total))?;
    steps.finish();
    if arguments.json {
        return print_json(&narrowed);
    }
    let [full, narrow] = narrowed.hidden_size;
    let [of_full, of_narrow] = narrowed.parameters.map(|count| count as f64 / 1e6);
    let [before, after] = narrowed.perplexity;
    println!(
        "hidden_size {full} -> {narrow}, {of_full:.1} -> {of_narrow:.1} M parameters, perplexity {before:.2} -> {after:.2} on {} tokens",
        arguments.tokens
    );
    println!("wrote {}: name it with --model", arguments.out.display());
    if !narrow.is_multiple_of(narrowed.num_attention_heads) {
        println!(
            "note: transformers 5 refuses a hidden_size that is no multiple of the {} attention heads; Lathe does not",
            narrowed.num_attention_heads
        );
    }
    Ok(())
}
