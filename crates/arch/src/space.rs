use serde::{Deserialize, Serialize};

use crate::{
    ArchError, AttentionConfig, BlockShape, HeadConfig, LayerConfig, MlpConfig, ModelConfig,
};
use crate::{Precision, SUBNET_VERSION, SubnetConfig};

/// A search space as written in a model's YAML: the same choices for every layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceSpec {
    /// Numbers of KV groups kept, each with all its query heads; 0 removes the block.
    pub kv_heads: Vec<usize>,
    /// Numbers of MLP neurons kept; 0 removes the block.
    pub intermediate_size: Vec<usize>,
}

impl SpaceSpec {
    /// Every number of KV groups, and MLP widths in eight equal steps of a multiple of 8.
    pub fn standard(model: &ModelConfig) -> Self {
        let step = (model.intermediate_size.div_ceil(8)).next_multiple_of(8);
        let widths = (0..).map(|i| i * step);
        Self {
            kv_heads: (0..=model.num_key_value_heads).collect(),
            intermediate_size: widths
                .take_while(|width| *width < model.intermediate_size)
                .chain([model.intermediate_size])
                .collect(),
        }
    }
}

/// The choices for every block, each list from the smallest to the full block.
///
/// A genome holds two indices a layer: attention, then MLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSpace {
    model_name: String,
    attention: Vec<Option<AttentionConfig>>,
    mlp: Vec<Option<MlpConfig>>,
    layers: usize,
}

impl SearchSpace {
    /// The space that `spec` describes for `model`.
    ///
    /// # Errors
    /// [`ArchError::Space`] when a list is empty, not strictly rising, beyond the model's size,
    /// or lacks the full block (the full model must be in every space).
    pub fn new(model: &ModelConfig, name: &str, spec: &SpaceSpec) -> Result<Self, ArchError> {
        check_choices("kv_heads", &spec.kv_heads, model.num_key_value_heads)?;
        check_choices(
            "intermediate_size",
            &spec.intermediate_size,
            model.intermediate_size,
        )?;
        let attention = spec
            .kv_heads
            .iter()
            .map(|&n| (n > 0).then(|| AttentionConfig::with_groups(model, n)));
        let mlp = spec
            .intermediate_size
            .iter()
            .map(|&n| (n > 0).then(|| MlpConfig::with_width(n)));
        Ok(Self {
            model_name: name.to_owned(),
            attention: attention.collect(),
            mlp: mlp.collect(),
            layers: model.num_hidden_layers,
        })
    }

    /// Number of choices of each gene.
    pub fn cardinalities(&self) -> Vec<usize> {
        [self.attention.len(), self.mlp.len()].repeat(self.layers)
    }

    /// Choices of an attention block.
    pub fn attention(&self) -> &[Option<AttentionConfig>] {
        &self.attention
    }

