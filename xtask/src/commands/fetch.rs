use std::collections::BTreeMap;
use std::path::PathBuf;

use lathe_fetch::{Cache, ModelSpec};

use super::print_json;
use crate::arguments::Fetch;

pub fn run(arguments: &Fetch) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut found: BTreeMap<&str, PathBuf> = BTreeMap::new();
    found.insert(
        "runtime",
        lathe_fetch::runtime(&cache, arguments.ort_lib.as_deref())?,
    );
    found.insert("model", ModelSpec::find(&arguments.model)?.fetch(&cache)?);
    let [wikipedia, web] = lathe_fetch::text(&cache)?;
    found.insert("text_wikipedia", wikipedia);
    found.insert("text_web", web);
    found.insert("mmlu", lathe_fetch::mmlu(&cache)?);
    if arguments.json {
        return print_json(&found);
    }
    for (name, path) in found {
        println!("{name:16} {}", path.display());
    }
    Ok(())
}
