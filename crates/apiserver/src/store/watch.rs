//! Following the store.

use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use super::state::{LOCK, State};
use super::{Event, Expired, Object, Revision, Scope};

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what exists now; [`Watcher::initial`] has it.
    Now,
    /// With the first change after this revision.
    After(Revision),
}

/// A cursor in the history of a scope. It holds no queue: a thousand idle watchers cost a thousand cursors.
#[derive(Debug)]
pub(crate) struct Watcher {
    state: Arc<RwLock<State>>,
    scope: Scope,
    cursor: Revision,
    changed: watch::Receiver<Revision>,
    initial: Vec<Arc<Object>>,
}

impl Watcher {
    pub(super) fn new(
        state: Arc<RwLock<State>>,
        scope: Scope,
        start: Start,
    ) -> Result<Self, Expired> {
        let mut guard = state.write().expect(LOCK);
        let changed = guard.subscribe(&scope);
        let (cursor, initial) = match start {
            Start::Now => {
                let page = guard.list(&scope, None, None, usize::MAX)?;
                (page.revision, page.items)
            }
            Start::After(revision) => {
                guard.check_known(&scope, revision)?;
                (revision, Vec::new())
            }
        };
        drop(guard);
        Ok(Self {
            state,
            scope,
            cursor,
            changed,
            initial,
        })
    }

    /// The objects that existed when the watch began with [`Start::Now`]; empty from the second call on.
    pub(crate) fn initial(&mut self) -> Vec<Arc<Object>> {
        std::mem::take(&mut self.initial)
    }

    /// Everything up to this revision has been handed out.
    pub(crate) fn revision(&self) -> Revision {
        self.cursor
    }

    /// The next events, at least one. Safe to cancel: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            self.changed.borrow_and_update();
            let events = self.advance()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives in the state that this watcher keeps alive.
            self.changed
                .changed()
                .await
                .expect("the state outlives its watchers");
        }
    }

    /// Events that are there already; moves the cursor to the present.
    pub(crate) fn advance(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        let state = self.state.read().expect(LOCK);
        let events = match state.history(&self.scope) {
            Some(history) => history
                .after(self.cursor)?
                .filter(|event| self.scope.contains(&event.object.key))
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        self.cursor = self.cursor.max(state.revision);
        Ok(events)
    }
}
