//! What networks learn, of commands that train any.

use std::path::PathBuf;

use clap::Args;

use super::number::{fraction, positive};

/// What networks learn, and from what.
#[derive(Args)]
pub struct LessonArguments {
    /// Share of the divergence from the full model in the loss; the rest is the next token's
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = fraction)]
    pub distill_share: f32,
    /// What logits are divided by in the divergence
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = positive)]
    pub temperature: f64,
    /// Train on this text instead of all that is neither searched nor tested with; passages that are
    /// searched or tested with are left out
    #[arg(long, value_name = "FILE|DIR")]
    pub train_text: Option<PathBuf>,
}
