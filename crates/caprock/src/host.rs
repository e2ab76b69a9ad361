//! What a process asks of its host: signals and the host's name.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Runs something until it ends, or until SIGTERM or SIGINT, of which it is told by its token.
pub(crate) async fn run_until_stopped<E, Running>(
    start: impl FnOnce(CancellationToken) -> Running,
) -> Result<(), Failure>
where
    Running: Future<Output = Result<(), E>>,
    Failure: From<E>,
{
    let stop = CancellationToken::new();
    let running = start(stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        signal = stop_signal() => tracing::info!("stopping on {}", signal?),
    }
    stop.cancel();
    Ok(running.await?)
}

/// Waits for SIGTERM or SIGINT and names it.
pub(crate) async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// This machine's name.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("failed to read the host's name")?;
    Ok(name.trim().to_owned())
}
