use std::collections::BTreeMap;
use std::path::PathBuf;

use lathe_fetch::{Cache, ModelSpec};

use super::print_json;
use crate::arguments::Fetch;

pub fn run(arguments: &Fetch) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut insert = |name: &str, path: PathBuf| {
        found.insert(name.to_owned(), path);
    };
    let runtime = lathe_fetch::runtime(&cache, arguments.ort_lib.as_deref())?;
    insert("runtime", runtime);
    for target in &arguments.target {
        let library = lathe_fetch::runtime_for(&cache, *target)?;
        insert(&format!("runtime_{target}"), library);
    }
    insert("model", ModelSpec::find(&arguments.model)?.fetch(&cache)?);
    for path in lathe_fetch::text(&cache)? {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        insert(&format!("text_{stem}"), path.clone());
    }
    insert("mmlu", lathe_fetch::mmlu(&cache)?);
    if arguments.json {
        return print_json(&found);
    }
    for (name, path) in found {
        println!("{name:16} {}", path.display());
    }
    Ok(())
}
