//! Death at a chosen place, once for each.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
    deaths: AtomicU32,
}

/// One run of the agent, from its start to its death. Whatever acts for it holds this, so that the next one starts only
/// when the threads of the dead one are gone: a killed process leaves none behind.
#[derive(Debug, Default)]
pub(crate) struct Life {
    over: AtomicBool,
    pub(crate) died: tokio::sync::Notify,
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

impl Kill {
    pub(crate) fn at(&self, places: impl IntoIterator<Item = (Place, u32)>) {
        self.wanted.lock().unwrap().extend(places);
    }

    /// Every place that was come by, and how often.
    pub(crate) fn seen(&self) -> BTreeSet<(Place, u32)> {
        self.seen.lock().unwrap().clone()
    }

    /// Times that somebody died at a wanted place.
    pub(crate) fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::SeqCst)
    }

    /// Dies here, when that is wanted, or when the agent is dead already and only its threads do not know.
    pub(crate) fn point(&self, life: &Life, place: Place) {
        let mut seen = self.seen.lock().unwrap();
        let times = (0..).find(|n| !seen.contains(&(place, *n))).unwrap();
        let wanted = self.wanted.lock().unwrap().remove(&(place, times));
        if !life.is_over() || wanted {
            seen.insert((place, times));
        }
        drop(seen);
        if wanted {
            self.deaths.fetch_add(1, Ordering::SeqCst);
            life.end();
            life.died.notify_one();
        }
        if life.is_over() {
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
