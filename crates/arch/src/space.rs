use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    ArchError, AttentionConfig, BlockShape, HeadConfig, LayerConfig, MlpConfig, ModelConfig,
};
use crate::{Precision, SUBNET_VERSION, SubnetConfig};

/// What a pair of genes decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// The blocks of one layer.
    #[default]
    Layer,
    /// The blocks of all layers, which are alike.
    Uniform,
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "layer" => Ok(Self::Layer),
            "uniform" => Ok(Self::Uniform),
            other => Err(format!("`{other}`: expected layer or uniform")),
        }
    }
}

/// A search space as written in a model's YAML: the same choices for every layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceSpec {
    /// Numbers of KV groups kept; 0 removes the block.
    pub kv_heads: Vec<usize>,
    /// Numbers of query heads kept in each group; all of them where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads_per_group: Vec<usize>,
    /// Numbers of MLP neurons kept; 0 removes the block.
    pub intermediate_size: Vec<usize>,
    /// Precisions of a block's weights and of both ends, from the fewest bits to the most; f32
    /// where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precision: Vec<Precision>,
    /// Whether each layer is chosen by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub granularity: Granularity,
}

fn is_default(granularity: &Granularity) -> bool {
    *granularity == Granularity::default()
}

impl SpaceSpec {
    /// Every number of KV groups, and MLP widths in eight equal steps of a multiple of 8.
    pub fn standard(model: &ModelConfig) -> Self {
        let step = (model.intermediate_size.div_ceil(8)).next_multiple_of(8);
        let widths = (0..).map(|i| i * step);
        Self {
            kv_heads: (0..=model.num_key_value_heads).collect(),
            heads_per_group: Vec::new(),
            precision: Vec::new(),
            granularity: Granularity::Layer,
            intermediate_size: widths
                .take_while(|width| *width < model.intermediate_size)
                .chain([model.intermediate_size])
                .collect(),
        }
    }
}

