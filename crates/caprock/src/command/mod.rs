//! One module per command.

mod agent;
mod authfile;
mod backup;
mod build;
mod certs;
mod copy;
mod crds;
mod diff;
mod explain;
mod install;
mod lint;
mod logs;
mod machineconfig;
mod node;
mod parts;
mod plan;
mod progress;
mod registry;
mod render;
mod simulate;
mod status;
mod takeover;
mod webhook;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::exit::Failure;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Crds(args) => crds::run(&args)?,
        Command::Restore(args) => backup::restore(&args)?,
        Command::Backup(args) => block_on(backup::backup(args))?,
        Command::Lint(args) => return lint::run(&args),
        Command::MachineConfig(args) => machineconfig::run(&args)?,
        Command::Render(args) => render::run(&args)?,
        Command::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "caprock", &mut text);
            crate::output::result(&String::from_utf8(text)?)?;
        }
        Command::Node(args) => block_on(node::run(args))?,
        Command::Certs(args) => certs::run(&args)?,
        Command::Serve(args) => block_on(crate::serve::run(args))?,
        Command::Build(args) => block_on(build::run(*args)).map_err(registry::hinted)?,
        Command::Copy(args) => block_on(copy::run(args)).map_err(registry::hinted)?,
        Command::Plan(args) => block_on(plan::run(args))?,
        Command::Diff(args) => block_on(diff::run(args))?,
        Command::Status(args) => block_on(status::run(args))?,
        Command::Explain(args) => block_on(explain::run(args))?,
        Command::Logs(args) => block_on(logs::run(args))?,
        Command::Agent(args) => block_on(agent::run(args))?,
        Command::Controller(args) => block_on(parts::controller(args))?,
        Command::Simulate(args) => block_on(simulate::run(args))?,
        Command::Builder(args) => block_on(parts::builder(args))?,
        Command::Install(args) => block_on(install::run(args))?,
        Command::Takeover(args) => block_on(takeover::run(args))?,
        Command::Uninstall(args) => block_on(install::uninstall(args))?,
        Command::Webhook(args) => block_on(webhook::run(args))?,
        Command::Registry(args) => block_on(crate::registry::run(args))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
