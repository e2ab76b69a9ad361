//! The store against a model that keeps everything for ever.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use futures::executor::block_on;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const RESOURCES: [&str; 2] = ["/maps", "example.com/widgets"];
/// Small, so that compaction happens all the time.
const SMALL: Retention = Retention {
    events: 6,
    bytes: 1 << 20,
};

/// What a step does.
#[derive(Debug, Clone)]
enum Step {
    Put { object: usize, guess: Guess },
    Delete { object: usize, guess: Guess },
    Reopen,
}

/// What the writer believes about the object.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Absent,
    Current,
    Stale,
}

/// A version of one object: revision and payload.
type Version = (Revision, u64);

/// Every event there ever was.
#[derive(Debug, Default)]
struct Model {
    revision: Revision,
    /// Revision, key, and the payload unless it was deleted.
    log: Vec<(Revision, Key, Option<u64>)>,
}

impl Model {
    fn at(&self, revision: Revision) -> BTreeMap<Key, Version> {
        let mut objects = BTreeMap::new();
        for (at, key, payload) in self.log.iter().take_while(|(at, ..)| *at <= revision) {
            match payload {
                Some(payload) => objects.insert(key.clone(), (*at, *payload)),
                None => objects.remove(key),
            };
        }
        objects
    }
}

fn key(object: usize) -> Key {
    let namespace = ["", "a", "b"][object % 3];
    Key::new(RESOURCES[object % 2], namespace, &format!("n{object}"))
}

fn payload(object: &Object) -> u64 {
    object.value()["payload"].as_u64().unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let guess = prop_oneof![
        2 => Just(Guess::Absent),
        4 => Just(Guess::Current),
        1 => Just(Guess::Stale),
    ];
    let object = 0..7usize;
    prop_oneof![
        6 => (object.clone(), guess.clone()).prop_map(|(object, guess)| Step::Put { object, guess }),
        3 => (object, guess).prop_map(|(object, guess)| Step::Delete { object, guess }),
        1 => Just(Step::Reopen),
    ]
}

fn open(path: &Path) -> Store {
    Store::open(path, SMALL).unwrap()
}

fn write(store: &Store, model: &mut Model, object: usize, guess: Guess, put: bool) {
    let key = key(object);
    let current = model.at(model.revision).get(&key).map(|(at, _)| *at);
    let expected = match guess {
        Guess::Absent => None,
        Guess::Current => current,
        Guess::Stale => Some(current.unwrap_or(model.revision) + 100),
    };
    let payload = model.revision;
    let change = if put {
        Change::Put(json!({"metadata": {"name": key.name()}, "payload": payload}))
    } else {
        Change::Delete
    };
    let result = block_on(store.write(Write {
        key: key.clone(),
        expected,
        change,
    }));
    if expected == current && (put || current.is_some()) {
        let object = result.unwrap();
        assert_eq!(object.revision, model.revision + 1);
        assert_eq!(
            object.value()["metadata"]["resourceVersion"],
            object.revision.to_string()
        );
        model.revision += 1;
        model
            .log
            .push((model.revision, key, put.then_some(payload)));
    } else {
        match result.unwrap_err() {
            WriteError::Conflict { current: found, .. } => assert_eq!(found, current),
            other => panic!("expected a conflict, got {other}"),
        }
    }
}

fn check(store: &Store, model: &Model) {
    assert_eq!(store.revision(), model.revision);
    let mut scopes = vec![Scope::Everything];
    for resource in RESOURCES {
        scopes.push(Scope::Resource(resource.into()));
        scopes.push(Scope::Namespace(resource.into(), "a".into()));
    }
    for scope in &scopes {
        for revision in 0..=model.revision {
            check_list(store, model, scope, revision);
            check_watch(store, model, scope, revision);
        }
        // The present is always there.
        assert!(store.list(scope, None, None, usize::MAX).is_ok());
        assert!(
            store
                .watch(scope.clone(), Start::After(model.revision))
                .is_ok()
        );
    }
}

fn check_list(store: &Store, model: &Model, scope: &Scope, revision: Revision) {
    let Ok(page) = store.list(scope, Some(revision), None, usize::MAX) else {
        return;
    };
    let found: Vec<(Key, Version)> = page
        .items
        .iter()
        .map(|object| (object.key.clone(), (object.revision, payload(object))))
        .collect();
    let wanted: Vec<(Key, Version)> = model
        .at(revision)
        .into_iter()
        .filter(|(key, _)| scope.contains(key))
        .collect();
    assert_eq!(found, wanted, "{scope:?} at {revision}");
    // The same in pages of two.
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .list(scope, Some(revision), after.as_ref(), 2)
            .unwrap();
        paged.extend(page.items.iter().map(|object| object.key.clone()));
        assert_eq!(page.remaining, wanted.len() - paged.len());
        if page.remaining == 0 {
            break;
        }
        after = paged.last().cloned();
    }
    assert_eq!(paged.len(), wanted.len());
}

