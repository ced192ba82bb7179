//! What commands that run networks ask for.

use clap::{Args, ValueEnum};

/// What runs networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// Lathe's own, in f32 on this machine's processors
    Cpu,
    /// candle, on the GPU that this program was built for
    Candle,
}

/// Numbers that matrices are kept and multiplied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
}

/// What runs networks, and in which numbers.
#[derive(Args)]
pub struct EngineArguments {
    /// What runs networks
    #[arg(long, value_enum, default_value = "cpu")]
    pub engine: EngineName,
    /// Numbers that candle keeps matrices in: bf16 takes half the memory
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: Dtype,
}
