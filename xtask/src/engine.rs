//! From names on the command line to what runs networks.

use std::sync::Arc;

use anyhow::ensure;
use lathe_supernet::{Cpu, Engine, Supernet};

use crate::arguments::{Dtype, EngineArguments, EngineName};

impl EngineArguments {
    /// Refuses what this program cannot do, before anything takes long.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.engine == EngineName::Candle || self.dtype == Dtype::F32,
            "--dtype: the cpu engine computes in f32; take --engine candle"
        );
        ensure!(
            self.engine == EngineName::Cpu || cfg!(feature = "candle"),
            "--engine candle: this program was built without it; run it as\n  cargo run --release --package xtask --features candle-cuda -- ...\nwith candle-metal on a Mac, or candle for the processors alone"
        );
        Ok(())
    }

    /// The engine, for networks of `supernet`.
    pub fn of<'a>(&self, supernet: &'a Supernet) -> anyhow::Result<Arc<dyn Engine + 'a>> {
        self.check()?;
        match self.engine {
            EngineName::Cpu => Ok(Arc::new(Cpu::new(supernet))),
            EngineName::Candle => self.candle(supernet),
        }
    }

    #[cfg(feature = "candle")]
    fn candle<'a>(&self, supernet: &'a Supernet) -> anyhow::Result<Arc<dyn Engine + 'a>> {
        let dtype = match self.dtype {
            Dtype::F32 => lathe_candle::Dtype::F32,
            Dtype::Bf16 => lathe_candle::Dtype::Bf16,
        };
        Ok(Arc::new(lathe_candle::Candle::new(supernet, dtype)?))
    }

    #[cfg(not(feature = "candle"))]
    fn candle<'a>(&self, _supernet: &'a Supernet) -> anyhow::Result<Arc<dyn Engine + 'a>> {
        unreachable!("a program without candle has refused it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(engine: EngineName, dtype: Dtype) -> String {
        let refused = EngineArguments { engine, dtype }.check();
        refused
            .err()
            .map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_remedy() {
        assert_eq!(refusal(EngineName::Cpu, Dtype::F32), "");
        let message = refusal(EngineName::Cpu, Dtype::Bf16);
        assert!(message.contains("--engine candle"), "{message}");
        let message = refusal(EngineName::Candle, Dtype::Bf16);
        let is_built = cfg!(feature = "candle");
        assert_eq!(message.contains("--features candle-cuda"), !is_built);
    }
}
