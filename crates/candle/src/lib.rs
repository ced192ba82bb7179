//! A second engine behind the seam of [`lathe_supernet`]: networks run and are differentiated on
//! candle, on a GPU where this crate is built for one, in f32 or bf16.
//!
//! Features: `cuda` for NVIDIA's devices, `metal` for Apple's. Without either it computes on this
//! machine's processors, where [`Cpu`](lathe_supernet::Cpu) is the faster engine.
//!
//! ```
//! use lathe_candle::{Candle, Dtype};
//! use lathe_supernet::checkpoint::Checkpoint;
//! use lathe_supernet::{Supernet, TokenWindows, perplexity_on};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-llama");
//! let checkpoint = Checkpoint::load(path.as_ref())?;
//! let supernet = Supernet::unordered(&checkpoint.config, checkpoint.weights);
//! let engine = Candle::new(&supernet, Dtype::Bf16)?;
//! let text = TokenWindows::from_tokens(&[5, 3, 8, 1, 7, 2, 6, 4], 3);
//! let quality = perplexity_on(&engine, &supernet.full(), &text)?;
//! println!("perplexity {:.2}", quality.perplexity());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod backward;
mod engine;
mod head;
mod layer;
mod network;
mod norm;
mod product;
mod rounding;
mod sequences;
mod weights;

pub use engine::{Candle, Dtype};
