use std::fs;

use lathe_arch::{ModelConfig, SubnetConfig};
use lathe_onnx::{
    BlockKind, DATA_FILE, LogitRows, MODEL_FILE, Network, OnnxError, TensorRole, WeightSource,
    write_network,
};

use crate::tiny::{self, external, graph, values};

#[test]
fn tensors_tile_the_data_file_in_order() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let data = fs::read(folder.path().join(DATA_FILE)).unwrap();
    let mut end = 0;
    for (name, offset, length) in external(graph(&written)) {
        assert_eq!(
            offset,
            end as u64 / 4096 * 4096 + if end % 4096 > 0 { 4096 } else { 0 }
        );
        assert!(data[end..offset as usize].iter().all(|byte| *byte == 0));
        end = (offset + length) as usize;
        assert!(length > 0, "{name}");
    }
    assert_eq!(end, data.len());
}

#[test]
fn values_lie_where_the_graph_says() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let written = tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let data = fs::read(folder.path().join(DATA_FILE)).unwrap();
    for (name, role) in [
        ("model.embed_tokens.weight", TensorRole::Embedding),
        (
            "model.layers.1.attn.qkv_proj.MatMul.weight",
            TensorRole::QkvProj(1),
        ),
        (
            "model.layers.3.input_layernorm.weight",
            TensorRole::InputNorm(3),
        ),
        (
            "model.layers.1.mlp.down_proj.MatMul.weight",
            TensorRole::DownProj(1),
        ),
        ("lm_head.MatMul.weight", TensorRole::LmHead),
    ] {
        let stored = values(graph(&written), &data, name);
        assert_eq!(stored, weights.tensor(role), "{name}");
    }
    let cos = values(graph(&written), &data, "cos_cache");
    let frequency = model.rope_frequencies()[1];
    // Position 5 of 8, the second of two frequencies.
    assert_eq!(cos.len(), 16);
    assert_eq!(cos[5 * 2 + 1], (5.0 * frequency).cos() as f32);
}

#[test]
fn writing_twice_gives_the_same_bytes() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let weights = tiny::weights(&model, &subnet);
    let [first, second] = [(); 2].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::All);
        [MODEL_FILE, DATA_FILE].map(|name| fs::read(folder.path().join(name)).unwrap())
    });
    assert_eq!(first, second);
}

#[test]
fn a_wrong_length_is_named_and_leaves_nothing_behind() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let short = Wrong {
        model: &model,
        subnet: &subnet,
        role: Some(TensorRole::UpProj(1)),
    };
    let error = write(folder.path(), &short).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, OnnxError::WeightLength { .. }));
    assert!(message.contains("UpProj(1): 83 values"), "{message}");
    assert!(message.contains("[12, 7]"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let bias = Wrong {
        role: None,
        ..short
    };
    let message = write(folder.path(), &bias).unwrap_err().to_string();
    assert!(message.contains("layer 0's Attention block"), "{message}");
    assert!(
        message.contains("11 values, hidden_size is 12"),
        "{message}"
    );
}

#[test]
fn a_failed_write_keeps_the_files_that_were_there() {
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let before = fs::read(folder.path().join(DATA_FILE)).unwrap();
    let wrong = Wrong {
        model: &model,
        subnet: &subnet,
        role: Some(TensorRole::LmHead),
    };
    write(folder.path(), &wrong).unwrap_err();
    assert_eq!(fs::read(folder.path().join(DATA_FILE)).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_does_not_fit_the_model_is_refused() {
    let model = tiny::model();
    let mut subnet = tiny::uneven(&model);
    subnet.layers[1].mlp.as_mut().unwrap().intermediate_size = 11;
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    let network = Network {
        model: &model,
        subnet: &subnet,
        weights: &weights,
        logit_rows: LogitRows::Last,
    };
    let message = write_network(folder.path(), &network)
        .unwrap_err()
        .to_string();
    assert!(message.contains("layers[1].mlp"), "{message}");
}

#[cfg(unix)]
#[test]
fn files_are_readable_like_any_other_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let model = tiny::model();
    let subnet = tiny::uneven(&model);
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(&model, &subnet);
    tiny::written(folder.path(), &model, &subnet, &weights, LogitRows::Last);
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(folder.path().join(DATA_FILE)), mode(plain));
}

fn write(folder: &std::path::Path, weights: &Wrong<'_>) -> Result<(), OnnxError> {
    let network = Network {
        model: weights.model,
        subnet: weights.subnet,
        weights,
        logit_rows: LogitRows::Last,
    };
    write_network(folder, &network).map(|_| ())
}

/// A source whose one tensor, or all of whose biases, lack a value.
struct Wrong<'a> {
    model: &'a ModelConfig,
    subnet: &'a SubnetConfig,
    role: Option<TensorRole>,
}

impl WeightSource for Wrong<'_> {
    fn tensor(&self, role: TensorRole) -> Vec<f32> {
        let mut values = tiny::weights(self.model, self.subnet).tensor(role);
        if self.role == Some(role) {
            values.pop();
        }
        values
    }

    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>> {
        let mut bias = tiny::weights(self.model, self.subnet).output_bias(layer, block)?;
        if self.role.is_none() {
            bias.pop();
        }
        Some(bias)
    }
}
