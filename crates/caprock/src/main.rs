//! The `caprock` binary: command line and wiring.
//!
//! Each command lives in its own module under `command`; `serve` wires the long-running parts of one machine.
//! Results go to standard output, words to standard error, and every error becomes text here, once.

mod cli;
mod client;
mod command;
mod deliver;
#[cfg(test)]
mod documents;
mod exit;
mod host;
mod host_root;
mod log;
mod manifests;
mod output;
mod ownership;
mod registry;
mod serve;
mod shared;
mod side;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    log::start(cli.verbose);
    // ring and aws-lc-rs may both be in the dependency tree: choose before anything speaks TLS.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return exit::report(
            &exit::unexpected("a TLS provider was installed twice"),
            cli.verbose,
        );
    }
    match command::run(cli.command) {
        Ok(code) => code,
        Err(error) => exit::report(&error, cli.verbose),
    }
}
