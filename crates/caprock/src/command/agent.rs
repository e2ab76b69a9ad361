//! `caprock agent`: one node's agent, its boot step, and the import of a machine's first image.

use crate::cli;
use crate::exit::Failure;

pub(crate) async fn run(_args: cli::Agent) -> Result<(), Failure> {
    Ok(())
}

pub(crate) fn import(_args: &cli::NodeImport) -> Result<(), Failure> {
    Ok(())
}
