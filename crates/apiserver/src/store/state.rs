//! What readers see: the current objects and the recent events, per resource.

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Expired, Key, Object, Revision, Scope};

/// The invariant behind every `expect` on the state's lock: no code panics while it holds it.
pub(super) const LOCK: &str = "no code panics while it holds the state's lock";

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// It did not exist before.
    Added,
    /// It existed before.
    Modified,
    /// It is gone; the event carries its last state.
    Deleted,
}

/// One committed write.
#[derive(Debug)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: EventKind,
    /// The object after the write; for a deletion its last state, at the revision of the deletion.
    pub(crate) object: Arc<Object>,
    /// The object before the write.
    pub(crate) previous: Option<Arc<Object>>,
}

impl Event {
    /// The write's revision.
    pub(crate) fn revision(&self) -> Revision {
        self.object.revision
    }

    /// Bytes that only this event keeps alive, roughly.
    pub(super) fn weight(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |p| p.bytes.len());
        previous + 256
    }
}

/// Objects of one list request.
#[derive(Debug)]
pub(crate) struct Page {
    /// The revision at which `items` are the truth.
    pub(crate) revision: Revision,
    /// In key order.
    pub(crate) items: Vec<Arc<Object>>,
    /// How many follow after this page.
    pub(crate) remaining: usize,
}

/// The recent events of one resource (or of all), oldest first.
#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    /// Revision of the newest event that is no longer kept.
    dropped: Revision,
    /// Tells watchers that there is something new.
    pub(super) changed: watch::Sender<Revision>,
}

impl History {
    fn new(dropped: Revision) -> Self {
        Self {
            events: VecDeque::new(),
            dropped,
            changed: watch::Sender::new(dropped),
        }
    }

