//! What a server runs at the same time: it ends with the first part that does.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the parts may take to stop after SIGTERM before the process ends without them.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Running parts, none of which ends before it is told to.
#[derive(Default)]
pub(super) struct Parts {
    running: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Parts {
    /// Told when all parts are to end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a part.
    pub(super) fn spawn(
        &mut self,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.running.spawn(part);
    }

    /// Waits for a signal or for a part that ends, then stops the others.
    pub(super) async fn wait(mut self) -> anyhow::Result<()> {
        let first = tokio::select! {
            signal = crate::host::stop_signal() => {
                tracing::info!("stopping on {}", signal?);
                Ok(())
            }
            ended = self.running.join_next() => match ended {
                Some(Ok(Ok(()))) => Err(anyhow::anyhow!("a part of the server ended by itself")),
                Some(Ok(Err(error))) => Err(error),
                Some(Err(error)) => Err(anyhow::Error::new(error).context("a part of the server panicked")),
                None => Ok(()),
            },
        };
        self.stop.cancel();
        let drained = tokio::time::timeout(STOP_DEADLINE, async {
            let mut result = Ok(());
            while let Some(ended) = self.running.join_next().await {
                result = result.and(
                    ended
                        .context("a part of the server panicked")
                        .and_then(|r| r),
                );
            }
            result
        })
        .await;
        let rest = match drained {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!("some parts did not stop in {} s", STOP_DEADLINE.as_secs());
                Ok(())
            }
        };
        first.and(rest)
    }
}
