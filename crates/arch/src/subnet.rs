use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ArchError, BlockShape, HeadConfig, LogitRows, ModelConfig, Precision};

/// Version of the sub-network format that this program reads and writes.
pub const SUBNET_VERSION: u32 = 1;

/// One choice for every block of a model.
///
/// Which units a choice keeps is decided by the importance order of the super-network: the
/// first `kv_heads` groups, the first `heads / kv_heads` query heads of each, the first
/// `intermediate_size` neurons. In YAML a removed block is written `none`:
///
/// ```
/// let yaml = "
/// version: 1
/// model: tiny
/// layers:
/// - attention: {heads: 9, kv_heads: 3}
///   mlp: none
/// ";
/// let subnet: lathe_arch::SubnetConfig = serde_yaml::from_str(yaml)?;
/// assert!(subnet.layers[0].mlp.is_none());
/// # Ok::<(), serde_yaml::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetConfig {
    /// Version of the format, [`SUBNET_VERSION`].
    pub version: u32,
    /// Name of the model it was cut from.
    pub model: String,
    /// Precision of the embedding and the LM head.
    #[serde(default, skip_serializing_if = "is_f32")]
    pub head_precision: Precision,
    /// The blocks of each layer, from the embedding to the head.
    pub layers: Vec<LayerConfig>,
}

/// The two blocks of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// The attention block, or `none`.
    #[serde(with = "none_or")]
    pub attention: Option<AttentionConfig>,
    /// The MLP block, or `none`.
    #[serde(with = "none_or")]
    pub mlp: Option<MlpConfig>,
}

/// An attention block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// KV groups.
    pub kv_heads: usize,
    /// Precision of the weights.
    #[serde(default)]
    pub precision: Precision,
}

/// An MLP block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Number of neurons.
    pub intermediate_size: usize,
    /// Precision of the weights.
    #[serde(default)]
    pub precision: Precision,
}

impl AttentionConfig {
    /// The attention block of the full model.
    pub fn full(model: &ModelConfig) -> Self {
        Self::with_groups(model, model.num_key_value_heads)
    }

    /// `kv_heads` whole KV groups with all their query heads.
    pub fn with_groups(model: &ModelConfig, kv_heads: usize) -> Self {
        Self {
            heads: kv_heads * model.heads_per_group(),
            kv_heads,
            precision: Precision::F32,
        }
    }

    /// Query heads that share one KV head.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl MlpConfig {
    /// The MLP block of the full model.
    pub fn full(model: &ModelConfig) -> Self {
        Self::with_width(model.intermediate_size)
    }

    /// An MLP of `intermediate_size` neurons.
    pub fn with_width(intermediate_size: usize) -> Self {
        Self {
            intermediate_size,
            precision: Precision::F32,
        }
    }
}

impl SubnetConfig {
    /// Layers of which a block is left.
    pub fn depth(&self) -> usize {
        let layers = self.layers.iter();
        layers
            .filter(|layer| layer.attention.is_some() || layer.mlp.is_some())
            .count()
    }

    /// The full model as a sub-network of itself.
    pub fn full(model: &ModelConfig) -> Self {
        Self::uniform(
            model,
            Some(AttentionConfig::full(model)),
            Some(MlpConfig::full(model)),
        )
    }

    /// The same two blocks in every layer.
    pub fn uniform(
        model: &ModelConfig,
        attention: Option<AttentionConfig>,
        mlp: Option<MlpConfig>,
    ) -> Self {
        Self {
            version: SUBNET_VERSION,
            model: String::new(),
            head_precision: Precision::F32,
            layers: vec![LayerConfig { attention, mlp }; model.num_hidden_layers],
        }
    }

    /// The same sub-network with the name of its model.
    pub fn named(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    /// The same sub-network with all weights in one precision.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.head_precision = precision;
        for layer in &mut self.layers {
            if let Some(attention) = &mut layer.attention {
                attention.precision = precision;
            }
            if let Some(mlp) = &mut layer.mlp {
                mlp.precision = precision;
            }
        }
        self
    }

    /// The precision of all weights, when it is one.
    pub fn common_precision(&self) -> Option<Precision> {
        let head = self.head_precision;
        self.blocks()
            .all(|block| block.precision() == head)
            .then_some(head)
    }

    /// The two ends of the network.
    pub fn head(&self, logit_rows: LogitRows) -> BlockShape {
        BlockShape::EmbeddingAndHead(HeadConfig {
            precision: self.head_precision,
            logit_rows,
        })
    }

