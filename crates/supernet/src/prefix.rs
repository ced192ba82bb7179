//! What was computed for earlier sub-networks and serves the next: the residual stream before each
//! layer, for as long as the layers are the same.

use std::collections::VecDeque;
use std::sync::Arc;

use lathe_arch::{LayerConfig, Precision, SubnetConfig};

use crate::absorption::absorbed_by;

/// Bytes of residual streams kept beside the full model's.
const RECENT_BYTES: usize = 512 << 20;
/// Sub-networks kept at most: more are searched for longer than they save.
const MOST_RECENT: usize = 32;

/// The residual stream of one batch, `[tokens, hidden]`.
pub(crate) type Stream = Arc<Vec<f32>>;

/// The streams of one sub-network.
#[derive(Clone)]
pub(crate) struct Trail {
    head_precision: Precision,
    layers: Vec<LayerConfig>,
    /// Before each layer, `[batches][layers]`. Streams of a common beginning are shared.
    pub streams: Vec<Vec<Stream>>,
}

impl Trail {
    /// The streams of `config`, one list a batch.
    pub fn new(config: &SubnetConfig, streams: Vec<Vec<Stream>>) -> Self {
        Self {
            head_precision: config.head_precision,
            layers: config.layers.clone(),
            streams,
        }
    }

    /// Layers at the beginning that are those of `config`, and stand in for the same blocks behind
    /// them.
    pub fn common_layers(&self, config: &SubnetConfig) -> usize {
        if self.head_precision != config.head_precision {
            return 0;
        }
        let (these, those) = (&self.layers, &config.layers);
        let is_same = |layer: &usize| {
            let blocks = [2 * layer, 2 * layer + 1];
            these[*layer] == those[*layer]
                && blocks.map(|at| absorbed_by(these, at))
                    == blocks.map(|at| absorbed_by(those, at))
        };
        let layers = 0..these.len().min(those.len());
        layers.take_while(is_same).count()
    }

    fn bytes(&self) -> usize {
        let streams = self.streams.iter().flatten();
        streams.map(|stream| 4 * stream.len()).sum()
    }
}

/// The last sub-networks, the newest first.
#[derive(Default)]
pub(crate) struct Recent(VecDeque<Trail>);

impl Recent {
    /// The trail with the longest common beginning, and how long that is.
    pub fn longest(&self, config: &SubnetConfig) -> Option<(usize, &Trail)> {
        let trails = self.0.iter();
        trails
            .map(|trail| (trail.common_layers(config), trail))
            .max_by_key(|(common, _)| *common)
    }

    /// Keeps a trail, and forgets the oldest.
    pub fn keep(&mut self, trail: Trail) {
        let fit = RECENT_BYTES / trail.bytes().max(1);
        self.0.push_front(trail);
        self.0.truncate(fit.min(MOST_RECENT));
    }
}
