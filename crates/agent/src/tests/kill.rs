//! Death at a chosen place, once for each.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A place where the agent may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Just before an effect.
    Before(&'static str),
    /// Just after it.
    After(&'static str),
}

/// Which places are still to be died at.
#[derive(Debug, Default)]
pub(crate) struct Kill {
    /// With a number, to die the second or third time it comes by.
    wanted: Mutex<BTreeSet<(Place, u32)>>,
    seen: Mutex<BTreeSet<(Place, u32)>>,
    dead: AtomicBool,
    pub(crate) died: tokio::sync::Notify,
}

impl Kill {
    pub(crate) fn at(&self, places: impl IntoIterator<Item = (Place, u32)>) {
        self.wanted.lock().unwrap().extend(places);
    }

    /// Every place that was come by, and how often.
    pub(crate) fn seen(&self) -> BTreeSet<(Place, u32)> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }

    /// Dies here, when that is wanted, or when the agent is dead already and only its threads do not know.
    pub(crate) fn point(&self, place: Place) {
        if self.is_dead() {
            std::panic::resume_unwind(Box::new("dead"));
        }
        let mut seen = self.seen.lock().unwrap();
        let times = (0..).find(|n| !seen.contains(&(place, *n))).unwrap();
        seen.insert((place, times));
        drop(seen);
        if self.wanted.lock().unwrap().remove(&(place, times)) {
            self.dead.store(true, Ordering::SeqCst);
            self.died.notify_one();
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}

thread_local! {
    /// File operations that this thread may still do; none for as many as it likes.
    static WRITES: RefCell<Option<u32>> = const { RefCell::new(None) };
}

/// Lets the next file operations of this thread pass and the one after them die.
pub(crate) fn after_writes(writes: Option<u32>) {
    WRITES.with(|left| *left.borrow_mut() = writes);
}

/// A file operation is about to become visible.
pub(crate) fn write_point() {
    WRITES.with(|left| {
        let mut left = left.borrow_mut();
        match left.as_mut() {
            None => {}
            Some(0) => {
                *left = None;
                std::panic::resume_unwind(Box::new("killed"));
            }
            Some(more) => *more -= 1,
        }
    });
}
