//! What every host backend must do, whatever drives it.

#![allow(dead_code, clippy::unwrap_used)]

use agent::os::{Deployment, Deployments, KernelArguments, Os, PackageChanges, Role};
use oci::Digest;

/// A host to try a backend on.
pub(crate) trait Subject {
    /// The backend, as an agent that was just started has it.
    fn os(&self) -> Box<dyn Os>;
    /// Puts an image where the host can get it; equal names are equal images.
    fn publish(&self, name: &str) -> Published;
    /// Brings it onto the disk.
    fn bring(&self, image: &Published) -> Result<(), agent::os::OsError>;
    /// Boots what is next, as far as the host can.
    fn boot(&self);
    /// Kernel arguments of the next boot.
    fn next_arguments(&self) -> Vec<String>;
}

pub(crate) struct Published {
    pub(crate) digest: Digest,
    pub(crate) pull_spec: String,
}

pub(crate) fn arguments(remove: &[&str], add: &[&str]) -> KernelArguments {
    KernelArguments {
        remove: remove.iter().map(ToString::to_string).collect(),
        add: add.iter().map(ToString::to_string).collect(),
    }
}

fn next(deployments: &Deployments) -> &Deployment {
    deployments.0.first().unwrap()
}

fn to_come(deployments: &Deployments) -> usize {
    let roles = deployments.0.iter().map(|d| d.role);
    roles
        .filter(|role| matches!(role, Role::Pending | Role::Staged))
        .count()
}

/// Goes to an image, with kernel arguments.
pub(crate) fn go(
    subject: &impl Subject,
    image: &Published,
    changes: &KernelArguments,
) -> Result<Deployment, agent::os::OsError> {
    go_with(subject, image, changes, &PackageChanges::default())
}

/// Goes to an image, with packages on top of it too.
pub(crate) fn go_with(
    subject: &impl Subject,
    image: &Published,
    changes: &KernelArguments,
    packages: &PackageChanges,
) -> Result<Deployment, agent::os::OsError> {
    subject.bring(image)?;
    let from = Some(image.pull_spec.as_str());
    subject.os().deploy(&image.digest, from, changes, packages)
}

/// Everything twice: what is there already is success, and nothing is there twice.
pub(crate) fn doing_it_again_is_success(subject: &impl Subject) {
    let image = subject.publish("second");
    let changes = arguments(&["quiet", "absent"], &["rw", "audit=0"]);
    for _ in 0..2 {
        let made = go(subject, &image, &changes).unwrap();
        assert_eq!(made.image, Some(image.digest));
        assert!(matches!(made.role, Role::Pending | Role::Staged));
        let seen = subject.os().status().unwrap();
        assert_eq!(next(&seen), &made);
        assert_eq!(to_come(&seen), 1, "{seen:?}");
        assert_eq!(subject.next_arguments(), ["rw", "audit=0"]);
    }
    assert!(subject.os().has(&image.digest).unwrap());
    subject.boot();
    // The same image with other arguments is a deployment of its own.
    let made = go(subject, &image, &arguments(&["audit=0"], &["debug"])).unwrap();
    assert_eq!(made.image, Some(image.digest));
    assert_eq!(subject.next_arguments(), ["rw", "debug"]);
}

/// Another image takes the place of one that was to come.
pub(crate) fn the_last_one_counts(subject: &impl Subject) {
    let (second, third) = (subject.publish("second"), subject.publish("third"));
    go(subject, &second, &KernelArguments::default()).unwrap();
    go(subject, &third, &KernelArguments::default()).unwrap();
    let seen = subject.os().status().unwrap();
    assert_eq!(next(&seen).image, Some(third.digest));
    assert_eq!(to_come(&seen), 1, "{seen:?}");
    // And the same image with other arguments.
    go(subject, &third, &arguments(&["quiet"], &["audit=0"])).unwrap();
    go(subject, &third, &arguments(&["audit=0"], &["quiet"])).unwrap();
    let mut found = subject.next_arguments();
    found.sort();
    assert_eq!(found, ["quiet", "rw"]);
}

/// Going back, and going back once more, which is not going forth.
pub(crate) fn back_is_back(subject: &impl Subject, before: Digest) {
    let second = subject.publish("second");
    go(subject, &second, &KernelArguments::default()).unwrap();
    subject.boot();
    for _ in 0..2 {
        subject.os().rollback().unwrap();
        let seen = subject.os().status().unwrap();
        assert_eq!(next(&seen).image, Some(before));
        if seen.booted().is_none() {
            // Nobody can tell a sysroot that is not booted from one that was put in order.
            return;
        }
    }
}

/// What was to come goes again, with all that it would have changed; what is not to come stays.
pub(crate) fn what_is_not_wanted_any_more_goes(subject: &impl Subject, before: Digest) {
    let second = subject.publish("second");
    let was = subject.os().status().unwrap();
    let made = go(subject, &second, &arguments(&["quiet"], &["audit=0"])).unwrap();
    for _ in 0..2 {
        subject.os().discard(&made.id).unwrap();
        let seen = subject.os().status().unwrap();
        assert_eq!((next(&seen).image, seen.ids()), (Some(before), was.ids()));
    }
    if let Some(booted) = was.booted() {
        subject.os().discard(&booted.id).unwrap();
    }
    assert_eq!(subject.os().status().unwrap().ids(), was.ids());
    // The way there is open again.
    let again = go(subject, &second, &KernelArguments::default()).unwrap();
    assert_eq!(again.image, Some(second.digest));
    assert!(!subject.next_arguments().contains(&"audit=0".to_owned()));
}

/// Only what nobody needs is removed.
pub(crate) fn clean_keeps_what_is_needed(subject: &impl Subject, before: Digest) {
    let (second, third, fourth) = (
        subject.publish("second"),
        subject.publish("third"),
        subject.publish("fourth"),
    );
    go(subject, &second, &KernelArguments::default()).unwrap();
    subject.bring(&third).unwrap();
    subject.bring(&fourth).unwrap();
    let os = subject.os();
    for _ in 0..2 {
        os.cleanup(&[third.digest]).unwrap();
        for needed in [before, second.digest, third.digest] {
            assert!(os.has(&needed).unwrap());
        }
        assert!(!os.has(&fourth.digest).unwrap());
    }
    assert_eq!(next(&os.status().unwrap()).image, Some(second.digest));
}
