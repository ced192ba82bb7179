//! What candle computes is what Lathe's own engine does.

mod gradients;
mod scores;
mod shared;