fn check_watch(store: &Store, model: &Model, scope: &Scope, revision: Revision) {
    let Ok(mut watcher) = store.watch(scope.clone(), Start::After(revision)) else {
        return;
    };
    let found: Vec<(Revision, Key, Option<u64>)> = watcher
        .advance()
        .unwrap()
        .iter()
        .map(|event| {
            let before = model.at(event.revision() - 1);
            let previous = event.previous.as_ref().map(|p| (p.revision, payload(p)));
            assert_eq!(previous, before.get(&event.object.key).copied());
            assert_eq!(event.kind == EventKind::Added, previous.is_none());
            let alive = event.kind != EventKind::Deleted;
            (
                event.revision(),
                event.object.key.clone(),
                alive.then(|| payload(&event.object)),
            )
        })
        .collect();
    let wanted: Vec<_> = model
        .log
        .iter()
        .filter(|(at, key, _)| *at > revision && scope.contains(key))
        .cloned()
        .collect();
    assert_eq!(found, wanted, "{scope:?} after {revision}");
    assert_eq!(watcher.revision(), model.revision);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_as_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let mut store = Some(open(&path));
        let mut model = Model::default();
        for step in steps {
            let open_store = store.as_ref().unwrap();
            match step {
                Step::Put { object, guess } => write(open_store, &mut model, object, guess, true),
                Step::Delete { object, guess } => write(open_store, &mut model, object, guess, false),
                Step::Reopen => {
                    check(open_store, &model);
                    drop(store.take());
                    store = Some(open(&path));
                }
            }
        }
        check(store.as_ref().unwrap(), &model);
        drop(store);
        check(&open(&path), &model);
    }
}

fn put(store: &Store, object: usize, expected: Option<Revision>) -> Arc<Object> {
    let value = json!({"metadata": {}, "payload": 0});
    let write = Write {
        key: key(object),
        expected,
        change: Change::Put(value),
    };
    block_on(store.write(write)).unwrap()
}

#[test]
fn old_revisions_expire_but_quiet_resources_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    // Object 1 is of another resource than the even ones.
    let quiet = put(&store, 1, None).revision;
    let mut last = put(&store, 0, None).revision;
    let early = last;
    for _ in 0..30 {
        last = put(&store, 0, Some(last)).revision;
    }
    let expired = store
        .watch(Scope::Resource(RESOURCES[0].into()), Start::After(early))
        .unwrap_err();
    assert!(
        expired
            .to_string()
            .starts_with("too old resource version: 2 (")
    );
    let quiet_scope = Scope::Resource(RESOURCES[1].into());
    assert!(store.watch(quiet_scope, Start::After(quiet)).is_ok());
}

#[test]
fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(open(&path));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_store_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let refused = Store::open(&path, SMALL).unwrap_err();
    assert!(
        refused.to_string().contains("in use by another process"),
        "{refused}"
    );
    drop(store);
    open(&path);
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    std::fs::write(
        &path,
        "not a database, but long enough to look at".repeat(100),
    )
    .unwrap();
    let refused = Store::open(&path, SMALL).unwrap_err();
    assert!(matches!(refused, OpenError::Storage { .. }), "{refused}");
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_watchers_see_all_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Arc::new(Store::open(&path, Retention::default()).unwrap());
    let mut watcher = store.watch(Scope::Everything, Start::Now).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            for index in 0..20 {
                let write = Write {
                    key: Key::new("/maps", "w", &format!("{writer}-{index}")),
                    expected: None,
                    change: Change::Put(json!({"metadata": {}})),
                };
                store.write(write).await.unwrap();
            }
        });
    }
    let mut seen = Vec::new();
    while seen.len() < 16 * 20 {
        let events = watcher.next().await.unwrap();
        seen.extend(events.iter().map(|event| event.revision()));
    }
    assert_eq!(seen, (1..=320).collect::<Vec<Revision>>());
    while let Some(result) = writers.join_next().await {
        result.unwrap();
    }
}

#[test]
fn a_page_after_a_key_of_elsewhere_stays_in_its_scope() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    for object in 0..8 {
        put(&store, object, None);
    }
    let inside = |scope: &Scope| store.list(scope, None, None, usize::MAX).unwrap().items;
    let all = inside(&Scope::Everything);
    for resource in RESOURCES {
        let resource: Arc<str> = resource.into();
        for scope in [
            Scope::Resource(resource.clone()),
            Scope::Namespace(resource.clone(), "a".into()),
        ] {
            let elsewhere = all.iter().filter(|object| !scope.contains(&object.key));
            let here = inside(&scope);
            for object in elsewhere {
                let page = store.list(&scope, None, Some(&object.key), 100).unwrap();
                let expected = match object.key < here[0].key {
                    true => here.len(),
                    false => 0,
                };
                assert_eq!(page.items.len(), expected, "{scope:?} after {}", object.key);
            }
        }
    }
}