/// The choices for every block, each list from the smallest to the full block; of one size, from
/// the fewest bits to the most.
///
/// A genome holds two indices a layer, attention and then MLP, or two for all layers where these
/// are alike. Where there is more than one precision, a last index is that of the embedding and
/// the LM head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSpace {
    model_name: String,
    attention: Vec<Option<AttentionConfig>>,
    mlp: Vec<Option<MlpConfig>>,
    precisions: Vec<Precision>,
    layers: usize,
    granularity: Granularity,
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
        let all_heads = vec![model.heads_per_group()];
        let heads_per_group = or_default(&spec.heads_per_group, all_heads);
        check_choices("heads_per_group", &heads_per_group, model.heads_per_group())?;
        check_present("heads_per_group", &heads_per_group)?;
        let precisions = or_default(&spec.precision, vec![Precision::F32]);
        if let Some(pair) = precisions.windows(2).find(|p| p[0].bits() >= p[1].bits()) {
            return Err(ArchError::Space {
                field: "precision",
                reason: format!(
                    "bits must rise strictly, found {} before {}",
                    pair[0], pair[1]
                ),
            });
        }
        let in_precisions = || precisions.iter().copied();
        let attention = spec.kv_heads.iter().flat_map(|&kv_heads| {
            let sizes = heads_per_group.iter().map(move |heads| heads * kv_heads);
            let blocks = sizes.flat_map(move |heads| {
                in_precisions().map(move |precision| AttentionConfig {
                    heads,
                    kv_heads,
                    precision,
                })
            });
            or_removed(kv_heads, blocks.collect())
        });
        let mlp = spec.intermediate_size.iter().flat_map(|&width| {
            let blocks = in_precisions().map(|precision| MlpConfig {
                intermediate_size: width,
                precision,
            });
            or_removed(width, blocks.collect())
        });
        Ok(Self {
            model_name: name.to_owned(),
            attention: attention.collect(),
            mlp: mlp.collect(),
            layers: model.num_hidden_layers,
            precisions,
            granularity: spec.granularity,
        })
    }

    /// Number of choices of each gene.
    pub fn cardinalities(&self) -> Vec<usize> {
        let layer = [self.attention.len(), self.mlp.len()];
        let head = self.has_head_gene().then_some(self.precisions.len());
        let pairs = layer.repeat(self.gene_pairs());
        pairs.into_iter().chain(head).collect()
    }

    /// Pairs of genes, attention and MLP: one a layer, or one for all.
    pub fn gene_pairs(&self) -> usize {
        match self.granularity {
            Granularity::Layer => self.layers,
            Granularity::Uniform => 1,
        }
    }

    /// The layers that the pair of genes `pair` decides.
    pub fn layers_of(&self, pair: usize) -> Range<usize> {
        match self.granularity {
            Granularity::Layer => pair..pair + 1,
            Granularity::Uniform => 0..self.layers,
        }
    }

    /// Precisions of blocks and ends, from the fewest bits to the most.
    pub fn precisions(&self) -> &[Precision] {
        &self.precisions
    }

    fn has_head_gene(&self) -> bool {
        self.precisions.len() > 1
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
        let counts = self.cardinalities().into_iter();
        counts.map(|count| count - 1).collect()
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
        let expected = 2 * self.gene_pairs() + usize::from(self.has_head_gene());
        if genome.len() != expected {
            return Err(wrong(format!(
                "{} genes, expected {expected}",
                genome.len()
            )));
        }
        let layers = |(pair, genes): (usize, &[usize])| {
            let choice = |gene: usize, choices: usize| {
                let reason = || format!("layer {pair}: choice {gene} of {choices}");
                (gene < choices)
                    .then_some(gene)
                    .ok_or_else(|| wrong(reason()))
            };
            let layer = LayerConfig {
                attention: self.attention[choice(genes[0], self.attention.len())?],
                mlp: self.mlp[choice(genes[1], self.mlp.len())?],
            };
            Ok(vec![layer; self.layers_of(pair).len()])
        };
        let (blocks, head) = genome.split_at(2 * self.gene_pairs());
        let head = head.first().copied().unwrap_or(0);
        let head_precision = self.precisions.get(head);
        Ok(SubnetConfig {
            version: SUBNET_VERSION,
            model: self.model_name.clone(),
            head_precision: *head_precision
                .ok_or_else(|| wrong(format!("choice {head} of the LM head's precisions")))?,
            layers: blocks
                .chunks_exact(2)
                .enumerate()
                .map(layers)
                .collect::<Result<Vec<_>, ArchError>>()?
                .concat(),
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
        let mut genome = Vec::with_capacity(2 * self.layers + 1);
        let head = self
            .precisions
            .iter()
            .position(|precision| *precision == subnet.head_precision)
            .ok_or_else(|| ArchError::NotInSpace {
                layer: self.layers,
                block: format!("an LM head in {}", subnet.head_precision),
            })?;
        for (layer, blocks) in subnet.layers.iter().enumerate() {
            let missing = |block: Option<BlockShape>| ArchError::NotInSpace {
                layer,
                block: block.map_or_else(|| "a removed block".to_owned(), |b| b.to_string()),
            };
            let attention = self.attention.iter().position(|a| *a == blocks.attention);
            let mlp = self.mlp.iter().position(|m| *m == blocks.mlp);
            let attention =
                attention.ok_or_else(|| missing(blocks.attention.map(BlockShape::Attention)))?;
            let mlp = mlp.ok_or_else(|| missing(blocks.mlp.map(BlockShape::Mlp)))?;
            if layer < self.gene_pairs() {
                genome.extend([attention, mlp]);
            } else if genome[..2] != [attention, mlp] {
                return Err(ArchError::NotInSpace {
                    layer,
                    block: "a layer unlike the first".to_owned(),
                });
            }
        }
        genome.extend(self.has_head_gene().then_some(head));
        Ok(genome)
    }

    /// The distinct blocks that must be priced, both ends first.
    pub fn shapes(&self) -> Vec<BlockShape> {
        let attention = self.attention.iter().flatten().copied();
        let mlp = self.mlp.iter().flatten().copied();
        let heads = self.precisions.iter().map(|&precision| {
            BlockShape::EmbeddingAndHead(HeadConfig {
                precision,
                ..HeadConfig::default()
            })
        });
        heads
            .chain(attention.map(BlockShape::Attention))
            .chain(mlp.map(BlockShape::Mlp))
            .collect()
    }
}

/// `choices`, or `default` where none are given.
fn or_default<T: Clone>(choices: &[T], default: Vec<T>) -> Vec<T> {
    if choices.is_empty() {
        default
    } else {
        choices.to_vec()
    }
}

/// The blocks of a size, or for size 0 the removed block.
fn or_removed<T>(size: usize, blocks: Vec<T>) -> Vec<Option<T>> {
    if size == 0 {
        vec![None]
    } else {
        blocks.into_iter().map(Some).collect()
    }
}

fn check_present(field: &'static str, choices: &[usize]) -> Result<(), ArchError> {
    if choices.first() == Some(&0) {
        let reason = "0 is no choice here; 0 in kv_heads removes the block".to_owned();
        return Err(ArchError::Space { field, reason });
    }
    Ok(())
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
                ..SpaceSpec::standard(&model)
            };
            let message = SearchSpace::new(&model, "m", &spec)
                .unwrap_err()
                .to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    #[test]
    fn uniform_layers_share_their_genes() {
        let model = ModelConfig::smollm2_135m();
        let spec = SpaceSpec {
            granularity: Granularity::Uniform,
            ..SpaceSpec::standard(&model)
        };
        let space = SearchSpace::new(&model, "m", &spec).unwrap();
        assert_eq!(space.cardinalities(), [4, 9]);
        let mut subnet = space.decode(&[2, 5]).unwrap();
        assert_eq!(subnet.layers, vec![subnet.layers[0].clone(); 30]);
        assert_eq!(subnet.layers[29].attention.unwrap().kv_heads, 2);
        assert_eq!(space.encode(&subnet).unwrap(), [2, 5]);
        subnet.layers[7].mlp = None;
        let message = space.encode(&subnet).unwrap_err().to_string();
        assert!(message.contains('7'), "{message}");
        assert_eq!(
            space.decode(&space.full_genome()).unwrap(),
            SubnetConfig::full(&model).named("m")
        );
    }

    #[test]
    fn precisions_and_query_heads_are_choices() {
        let model = ModelConfig::smollm2_135m();
        let spec = SpaceSpec {
            heads_per_group: vec![1, 3],
            precision: vec![Precision::Int4, Precision::F32],
            ..SpaceSpec::standard(&model)
        };
        let space = SearchSpace::new(&model, "m", &spec).unwrap();
        // Removed, and 3 numbers of groups x 2 of heads x 2 precisions.
        assert_eq!(space.attention().len(), 1 + 12);
        assert_eq!(space.mlp().len(), 1 + 16);
        let full = space.decode(&space.full_genome()).unwrap();
        assert_eq!(full, SubnetConfig::full(&model).named("m"));
        let mut genome = space.full_genome();
        (genome[0], genome[1]) = (1, 15);
        *genome.last_mut().unwrap() = 0;
        let subnet = space.decode(&genome).unwrap();
        let attention = subnet.layers[0].attention.unwrap();
        assert_eq!((attention.heads, attention.kv_heads), (1, 1));
        assert_eq!(attention.precision, Precision::Int4);
        assert_eq!(subnet.layers[0].mlp.unwrap().precision, Precision::Int4);
        assert_eq!(subnet.head_precision, Precision::Int4);
        assert_eq!(space.encode(&subnet).unwrap(), genome);
        for (heads, precision, field) in [
            (vec![0, 3], vec![], "heads_per_group"),
            (vec![2], vec![], "heads_per_group"),
            (vec![], vec![Precision::F32, Precision::Int8], "precision"),
        ] {
            let spec = SpaceSpec {
                heads_per_group: heads,
                precision,
                ..SpaceSpec::standard(&model)
            };
            let error = SearchSpace::new(&model, "m", &spec).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
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
