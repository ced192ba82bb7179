//! The whole system, as users start it. One program, so that the longest tests run beside others.

mod bad_input;
mod command_line;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod emulated;
mod genai;
mod healing;
mod measuring;
#[cfg(unix)]
mod protocol;
mod real_model;
mod runtime;
mod searching;
mod training;
