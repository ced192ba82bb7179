use crate::Precision;

/// What can be wrong with a model, a sub-network, a space or a workload.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ArchError {
    /// A field of the model has a value that no model of this kind can have.
    #[error("model field `{field}` is {value}: {reason}")]
    Model {
        /// Name of the field, as in config.json.
        field: &'static str,
        /// The offending value.
        value: String,
        /// What a right value looks like.
        reason: &'static str,
    },
    /// A word that is no precision.
    #[error("`{text}` is no precision: expected one of {}", Precision::ALL.map(Precision::name).join(", "))]
    Precision {
        /// What was given.
        text: String,
    },
    /// The sub-network was written for another version of the format.
    #[error(
        "subnet field `version` is {found}, this program reads version {expected}: write the file anew with this program"
    )]
    SubnetVersion {
        /// Version found in the file.
        found: u32,
        /// Version this program reads.
        expected: u32,
    },
    /// The sub-network has another number of layers than the model.
    #[error(
        "subnet has {found} entries in `layers`, the model has {expected} layers: a removed layer is written as `attention: none` and `mlp: none`"
    )]
    LayerCount {
        /// Layers in the sub-network.
        found: usize,
        /// Layers in the model.
        expected: usize,
    },
    /// A block of the sub-network does not fit the model.
    #[error("subnet field `layers[{layer}].{field}` is {value}: {reason}")]
    Block {
        /// Layer index, from 0.
        layer: usize,
        /// Field below the layer.
        field: &'static str,
        /// The offending value.
        value: usize,
        /// What a right value looks like.
        reason: String,
    },
    /// A list of choices in the search space is unusable.
    #[error("search space field `{field}`: {reason}")]
    Space {
        /// Field of the space.
        field: &'static str,
        /// What is wrong and what a right value looks like.
        reason: String,
    },
    /// A sub-network lies outside the search space.
    #[error("layer {layer}: {block} is not among the choices of the search space")]
    NotInSpace {
        /// Layer index, from 0.
        layer: usize,
        /// The block in words.
        block: String,
    },
    /// A workload could not be read.
    #[error("workload `{text}`: {reason}")]
    Workload {
        /// The text as given.
        text: String,
        /// What a right value looks like.
        reason: &'static str,
    },
}
