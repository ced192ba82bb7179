use std::num::NonZeroUsize;

use anyhow::ensure;
use clap::ValueEnum;
use ort::ep::{ExecutionProvider, NNAPI, XNNPACK};
use ort::session::builder::SessionBuilder;

/// What runs the operators that it knows; ONNX Runtime's own kernels run the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// ONNX Runtime's own kernels alone.
    Cpu,
    /// XNNPACK, on the processors.
    Xnnpack,
    /// Android's Neural Networks API.
    Nnapi,
}

impl Provider {
    /// Checks that the runtime that was loaded has it.
    ///
    /// # Errors
    /// When it has not.
    pub fn check(self) -> anyhow::Result<()> {
        let (name, is_there) = match self {
            Self::Cpu => return Ok(()),
            Self::Xnnpack => (XNNPACK::NAME, XNNPACK::is_available()?),
            Self::Nnapi => (NNAPI::NAME, NNAPI::is_available()?),
        };
        ensure!(
            is_there,
            "this ONNX Runtime has no {name}: give a library that has, with ort_lib in the device's file or --ort-lib, or take `execution_provider: cpu`"
        );
        Ok(())
    }

    /// Has a session use it. XNNPACK has threads of its own: the session's, which run the other
    /// operators, must not spin beside them.
    pub fn set(self, builder: SessionBuilder, threads: usize) -> anyhow::Result<SessionBuilder> {
        // ort's builder errors carry the builder and cannot be sent between threads.
        let text = |error: ort::Error<_>| anyhow::anyhow!("{error}");
        let provider = match self {
            Self::Cpu => return Ok(builder),
            Self::Xnnpack => {
                let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
                let provider = XNNPACK::default().with_intra_op_num_threads(threads);
                provider.build()
            }
            Self::Nnapi => NNAPI::default().build(),
        };
        let builder = builder
            .with_config_entry("session.intra_op.allow_spinning", "0")
            .map_err(text)?;
        let provider = provider.error_on_failure();
        builder.with_execution_providers([provider]).map_err(text)
    }
}
