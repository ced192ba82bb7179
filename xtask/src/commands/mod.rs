//! One file a command.

use std::process::ExitCode;

use crate::arguments::Command;

mod agent;
mod compare;
mod devices;
mod evaluate;
mod export;
mod fetch;
mod front;
mod fuzz;
mod heal;
mod narrow;
mod objective;
mod predict;
mod profile;
mod quickstart;
mod report;
mod search;
mod study;
mod test;
mod train;
mod training;
mod validate;

/// Runs a command.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(arguments) => quickstart::run(&arguments)?,
        Command::Fetch(arguments) => fetch::run(&arguments)?,
        Command::Agent(arguments) => agent::run(&arguments)?,
        Command::Devices(arguments) => devices::run(&arguments)?,
        Command::Profile(arguments) => profile::run(&arguments)?,
        Command::Predict(arguments) => predict::run(&arguments)?,
        Command::Validate(arguments) => validate::run(&arguments)?,
        Command::Evaluate(arguments) => evaluate::run(&arguments)?,
        Command::Search(arguments) => search::run(&arguments)?,
        Command::Objective(arguments) => objective::run(&arguments)?,
        Command::Front(arguments) => front::run(&arguments)?,
        Command::Narrow(arguments) => narrow::run(&arguments)?,
        Command::Train(arguments) => return train::run(&arguments),
        Command::Heal(arguments) => return heal::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments)?,
        Command::Export(arguments) => export::run(&arguments)?,
        Command::Study(arguments) => study::run(&arguments.command)?,
        Command::Report(arguments) => report::run(&arguments)?,
        Command::Test(arguments) => return test::run(&arguments),
        Command::Fuzz(arguments) => return fuzz::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
