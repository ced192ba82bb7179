//! What many commands ask for: the model, and the device.

use std::path::PathBuf;

use clap::Args;
use lathe_supernet::{Importance, Recovery};

/// Where the model comes from.
#[derive(Args)]
pub struct ModelArguments {
    /// Name in models/, a YAML of that kind, a GGUF file, a Hugging Face folder, or OWNER/NAME on the
    /// Hugging Face Hub
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME|PATH")]
    pub model: String,
    /// Text to work on instead of the fetched one: paragraphs, JSON lines with a field "text", or a
    /// folder of such files
    #[arg(long, value_name = "FILE|DIR")]
    pub text: Option<PathBuf>,
    /// Tokens of the calibration; with less text, what there is
    #[arg(long, default_value_t = 32768, value_name = "N")]
    pub calibration_tokens: usize,
    /// How units are ordered: reconstruction, taylor, fluctuation, activation, wanda, magnitude or
    /// random
    #[arg(long, default_value = "reconstruction", value_name = "NAME")]
    pub importance: Importance,
    /// What stands for units that are cut away: none, bias or least-squares
    #[arg(long, default_value = "least-squares", value_name = "NAME")]
    pub recovery: Recovery,
}

/// A super-network that was trained.
#[derive(Args)]
pub struct AdapterArgument {
    /// Cut networks from the super-network that `train` left in this folder; its order of units, recovery
    /// and number of calibration tokens take the place of those given here, and heal is taught by its full
    /// model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// What runs the measurements.
#[derive(Args)]
pub struct DeviceArguments {
    /// Name in devices/, or a YAML of that kind
    #[arg(long, default_value = "local", value_name = "NAME|PATH")]
    pub device: String,
    #[command(flatten)]
    pub programs: ProgramArguments,
}

/// What is run on a device.
#[derive(Args)]
pub struct ProgramArguments {
    /// The agent for the device, instead of the one for this machine or its kind
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// ONNX Runtime's shared library for the device, instead of the fetched one
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
    /// Leave on the device what was sent there
    #[arg(long)]
    pub keep: bool,
}
