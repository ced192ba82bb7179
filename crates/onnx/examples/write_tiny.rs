//! Writes tiny random networks and chains to a folder, to be looked at or run:
//! `cargo run -p lathe-onnx --example write_tiny -- FOLDER`

use std::error::Error;
use std::path::{Path, PathBuf};

use lathe_arch::{AttentionConfig, BlockShape, MlpConfig, ModelConfig, SubnetConfig};
use lathe_onnx::{
    Chain, LogitRows, Network, RandomWeights, chain_data_bytes, write_chain, write_network,
    write_random_data,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: write_tiny FOLDER")?);
    let mut model = ModelConfig {
        vocab_size: 97,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 6,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 16,
        max_position_embeddings: 64,
        ..ModelConfig::smollm2_135m()
    };
    for (tie, suffix) in [(true, "tied"), (false, "untied")] {
        model.tie_word_embeddings = tie;
        for (name, subnet) in subnets(&model) {
            for (rows, logits) in [(LogitRows::All, "all"), (LogitRows::Last, "last")] {
                let path = folder.join(format!("{name}-{suffix}-{logits}"));
                network(&path, &model, &subnet, rows)?;
            }
        }
    }
    chains(&folder.join("chains"), &model)
}

/// The full network, an uneven one, and one without blocks.
fn subnets(model: &ModelConfig) -> [(&'static str, SubnetConfig); 3] {
    let full = SubnetConfig::full(model).named("tiny");
    let mut uneven = full.clone();
    let heads = |heads, kv_heads| AttentionConfig {
        heads,
        kv_heads,
        ..AttentionConfig::full(model)
    };
    uneven.layers[0].attention = None;
    uneven.layers[1].attention = Some(heads(2, 2));
    uneven.layers[1].mlp = None;
    uneven.layers[2].attention = None;
    uneven.layers[2].mlp = None;
    uneven.layers[3].attention = Some(heads(2, 1));
    uneven.layers[3].mlp = Some(MlpConfig::with_width(33));
    uneven.layers[5].mlp = None;
    let frame = SubnetConfig::uniform(model, None, None).named("tiny");
    [("full", full), ("uneven", uneven), ("frame", frame)]
}

fn network(
    folder: &Path,
    model: &ModelConfig,
    subnet: &SubnetConfig,
    logit_rows: LogitRows,
) -> Result<(), Box<dyn Error>> {
    let weights = RandomWeights {
        model,
        subnet,
        seed: 1,
    };
    let network = Network {
        model,
        subnet,
        weights: &weights,
        logit_rows,
    };
    let written = write_network(folder, &network)?;
    println!("{} {written:?}", folder.display());
    Ok(())
}

fn chains(folder: &Path, model: &ModelConfig) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let blocks = [
        (
            "attention",
            BlockShape::Attention(AttentionConfig::full(model)),
        ),
        (
            "narrow-attention",
            BlockShape::Attention(AttentionConfig::with_groups(model, 1)),
        ),
        ("mlp", BlockShape::Mlp(MlpConfig::full(model))),
        ("narrow-mlp", BlockShape::Mlp(MlpConfig::with_width(33))),
    ];
    let mut bytes = 0;
    for (name, block) in blocks {
        for copies in [1, 3] {
            let chain = Chain {
                model,
                block,
                copies,
                positions: 64,
            };
            bytes = bytes.max(chain_data_bytes(&chain)?);
            let path = folder.join(format!("{name}-{copies}.onnx"));
            write_chain(&path, &chain, "weights.data")?;
        }
    }
    write_random_data(&folder.join("weights.data"), bytes, 1)?;
    Ok(())
}
