//! Reads what `bootc status --format=json` prints: the `BootcHost` object of `org.containers.bootc/v1`.

use oci::Digest;
use serde::Deserialize;

use super::super::{Deployment, DeploymentId, Deployments, OsError, Role, named};

/// What bootc says of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::os) struct Status {
    pub(in crate::os) deployments: Deployments,
    /// Whether bootc can update this host at all.
    pub(in crate::os) compatible: bool,
    /// Whether the next boot goes back.
    pub(super) rollback_queued: bool,
    /// Whether the staged deployment waits for a word before shutdown may make it.
    pub(super) download_only: bool,
    /// Whether the staged deployment starts without a new kernel; without one, whether bootc knows of such a thing.
    pub(super) soft_reboot: bool,
}

#[derive(Deserialize)]
struct Host {
    kind: String,
    #[serde(default)]
    status: HostStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HostStatus {
    staged: Option<Entry>,
    booted: Option<Entry>,
    rollback: Option<Entry>,
    other_deployments: Vec<Entry>,
    rollback_queued: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    image: Option<ImageStatus>,
    incompatible: bool,
    #[serde(default)]
    download_only: bool,
    /// Absent in versions that cannot.
    soft_reboot_capable: Option<bool>,
    ostree: Option<OstreeEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageStatus {
    image: ImageReference,
    image_digest: String,
}

#[derive(Deserialize)]
struct ImageReference {
    image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OstreeEntry {
    stateroot: String,
    checksum: String,
    deploy_serial: u32,
}

impl Status {
    /// Understands the text.
    pub(in crate::os) fn parse(text: &str) -> Result<Status, OsError> {
        let host: Host = serde_json::from_str(text).map_err(|error| {
            OsError::Unexpected(format!(
                "a status of bootc that is not of `org.containers.bootc/v1`: {error}"
            ))
        })?;
        if host.kind != "BootcHost" {
            return Err(OsError::Unexpected(format!("`kind: {}`", host.kind)));
        }
        let status = host.status;
        let compatible = status.kind.as_deref() == Some("bootcHost")
            && status
                .booted
                .as_ref()
                .is_some_and(|booted| !booted.incompatible && booted.ostree.is_some());
        let staged = status.staged.as_ref();
        let mut found = Status {
            deployments: Deployments::default(),
            compatible,
            rollback_queued: status.rollback_queued,
            download_only: staged.is_some_and(|staged| staged.download_only),
            soft_reboot: match (staged, &status.booted) {
                (Some(staged), _) => staged.soft_reboot_capable == Some(true),
                (None, Some(booted)) => booted.soft_reboot_capable.is_some(),
                (None, None) => false,
            },
        };
        // What goes back becomes the next boot's when that is queued.
        let back = match status.rollback_queued {
            true => Role::Pending,
            false => Role::Rollback,
        };
        let mut order = vec![
            (Role::Staged, status.staged),
            (Role::Booted, status.booted),
            (back, status.rollback),
        ];
        if status.rollback_queued {
            order.rotate_right(1);
        }
        let others = status.other_deployments.into_iter();
        order.extend(others.map(|entry| (Role::Other, Some(entry))));
        let entries = order.into_iter();
        found.deployments.0 = entries
            .filter_map(|(role, entry)| entry?.deployment(role))
            .collect();
        Ok(found)
    }

    /// Whether the staged deployment is of an image.
    pub(super) fn has_staged(&self, image: &Digest) -> bool {
        let mut staged = self.deployments.0.iter().filter(|d| d.role == Role::Staged);
        staged.any(|staged| staged.is_of(image))
    }
}

impl Entry {
    /// None for what is not in ostree.
    fn deployment(self, role: Role) -> Option<Deployment> {
        let ostree = self.ostree?;
        let image = self.image.as_ref();
        let manifest = image.and_then(|image| image.image_digest.parse().ok());
        Some(Deployment {
            id: DeploymentId {
                checksum: ostree.checksum,
                serial: ostree.deploy_serial,
            },
            os: ostree.stateroot,
            role,
            image: manifest,
            named: named(image.map(|image| image.image.image.as_str()), manifest),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::os::shown;

    fn seen(fixture: &str) -> String {
        let status = Status::parse(fixture).unwrap();
        let notes = [
            (status.compatible, "compatible"),
            (status.rollback_queued, "rollback queued"),
            (status.download_only, "download only"),
            (status.soft_reboot, "soft reboot"),
        ];
        let notes = notes
            .iter()
            .filter(|(said, _)| *said)
            .map(|(_, note)| *note);
        let notes: Vec<&str> = notes.collect();
        format!("{}{}", shown(&status.deployments), notes.join(", "))
    }

    #[test]
    fn booted() {
        insta::assert_snapshot!(seen(include_str!("fixtures/booted.json")));
    }

    #[test]
    fn staged_over_booted_with_rollback() {
        insta::assert_snapshot!(seen(include_str!("fixtures/staged.json")));
    }

    #[test]
    fn staged_equals_desired_and_waits_for_a_word() {
        insta::assert_snapshot!(seen(include_str!("fixtures/staged-download-only.json")));
    }

    #[test]
    fn rollback_queued() {
        insta::assert_snapshot!(seen(include_str!("fixtures/rollback-queued.json")));
    }

    #[test]
    fn asked_for_by_the_list_of_its_architectures() {
        let printed = include_str!("fixtures/named-by-its-list.json");
        assert!(
            seen(printed).contains("Booted aaaaaa of dddddd"),
            "{}",
            seen(printed)
        );
    }

    #[test]
    fn pinned() {
        insta::assert_snapshot!(seen(include_str!("fixtures/pinned.json")));
    }

    #[test]
    fn layered_packages_make_it_incompatible() {
        insta::assert_snapshot!(seen(include_str!("fixtures/incompatible.json")));
    }

    #[test]
    fn not_a_bootc_host() {
        insta::assert_snapshot!(seen(include_str!("fixtures/not-bootc.json")));
    }

    #[test]
    fn composefs_host() {
        insta::assert_snapshot!(seen(include_str!("fixtures/composefs.json")));
    }

    #[test]
    fn broken_output_is_an_error_that_says_so() {
        let error = Status::parse(include_str!("fixtures/broken.json")).unwrap_err();
        assert!(
            error.to_string().contains("org.containers.bootc/v1"),
            "{error}"
        );
        assert!(Status::parse(r#"{"kind": "Other"}"#).is_err());
    }
}