    /// Checks that every block fits the model.
    ///
    /// # Errors
    /// Names the first layer and field that does not fit.
    pub fn check(&self, model: &ModelConfig) -> Result<(), ArchError> {
        if self.version != SUBNET_VERSION {
            return Err(ArchError::SubnetVersion {
                found: self.version,
                expected: SUBNET_VERSION,
            });
        }
        if self.layers.len() != model.num_hidden_layers {
            return Err(ArchError::LayerCount {
                found: self.layers.len(),
                expected: model.num_hidden_layers,
            });
        }
        for (layer, blocks) in self.layers.iter().enumerate() {
            if let Some(attention) = &blocks.attention {
                check_attention(layer, attention, model)?;
            }
            if let Some(mlp) = &blocks.mlp {
                check_mlp(layer, mlp, model)?;
            }
        }
        Ok(())
    }

    /// The blocks in the order in which they run, layer by layer.
    pub fn blocks(&self) -> impl Iterator<Item = BlockShape> + '_ {
        self.layers.iter().flat_map(|layer| {
            let attention = layer.attention.map(BlockShape::Attention);
            let mlp = layer.mlp.map(BlockShape::Mlp);
            attention.into_iter().chain(mlp)
        })
    }
}

fn check_attention(
    layer: usize,
    attention: &AttentionConfig,
    model: &ModelConfig,
) -> Result<(), ArchError> {
    let wrong = |field, value, reason| ArchError::Block {
        layer,
        field,
        value,
        reason,
    };
    let (heads, kv_heads) = (attention.heads, attention.kv_heads);
    let groups = model.num_key_value_heads;
    if !(1..=groups).contains(&kv_heads) {
        return Err(wrong(
            "attention.kv_heads",
            kv_heads,
            format!("the model has {groups} KV heads; write `attention: none` to remove the block"),
        ));
    }
    let per_group = model.heads_per_group();
    if heads == 0 || !heads.is_multiple_of(kv_heads) || heads / kv_heads > per_group {
        return Err(wrong(
            "attention.heads",
            heads,
            format!("expected 1 to {per_group} query heads for each of the {kv_heads} KV heads"),
        ));
    }
    Ok(())
}

fn check_mlp(layer: usize, mlp: &MlpConfig, model: &ModelConfig) -> Result<(), ArchError> {
    if (1..=model.intermediate_size).contains(&mlp.intermediate_size) {
        return Ok(());
    }
    Err(ArchError::Block {
        layer,
        field: "mlp.intermediate_size",
        value: mlp.intermediate_size,
        reason: format!(
            "expected 1 to {}; write `mlp: none` to remove the block",
            model.intermediate_size
        ),
    })
}

fn is_f32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// `none` or a mapping, so that a removed block is a word and not an absent line.
mod none_or {
    use std::{fmt, marker::PhantomData};

    use super::*;

    pub fn serialize<T: Serialize, S: Serializer>(
        block: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match block {
            Some(block) => block.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(NoneOr(PhantomData))
    }

    struct NoneOr<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for NoneOr<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "`none` or the block's dimensions")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "none" => Ok(None),
                other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_round_trips() {
        let model = ModelConfig::smollm2_135m();
        let mut subnet = SubnetConfig::full(&model).named("smollm2-135m");
        subnet.layers[3].attention = None;
        subnet.layers[7].mlp = None;
        let yaml = serde_yaml::to_string(&subnet).unwrap();
        assert!(yaml.contains("attention: none"), "{yaml}");
        assert_eq!(serde_yaml::from_str::<SubnetConfig>(&yaml).unwrap(), subnet);
        let json = serde_json::to_string(&subnet).unwrap();
        assert_eq!(serde_json::from_str::<SubnetConfig>(&json).unwrap(), subnet);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let model = ModelConfig::smollm2_135m();
        let full = SubnetConfig::full(&model);
        let broken = |change: fn(&mut SubnetConfig)| {
            let mut subnet = full.clone();
            change(&mut subnet);
            subnet.check(&model).unwrap_err().to_string()
        };
        let message = broken(|s| s.layers[2].mlp.as_mut().unwrap().intermediate_size = 1537);
        assert!(
            message.contains("layers[2].mlp.intermediate_size"),
            "{message}"
        );
        let message = broken(|s| s.layers[4].attention.as_mut().unwrap().heads = 8);
        assert!(message.contains("layers[4].attention.heads"), "{message}");
        let message = broken(|s| s.layers[4].attention.as_mut().unwrap().kv_heads = 0);
        assert!(
            message.contains("layers[4].attention.kv_heads"),
            "{message}"
        );
        let message = broken(|s| s.layers.truncate(3));
        assert!(message.contains("3 entries"), "{message}");
        let message = broken(|s| s.version = 9);
        assert!(message.contains("version"), "{message}");
    }

    #[test]
    fn unknown_fields_and_words_are_refused() {
        for text in [
            "version: 1\nmodel: m\nlayers:\n- {attention: nil, mlp: none}\n",
            "version: 1\nmodel: m\nlayers:\n- {attention: none, mlp: {width: 3}}\n",
            "version: 1\nmodel: m\nlayers:\n- {attention: none}\n",
            "version: 1\nmodel: m\nlayers: []\nextra: 1\n",
        ] {
            assert!(
                serde_yaml::from_str::<SubnetConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
