#![allow(clippy::unwrap_used)]
use oci::Digest;

use super::*;
use crate::os::DeploymentId;
use crate::root::Attributes;

mod released;

fn state() -> (tempfile::TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
    (dir, state)
}

fn id(serial: u32) -> DeploymentId {
    DeploymentId {
        checksum: "ab".repeat(32),
        serial,
    }
}

fn record(config: &str) -> Record {
    Record {
        config: config.to_owned(),
        image: None,
        values: Default::default(),
        verified: None,
        replaced: None,
    }
}

#[test]
fn the_journal_survives_until_its_step_is_finished() {
    let (_guard, state) = state();
    let journal = Journal::Deploy {
        config: "c".into(),
        image: None,
        from: Some("b".into()),
        digest: Digest::of(b"image"),
        before: vec![id(0), id(1)],
    };
    assert_eq!(state.journal().unwrap(), None);
    state.begin(&journal).unwrap();
    assert_eq!(state.journal().unwrap(), Some(journal));
    state.finish().unwrap();
    state.finish().unwrap();
    assert_eq!(state.journal().unwrap(), None);
}

#[test]
fn what_nothing_refers_to_is_collected() {
    let (_guard, state) = state();
    for name in ["a", "b", "shared", "half", "wanted", "old"] {
        state
            .keep_config(name, &MachineConfigSpec::default())
            .unwrap();
    }
    state.set_record(&id(0), &record("a")).unwrap();
    state.set_record(&id(1), &record("old")).unwrap();
    let shared = Shared {
        config: Some("shared".into()),
        towards: Some("b".into()),
        values: Default::default(),
    };
    state.set_shared(&shared).unwrap();
    state
        .begin(&Journal::Apply {
            config: "half".into(),
            image: None,
            boot: String::new(),
            units: Vec::new(),
        })
        .unwrap();
    state.collect(&[id(0)], &["wanted"]).unwrap();
    let kept = |name: &str| state.config(name).unwrap().is_some();
    assert_eq!(
        ["a", "b", "shared", "half", "wanted", "old"].map(kept),
        [true, true, true, true, true, false]
    );
    assert_eq!(state.record(&id(1)).unwrap(), None);
}

#[test]
fn contents_stay_as_long_as_the_list_names_them() {
    let (_guard, state) = state();
    let content = state.keep_content(b"by hand").unwrap();
    let mut originals = Originals::default();
    let original = Original::File {
        content,
        access: mine(0o644),
        attributes: Attributes::default(),
    };
    originals.paths.insert("/etc/motd".into(), original);
    state.set_originals(&originals).unwrap();
    assert_eq!(state.originals().unwrap(), originals);
    assert_eq!(state.content(&content).unwrap().unwrap(), b"by hand");
    state.set_originals(&Originals::default()).unwrap();
    assert_eq!(state.content(&content).unwrap(), None);
}

#[test]
fn what_a_killed_run_had_begun_is_swept_up() {
    let (_guard, state) = state();
    state.set_record(&id(0), &record("a")).unwrap();
    for place in ["", "deployments"] {
        std::fs::write(state.path().join(place).join(".caprock-0123"), "half").unwrap();
    }
    state.sweep().unwrap();
    let names = |dir: &Utf8Path| dir.read_dir_utf8().unwrap().count();
    assert_eq!(names(state.path()), 1);
    assert_eq!(names(&state.path().join("deployments")), 1);
}

#[test]
fn damage_is_named() {
    let (_guard, state) = state();
    std::fs::write(state.path().join("journal.json"), "{").unwrap();
    let error = state.journal().unwrap_err().to_string();
    assert_eq!(
        error,
        "`/journal.json` in the state directory is damaged, or written by a newer agent; run that agent again, or else \
         remove it"
    );
}
