//! What the API holds, read again only when its watch has told of a change: a turn costs the server no more than it must.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::AgentError;

/// A value of the API and whether it may be another one by now.
pub(super) struct Latest<T> {
    stale: Arc<AtomicBool>,
    value: Mutex<Option<T>>,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Latest {
            stale: Arc::new(AtomicBool::new(true)),
            value: Mutex::new(None),
        }
    }
}

impl<T: Clone> Latest<T> {
    /// Set by the watch whenever the value may have changed, also when it broke off and cannot know.
    pub(super) fn stale(&self) -> Arc<AtomicBool> {
        self.stale.clone()
    }

    /// The value; `read` brings it when there is none or it may have changed.
    pub(super) async fn get(
        &self,
        read: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        // Before it is read: a change during the reading counts for the next time.
        if !self.stale.swap(false, Ordering::Relaxed)
            && let Some(value) = self.known()
        {
            return Ok(value);
        }
        let value = read
            .await
            .inspect_err(|_| self.stale.store(true, Ordering::Relaxed))?;
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        Ok(value)
    }

    fn known(&self) -> Option<T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_value_is_read_again_only_when_it_may_have_changed() {
        let latest = Latest::default();
        let reads = AtomicBool::new(false);
        let read = async |value: u8| {
            reads.store(true, Ordering::Relaxed);
            Ok(value)
        };
        let was_read = || reads.swap(false, Ordering::Relaxed);
        assert_eq!((latest.get(read(1)).await.unwrap(), was_read()), (1, true));
        assert_eq!((latest.get(read(2)).await.unwrap(), was_read()), (1, false));
        latest.stale().store(true, Ordering::Relaxed);
        latest
            .get(async { Err(AgentError::Unwell("the server is away".into())) })
            .await
            .unwrap_err();
        assert_eq!((latest.get(read(3)).await.unwrap(), was_read()), (3, true));
    }
}