    /// Events after `revision`, oldest first.
    pub(super) fn after(
        &self,
        revision: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Event>>, Expired> {
        if revision < self.dropped {
            return Err(Expired {
                requested: revision,
                oldest: self.dropped,
            });
        }
        let start = self.events.partition_point(|e| e.revision() <= revision);
        Ok(self.events.range(start..))
    }

    fn drop_through(&mut self, revision: Revision) {
        while let Some(first) = self.events.front()
            && first.revision() <= revision
        {
            self.dropped = first.revision();
            self.events.pop_front();
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: Revision,
    /// No history is known at or before this revision.
    compacted: Revision,
    pub(super) objects: BTreeMap<Key, Arc<Object>>,
    all: History,
    resources: HashMap<Arc<str>, History>,
    /// Sum of the weights of the events kept.
    weight: usize,
    /// Why the last commit failed, if it did.
    pub(super) failure: Option<Arc<str>>,
}

impl State {
    /// An empty state that knows nothing of what happened up to `compacted`.
    pub(super) fn new(compacted: Revision) -> Self {
        Self {
            revision: compacted,
            compacted,
            objects: BTreeMap::new(),
            all: History::new(compacted),
            resources: HashMap::new(),
            weight: 0,
            failure: None,
        }
    }

    /// Makes a committed event visible. Watchers are told by [`State::announce`].
    pub(super) fn apply(&mut self, event: Arc<Event>) {
        let key = &event.object.key;
        match event.kind {
            EventKind::Added | EventKind::Modified => {
                self.objects.insert(key.clone(), event.object.clone());
            }
            EventKind::Deleted => {
                self.objects.remove(key);
            }
        }
        self.revision = event.revision();
        self.weight += event.weight();
        self.history_mut(&key.resource.clone())
            .events
            .push_back(event.clone());
        self.all.events.push_back(event);
    }

    /// Wakes the watchers of everything written after `since`.
    pub(super) fn announce(&self, since: Revision) {
        for (_, history) in self.resources.iter() {
            if let Some(last) = history.events.back()
                && last.revision() > since
            {
                history.changed.send_replace(last.revision());
            }
        }
        self.all.changed.send_replace(self.revision);
    }

    pub(super) fn history_mut(&mut self, resource: &Arc<str>) -> &mut History {
        let compacted = self.compacted;
        self.resources
            .entry(resource.clone())
            .or_insert_with(|| History::new(compacted))
    }

    /// The history a scope reads from; `None` if nothing happened there since `compacted`.
    pub(super) fn history(&self, scope: &Scope) -> Option<&History> {
        match scope {
            Scope::Everything => Some(&self.all),
            Scope::Resource(resource) | Scope::Namespace(resource, _) => {
                self.resources.get(resource)
            }
        }
    }

    /// Whether everything after `revision` is still known.
    pub(super) fn check_known(&self, scope: &Scope, revision: Revision) -> Result<(), Expired> {
        let oldest = self.history(scope).map_or(self.compacted, |h| h.dropped);
        if revision < oldest {
            return Err(Expired {
                requested: revision,
                oldest,
            });
        }
        Ok(())
    }

    /// A receiver that changes with every write in `scope`.
    pub(super) fn subscribe(&mut self, scope: &Scope) -> watch::Receiver<Revision> {
        match scope {
            Scope::Everything => self.all.changed.subscribe(),
            Scope::Resource(resource) | Scope::Namespace(resource, _) => {
                self.history_mut(resource).changed.subscribe()
            }
        }
    }

    /// Number and weight of the events kept.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.all.events.len(), self.weight)
    }

    /// The oldest `count` events.
    pub(super) fn oldest(&self, count: usize) -> impl Iterator<Item = &Arc<Event>> {
        self.all.events.iter().take(count)
    }

    /// Forgets events up to `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        let dropped: usize = self
            .all
            .events
            .iter()
            .take_while(|e| e.revision() <= revision)
            .map(|e| e.weight())
            .sum();
        self.weight -= dropped;
        self.compacted = self.compacted.max(revision);
        self.all.drop_through(revision);
        for history in self.resources.values_mut() {
            history.drop_through(revision);
        }
    }

    pub(super) fn count(&self, scope: &Scope) -> usize {
        self.objects_in(scope, None).count()
    }

    /// The objects of a scope, those after a key only. The key may come from a client: one of elsewhere must not lead
    /// out of the scope.
    fn objects_in(&self, scope: &Scope, after: Option<&Key>) -> Range<'_, Key, Arc<Object>> {
        let (first, end) = limits(scope);
        let start = match (after, &end) {
            (Some(after), Some(end)) if after >= end => Bound::Included(end.clone()),
            (Some(after), _) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.objects.range::<Key, _>((start, end))
    }

    pub(super) fn list(
        &self,
        scope: &Scope,
        at: Option<Revision>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, Expired> {
        let revision = at.unwrap_or(self.revision);
        let current = self.objects_in(scope, after);
        self.check_known(scope, revision)?;
        let events: Vec<&Arc<Event>> = match self.history(scope) {
            Some(history) => history.after(revision)?.rev().collect(),
            None => Vec::new(),
        };
        // Counting what follows does not look at it, which makes a page of many objects as cheap as one of few.
        fn page<'a>(
            mut objects: impl Iterator<Item = &'a Arc<Object>>,
            limit: usize,
        ) -> (Vec<Arc<Object>>, usize) {
            let items = objects.by_ref().take(limit).cloned().collect();
            (items, objects.count())
        }
        let (items, remaining) = if events.is_empty() {
            page(current.map(|(_, object)| object), limit)
        } else {
            // Undo, newest first, what happened after the requested revision.
            let mut past: BTreeMap<&Key, &Arc<Object>> = current.collect();
            for event in events {
                let key = &event.object.key;
                if !scope.contains(key) || after.is_some_and(|after| key <= after) {
                    continue;
                }
                match &event.previous {
                    Some(previous) => past.insert(key, previous),
                    None => past.remove(key),
                };
            }
            page(past.into_values(), limit)
        };
        Ok(Page {
            revision,
            items,
            remaining,
        })
    }
}

/// The least key of a scope, and the least of those that come after it.
fn limits(scope: &Scope) -> (Key, Option<Key>) {
    // Nothing lies between a text and the same text with a zero byte.
    let next = |text: &str| format!("{text}\0");
    match scope {
        Scope::Everything => (Key::new("", "", ""), None),
        Scope::Resource(resource) => (
            Key::new(resource.clone(), "", ""),
            Some(Key::new(next(resource), "", "")),
        ),
        Scope::Namespace(resource, namespace) => (
            Key::new(resource.clone(), namespace, ""),
            Some(Key::new(resource.clone(), &next(namespace), "")),
        ),
    }
}