    /// Choices of an MLP block.
    pub fn mlp(&self) -> &[Option<MlpConfig>] {
        &self.mlp
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The genome of the full model.
    pub fn full_genome(&self) -> Vec<usize> {
        [self.attention.len() - 1, self.mlp.len() - 1].repeat(self.layers)
    }

    /// The sub-network of a genome.
    ///
    /// # Errors
    /// [`ArchError::Space`] when the genome has another length or an index out of range.
    pub fn decode(&self, genome: &[usize]) -> Result<SubnetConfig, ArchError> {
        let wrong = |reason: String| ArchError::Space {
            field: "genome",
            reason,
        };
        if genome.len() != 2 * self.layers {
            let expected = 2 * self.layers;
            return Err(wrong(format!(
                "{} genes, expected {expected}",
                genome.len()
            )));
        }
        let layer = |(index, genes): (usize, &[usize])| {
            let choice = |gene: usize, choices: usize| {
                let reason = || format!("layer {index}: choice {gene} of {choices}");
                (gene < choices)
                    .then_some(gene)
                    .ok_or_else(|| wrong(reason()))
            };
            Ok(LayerConfig {
                attention: self.attention[choice(genes[0], self.attention.len())?],
                mlp: self.mlp[choice(genes[1], self.mlp.len())?],
            })
        };
        Ok(SubnetConfig {
            version: SUBNET_VERSION,
            model: self.model_name.clone(),
            head_precision: Precision::F32,
            layers: genome
                .chunks_exact(2)
                .enumerate()
                .map(layer)
                .collect::<Result<_, ArchError>>()?,
        })
    }

    /// The genome of a sub-network.
    ///
    /// # Errors
    /// [`ArchError::NotInSpace`] names the first block that is not among the choices.
    pub fn encode(&self, subnet: &SubnetConfig) -> Result<Vec<usize>, ArchError> {
        if subnet.layers.len() != self.layers {
            return Err(ArchError::LayerCount {
                found: subnet.layers.len(),
                expected: self.layers,
            });
        }
        let mut genome = Vec::with_capacity(2 * self.layers);
        for (layer, blocks) in subnet.layers.iter().enumerate() {
            let missing = |block: Option<BlockShape>| ArchError::NotInSpace {
                layer,
                block: block.map_or_else(|| "a removed block".to_owned(), |b| b.to_string()),
            };
            let attention = self.attention.iter().position(|a| *a == blocks.attention);
            let mlp = self.mlp.iter().position(|m| *m == blocks.mlp);
            genome.push(
                attention.ok_or_else(|| missing(blocks.attention.map(BlockShape::Attention)))?,
            );
            genome.push(mlp.ok_or_else(|| missing(blocks.mlp.map(BlockShape::Mlp)))?);
        }
        Ok(genome)
    }

    /// The distinct blocks that must be priced, the embedding and head first.
    pub fn shapes(&self) -> Vec<BlockShape> {
        let attention = self.attention.iter().flatten().copied();
        let mlp = self.mlp.iter().flatten().copied();
        std::iter::once(BlockShape::EmbeddingAndHead(HeadConfig::default()))
            .chain(attention.map(BlockShape::Attention))
            .chain(mlp.map(BlockShape::Mlp))
            .collect()
    }
}

fn check_choices(field: &'static str, choices: &[usize], full: usize) -> Result<(), ArchError> {
    let wrong = |reason: String| Err(ArchError::Space { field, reason });
    if choices.last() != Some(&full) {
        return wrong(format!(
            "the last choice must be the full model's {full}, found {:?}",
            choices.last()
        ));
    }
    match choices.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => wrong(format!(
            "choices must rise strictly, found {} before {}",
            pair[0], pair[1]
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> SearchSpace {
        let model = ModelConfig::smollm2_135m();
        SearchSpace::new(&model, "smollm2-135m", &SpaceSpec::standard(&model)).unwrap()
    }

    #[test]
    fn standard_steps_cover_zero_to_full() {
        let spec = SpaceSpec::standard(&ModelConfig::smollm2_135m());
        assert_eq!(spec.kv_heads, [0, 1, 2, 3]);
        assert_eq!(
            spec.intermediate_size,
            [0, 192, 384, 576, 768, 960, 1152, 1344, 1536]
        );
    }

    #[test]
    fn the_full_genome_is_the_full_model() {
        let model = ModelConfig::smollm2_135m();
        let subnet = space().decode(&space().full_genome()).unwrap();
        assert_eq!(subnet, SubnetConfig::full(&model).named("smollm2-135m"));
    }

    #[test]
    fn wrong_choices_are_named() {
        let model = ModelConfig::smollm2_135m();
        for (kv_heads, widths, field) in [
            (vec![0, 1], vec![1536], "kv_heads"),
            (vec![3], vec![], "intermediate_size"),
            (vec![3], vec![64, 64, 1536], "intermediate_size"),
            (vec![3, 4], vec![1536], "kv_heads"),
        ] {
            let spec = SpaceSpec {
                kv_heads,
                intermediate_size: widths,
            };
            let message = SearchSpace::new(&model, "m", &spec)
                .unwrap_err()
                .to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    proptest! {
        #[test]
        fn genomes_round_trip(genome in prop::collection::vec(0usize..4, 60)) {
            let space = space();
            let subnet = space.decode(&genome).unwrap();
            prop_assert_eq!(space.encode(&subnet).unwrap(), genome);
            subnet.check(&ModelConfig::smollm2_135m()).unwrap();
        }

        #[test]
        fn bad_genomes_are_errors(genome in prop::collection::vec(0usize..20, 0..70)) {
            let space = space();
            let fits = genome.len() == 60
                && genome.chunks(2).all(|g| g[0] < 4 && g[1] < 9);
            prop_assert_eq!(space.decode(&genome).is_ok(), fits);
        }
    }
}
