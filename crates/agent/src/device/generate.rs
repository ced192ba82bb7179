use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use lathe_agent::{GenerateJob, Generated};
use ort::session::Session;
use ort::value::DynValue;

use super::Runtime;
use super::inputs::{self, Sizes};
use super::session;

/// Most tokens of a prompt and its continuation.
const MAX_TOKENS: usize = 1 << 20;

/// A KV cache entry: the input's name and its value.
type Past = Vec<(String, DynValue)>;

pub fn generate(runtime: &Runtime, id: u64, job: &GenerateJob) -> anyhow::Result<Generated> {
    ensure!(!job.prompt.is_empty(), "the prompt is empty");
    ensure!(
        job.prompt.len().saturating_add(job.max_new_tokens) <= MAX_TOKENS,
        "more than {MAX_TOKENS} tokens"
    );
    let mut session = session::load(runtime, &job.model, &job.session)?;
    let mut logits_file = match &job.logits {
        Some(path) => Some(BufWriter::new(
            File::create(path).with_context(|| format!("{}", path.display()))?,
        )),
        None => None,
    };
    let mut past = empty_past(&session)?;
    let mut generated = Generated {
        id,
        tokens: Vec::new(),
        prefill_ns: 0,
        steps_ns: Vec::new(),
        logits_rows: 0,
    };
    let (mut next, mut past_len) = (job.prompt.clone(), 0);
    while generated.tokens.len() < job.max_new_tokens {
        let clock = Instant::now();
        let step = step(&mut session, &next, past_len, past)?;
        let elapsed = clock.elapsed().as_nanos() as u64;
        match past_len {
            0 => generated.prefill_ns = elapsed,
            _ => generated.steps_ns.push(elapsed),
        }
        if let Some(file) = &mut logits_file {
            for value in &step.logits {
                file.write_all(&value.to_le_bytes())?;
            }
            generated.logits_rows += step.logits.len() / step.vocab_size;
        }
        let last = &step.logits[step.logits.len() - step.vocab_size..];
        generated.tokens.push(largest(last));
        past = step.present;
        past_len += next.len();
        next = vec![largest(last)];
    }
    if let Some(mut file) = logits_file {
        file.flush()?;
    }
    Ok(generated)
}

struct Step {
    /// Rows of logits, the last one for the last token.
    logits: Vec<f32>,
    vocab_size: usize,
    present: Past,
}

fn step(
    session: &mut Session,
    tokens: &[i64],
    past_len: usize,
    past: Past,
) -> anyhow::Result<Step> {
    let total = past_len + tokens.len();
    let mut inputs = past;
    let caches: Vec<String> = inputs.iter().map(|(name, _)| name.clone()).collect();
    let ids = inputs::integers(&[1, tokens.len() as i64], tokens.to_vec())?;
    inputs.push(("input_ids".to_owned(), ids));
    let mask = inputs::integers(&[1, total as i64], vec![1; total])?;
    inputs.push(("attention_mask".to_owned(), mask));
    let mut outputs = session.run(inputs)?;
    let logits = outputs
        .remove("logits")
        .context("the model has no `logits`")?;
    let (shape, values) = logits.try_extract_tensor::<f32>()?;
    let vocab_size = shape.last().copied().unwrap_or(0) as usize;
    if vocab_size == 0 || values.is_empty() {
        bail!("the model's logits are empty");
    }
    let values = values.to_vec();
    let present = caches.into_iter().map(|name| {
        let output = name.replacen("past_key_values", "present", 1);
        let value = outputs.remove(&output);
        let value = value.with_context(|| format!("the model has no output `{output}`"))?;
        Ok((name, value))
    });
    Ok(Step {
        logits: values,
        vocab_size,
        present: present.collect::<anyhow::Result<_>>()?,
    })
}

/// Caches of length 0 for every layer that has one.
fn empty_past(session: &Session) -> anyhow::Result<Past> {
    let sizes = Sizes {
        batch: 1,
        new_tokens: 0,
        past_tokens: 0,
    };
    let caches = session.inputs().iter();
    let caches = caches.filter(|input| input.name().starts_with(inputs::PAST));
    caches
        .map(|input| {
            let (_, shape) = inputs::shape(input.dtype(), sizes)?;
            Ok((input.name().to_owned(), inputs::floats(&shape, Vec::new())?))
        })
        .collect()
}

/// Index of the largest value; the first of equals.
fn largest(values: &[f32]) -> i64 {
    let best = (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best });
    best.map_or(0, |index| index as i64)
}
