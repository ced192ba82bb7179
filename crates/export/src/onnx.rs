use std::fs;
use std::io::Write;
use std::path::Path;

use lathe_onnx::{BlockKind, LogitRows, Network, TensorRole, WeightSource, write_network};
use lathe_supernet::checkpoint::Tokenizer;
use lathe_supernet::{LayerOrder, Subnet};
use serde::Serialize;

use crate::{ExportError, genai};

/// A sub-network's weights as the ONNX writer asks for them.
pub struct SubnetWeights<'a, 'b>(pub &'b Subnet<'a>);

impl WeightSource for SubnetWeights<'_, '_> {
    fn tensor(&self, role: TensorRole) -> Vec<f32> {
        let subnet = self.0;
        let block = match role {
            TensorRole::Embedding => return subnet.embed_tokens(),
            TensorRole::FinalNorm => return subnet.final_norm(),
            TensorRole::LmHead => return subnet.lm_head(),
            TensorRole::InputNorm(layer) => subnet.input_norm(layer),
            TensorRole::QkvProj(layer) => subnet.qkv_proj(layer),
            TensorRole::QkvBias(layer) => subnet.qkv_bias(layer),
            TensorRole::QueryNorm(layer) => subnet.query_norm(layer),
            TensorRole::KeyNorm(layer) => subnet.key_norm(layer),
            TensorRole::OProj(layer) => subnet.o_proj(layer),
            TensorRole::AttentionPostNorm(layer) => subnet.attention_post_norm(layer),
            TensorRole::MlpPostNorm(layer) => subnet.mlp_post_norm(layer),
            TensorRole::PostAttentionNorm(layer) => subnet.post_attention_norm(layer),
            TensorRole::GateProj(layer) => subnet.gate_proj(layer),
            TensorRole::UpProj(layer) => subnet.up_proj(layer),
            TensorRole::DownProj(layer) => subnet.down_proj(layer),
        };
        // The writer asks only for blocks that the configuration has; an empty answer would be
        // reported as a wrong length.
        block.unwrap_or_default()
    }

    fn output_bias(&self, layer: usize, block: BlockKind) -> Option<Vec<f32>> {
        match block {
            BlockKind::Attention => self.0.attention_bias(layer),
            BlockKind::Mlp => self.0.mlp_bias(layer),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Bytes of graph and weights.
    pub model_bytes: u64,
    /// Weights, gains and biases in the graph.
    pub parameters: u64,
}

/// The choices, whether the weights were corrected for drift or trained, and which of the checkpoint's
/// units they keep. Weights that were trained do not tell.
#[derive(Serialize)]
struct Manifest<'a> {
    #[serde(flatten)]
    subnet: &'a lathe_arch::SubnetConfig,
    drift_corrected: bool,
    trained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<Kept>>,
}

/// The checkpoint's units that one layer keeps, by their index in the checkpoint.
#[derive(Serialize)]
struct Kept {
    kv_heads: Vec<usize>,
    heads: Vec<usize>,
    neurons: Vec<usize>,
}

/// Writes a folder that onnxruntime-genai loads. `logit_rows` is [`LogitRows::Last`] for
/// generation; [`LogitRows::All`] serves scoring.
///
/// # Errors
/// When the disk does not take the files. What was there before under these names stays until
/// the new file is whole.
pub fn export_onnx(
    folder: &Path,
    subnet: &Subnet<'_>,
    tokenizer: Option<&Tokenizer>,
    logit_rows: LogitRows,
) -> Result<Exported, ExportError> {
    let model = subnet.supernet().model();
    let written = write_network(
        folder,
        &Network {
            model,
            subnet: subnet.config(),
            weights: &SubnetWeights(subnet),
            logit_rows,
        },
    )?;
    let config = genai::config(model, subnet.config(), tokenizer);
    write(&folder.join("genai_config.json"), &pretty(&config))?;
    if let Some(tokenizer) = tokenizer {
        write(&folder.join("tokenizer.json"), tokenizer.json())?;
        let config = tokenizer.config(model.max_position_embeddings);
        write(&folder.join("tokenizer_config.json"), &pretty(&config))?;
    }
    let layers = subnet.config().layers.iter();
    let kept = layers
        .zip(&subnet.supernet().order().layers)
        .map(|(layer, order)| kept(layer, order, model.heads_per_group()));
    let manifest = Manifest {
        subnet: subnet.config(),
        drift_corrected: subnet.is_corrected(),
        trained: subnet.is_trained(),
        kept: (!subnet.is_trained()).then(|| kept.collect()),
    };
    let manifest = serde_yaml::to_string(&manifest).unwrap_or_default();
    write(&folder.join("subnet.yaml"), &manifest)?;
    Ok(Exported {
        model_bytes: written.bytes,
        parameters: written.parameters,
    })
}

fn kept(layer: &lathe_arch::LayerConfig, order: &LayerOrder, heads_per_group: usize) -> Kept {
    let groups = layer.attention.map_or(0, |attention| attention.kv_heads);
    let heads = layer
        .attention
        .map_or(0, |attention| attention.heads_per_group());
    let neurons = layer.mlp.map_or(0, |mlp| mlp.intermediate_size);
    let kv_heads = order.kv_groups[..groups].to_vec();
    let in_group = kv_heads.iter().zip(&order.heads_in_group);
    Kept {
        heads: in_group
            .flat_map(|(group, order)| {
                order[..heads]
                    .iter()
                    .map(move |head| group * heads_per_group + head)
            })
            .collect(),
        kv_heads,
        neurons: order.neurons[..neurons].to_vec(),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Writes beside `path`, flushes to the disk, then takes the name.
fn write(path: &Path, text: &str) -> Result<(), ExportError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let run = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    run().map_err(|source| ExportError::Io {
        path: path.to_owned(),
        source,
    })
}
