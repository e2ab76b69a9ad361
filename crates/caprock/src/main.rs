//! The `caprock` binary: command line and wiring.
//!
//! Each command lives in its own module under `command`; `serve` wires the long-running parts of one machine.
//! Results go to standard output, words to standard error, and every error becomes text here, once.

mod cli;
mod client;
mod command;
mod exit;
mod host;
mod output;
mod serve;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    init_logs(cli.verbose);
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

/// Logs are for the operator of a long-running part; commands for people say their result without them.
fn init_logs(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 => "warn,caprock=info,controllers=info,agent=info,builder=info,apiserver=info,oci=info",
        1 => {
            "info,caprock=debug,controllers=debug,agent=debug,builder=debug,apiserver=debug,oci=debug"
        }
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("CAPROCK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(output::colour())
        .init();
}
