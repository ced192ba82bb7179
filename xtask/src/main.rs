//! Lathe's command line: parses, calls the crates, prints.

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser;

mod arguments;
mod commands;
mod context;
mod engine;
mod interrupt;
mod method;
mod problem;
mod progress;
mod units;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad usage, bad input, or a step that failed.
const FAILED: u8 = 2;
/// Ctrl-C, as shells report it.
const INTERRUPTED: i32 = 130;
/// Nobody reads on what is printed, as behind `| head`: as shells report it.
const UNREAD: i32 = 141;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    end_where_nothing_can_be_printed();
    // Files are written whole or not at all and journals line by line, so there is nothing to
    // save: what is finished is on the disk already. A training holds hours of work in memory and is
    // asked to stop.
    let handler = ctrlc::set_handler(|| {
        if interrupt::ask() {
            eprintln!("\nstopping after this step; once more to stop at once");
            return;
        }
        eprintln!(
            "\ninterrupted; what is finished is kept: run the same command again (with --resume where it has one) to go on"
        );
        process::exit(INTERRUPTED);
    });
    if let Err(error) = handler {
        eprintln!("warning: Ctrl-C cannot be caught: {error}");
    }
    match commands::run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `println!` panics where it cannot write. That is no fault of the program.
fn end_where_nothing_can_be_printed() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        match message.filter(|message| message.starts_with("failed printing to stdout")) {
            Some(message) if message.contains("Broken pipe") => process::exit(UNREAD),
            Some(message) => {
                eprintln!("error: {message}");
                process::exit(FAILED.into());
            }
            None => usual(panic),
        }
    }));
}
