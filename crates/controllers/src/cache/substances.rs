//! Tells changes of a status alone from others.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kube::{Resource, ResourceExt};

use super::Kind;

/// What each object was beside its status, of the kinds that write theirs often.
#[derive(Debug)]
pub(super) struct Substances(Option<HashMap<String, u64>>);

impl Substances {
    pub(super) fn of(kind: Kind) -> Self {
        let often = matches!(kind, Kind::Pool | Kind::MachineConfigNode);
        Substances(often.then(HashMap::new))
    }

    /// Whether the object is known as it is, but for its status.
    pub(super) fn keeps<K: Resource>(&mut self, object: &K) -> bool {
        let Some(known) = &mut self.0 else {
            return false;
        };
        let meta = object.meta();
        let mut hasher = DefaultHasher::new();
        (&meta.uid, meta.generation, &meta.labels, &meta.annotations).hash(&mut hasher);
        meta.deletion_timestamp.is_some().hash(&mut hasher);
        let now = hasher.finish();
        known.insert(object.name_any(), now) == Some(now)
    }

    pub(super) fn forget<K: Resource>(&mut self, object: &K) {
        if let Some(known) = &mut self.0 {
            known.remove(&object.name_any());
        }
    }

    /// A new list was read: what is known may be older than what the loops have seen of it.
    pub(super) fn forget_all(&mut self) {
        if let Some(known) = &mut self.0 {
            known.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use model::api::MachineConfigPool;

    use super::*;

    fn pool(generation: i64) -> MachineConfigPool {
        let mut pool = MachineConfigPool::new("worker", Default::default());
        pool.metadata.generation = Some(generation);
        pool
    }

    #[test]
    fn what_a_new_list_brought_is_not_taken_for_known() {
        let mut substances = Substances::of(Kind::Pool);
        assert!(!substances.keeps(&pool(1)));
        assert!(substances.keeps(&pool(1)));
        // The list may have had other annotations, which are now taken back.
        substances.forget_all();
        assert!(!substances.keeps(&pool(1)));
        assert!(substances.keeps(&pool(1)));
        substances.forget(&pool(1));
        assert!(!substances.keeps(&pool(1)));
    }

    #[test]
    fn kinds_that_seldom_write_their_status_always_change() {
        let mut substances = Substances::of(Kind::MachineConfig);
        assert!(!substances.keeps(&pool(1)));
        assert!(!substances.keeps(&pool(1)));
    }
}
