//! Files that people write, and tables.

use std::path::Path;

use lathe_arch::{ModelConfig, SearchSpace, SubnetConfig, Workload};
use lathe_compress::read_subnet;
use lathe_fetch::ModelSpec;
use lathe_latency::LatencyTable;
use lathe_profiler::DeviceSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::written;

/// A device's description.
pub fn device(input: &[u8]) {
    let path = written("device.yaml", input);
    if let Ok(device) = DeviceSpec::load(&path) {
        assert!(device.threads.is_none_or(|threads| threads > 0));
        reads_back(&device);
    }
}

/// A model's description, and the search space in it.
pub fn model(input: &[u8]) {
    let path = written("model.yaml", input);
    let Ok(spec) = ModelSpec::load(&path) else {
        return;
    };
    reads_back(&spec);
    let space = spec
        .search_space
        .map(|choices| SearchSpace::new(&tiny(), &spec.name, &choices));
    if let Some(Ok(space)) = space {
        let full = space.full_genome();
        let subnet = space.decode(&full).expect("the full model is in the space");
        assert_eq!(space.encode(&subnet).expect("a choice has a genome"), full);
    }
}

/// A sub-network.
pub fn subnet(input: &[u8]) {
    let path = written("subnet.yaml", input);
    let model = tiny();
    if let Ok(stored) = read_subnet(&path, &model) {
        let subnet = stored.config;
        let full = SubnetConfig::full(&model);
        assert!(subnet.parameters(&model) <= full.parameters(&model));
        assert!(subnet.weight_bytes(&model) > 0);
        reads_back(&subnet);
    }
}

/// A latency table: what was accepted predicts, and is the same when it was written and read.
pub fn table(input: &[u8]) {
    let path = written("table.yaml", input);
    let Ok(table) = LatencyTable::load(&path) else {
        return;
    };
    let model = &table.model.dimensions;
    for workload in ["1+1", "32+8", "128+64"] {
        let workload: Workload = workload.parse().expect("a workload");
        if model.num_hidden_layers > 1000 {
            break;
        }
        let full = SubnetConfig::full(model);
        let _maybe_outside = table.predict(&full, &workload);
        for memory in &table.memory {
            let _maybe_other = table.predict_peak_memory_bytes(
                &full.clone().with_precision(memory.precision),
                &workload,
            );
        }
    }
    let again = path.with_file_name("again.yaml");
    table.save(&again).expect("a sound table can be written");
    let read = LatencyTable::load(&again).expect("what was written can be read");
    assert!(
        read == table,
        "the table is another after writing and reading"
    );
}

/// Whether a value survives its own YAML.
fn reads_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let text = serde_yaml::to_string(value).expect("it is YAML");
    let again: T = serde_yaml::from_str(&text).expect("what was read can be read again");
    assert_eq!(&again, value);
}

fn tiny() -> ModelConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-llama");
    lathe_supernet::checkpoint::read_config(&folder).expect("the fixture is sound")
}
