//! What a program that reads the written files relies on.

mod chain;
mod every_subnet;
mod families;
mod files;
mod network;
mod tiny;
